"""Both stores behind one face, so that a test of the ledger or of a store runs on either."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from traghetto.ledger.verify import verify
from traghetto.storage.connector import Snapshot, Store
from traghetto.storage.memory import MemoryDisk, MemoryStore
from traghetto.storage.sqlite import SqliteStore, open_read_only

KINDS = ("sqlite", "memory")


class Place:
    """Somewhere to keep books: a directory or a memory disk."""

    def __init__(self, open_store: Callable[[], Store], open_snapshot: Callable[[], Snapshot]):
        self.open = open_store
        self.snapshot = open_snapshot

    def differences(self) -> list[str]:
        """What verification finds wrong, as it says it."""
        return [str(difference) for difference in verify(self.snapshot()).differences]


@contextlib.contextmanager
def open_place(kind: str, folder: Path) -> Iterator[Place]:
    """A place of one of `KINDS`; a directory is `folder`."""
    if kind == "memory":
        disk = MemoryDisk()
        yield Place(lambda: MemoryStore(disk), lambda: disk)
        return
    with contextlib.ExitStack() as snapshots:
        yield Place(
            lambda: SqliteStore(folder), lambda: snapshots.enter_context(open_read_only(folder))
        )
