"""Bugs that a store, a disk or a ledger could have: the oracle must see each of them.

A bug is a context manager. Those of the store concern the machine that loses power, not the one
that is started afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec

from powercut import load
from powercut.disk import Disk
from powercut.oracle import Harm
from powercut.vfs import RecordedFile
from traghetto.ledger.book import Book, Recovery
from traghetto.storage import sqlite
from traghetto.storage.batch import Batch
from traghetto.storage.facts import Entry, EntryKind, Fact
from traghetto.storage.sqlite import FILE_NAME, SqliteStore

Bug = Callable[[], AbstractContextManager[Any]]


class _Normal(SqliteStore):
    def __init__(self, data_dir: Path, **options: Any) -> None:
        super().__init__(data_dir, durability="normal", **options)


class _Off(SqliteStore):
    def __init__(self, data_dir: Path, **options: Any) -> None:
        super().__init__(data_dir, **options)
        self._connection.pragma("synchronous", "OFF")


class _Hasty(SqliteStore):
    def _write_batches(self) -> None:
        while self._wake.get():
            with self._mutex:
                facts, waiting = self._facts, self._waiting
                self._facts, self._waiting = [], None
            assert waiting is not None, "the writer is woken once per batch"
            sqlite._call(waiting.get_loop(), waiting.resolve, None)
            self._commit(facts)
            self._trim_log()


class _Halving(SqliteStore):
    def _commit(self, facts: list[Fact]) -> None:
        half = len(facts) // 2
        super()._commit(facts[:half])
        super()._commit(facts[half:])


def _with_store(store: type[SqliteStore]) -> AbstractContextManager[Any]:
    return mock.patch.object(load, "SqliteStore", store)


def durability_normal() -> AbstractContextManager[Any]:
    """The setting that is not the default: commits are synced with the next checkpoint."""
    return _with_store(_Normal)


def synchronous_off() -> AbstractContextManager[Any]:
    """Nothing is ever synced."""
    return _with_store(_Off)


def acknowledge_before_commit() -> AbstractContextManager[Any]:
    """The writer tells its waiters first and commits then."""
    return _with_store(_Hasty)


def commit_in_two_halves() -> AbstractContextManager[Any]:
    """A batch is two transactions."""
    return _with_store(_Halving)


def database_not_synced() -> AbstractContextManager[Any]:
    """The log is used anew before what it held is on the disk elsewhere."""
    good = RecordedFile.xSync

    def sync(file: RecordedFile, flags: int) -> None:
        if file._file != file._disk.open(FILE_NAME):
            good(file, flags)

    return mock.patch.object(RecordedFile, "xSync", sync)


def directory_not_synced() -> AbstractContextManager[Any]:
    """What is in a new log is on the disk; that there is such a file is not."""
    return mock.patch.object(Disk, "sync_directory", return_value=None)


def write_credits_twice() -> AbstractContextManager[Any]:
    """A movement is written down a second time, in perfect balance."""
    good = Batch._take_entry

    def take_entry(batch: Batch, entry: Entry) -> None:
        good(batch, entry)
        if entry.kind is EntryKind.CREDIT:
            good(batch, msgspec.structs.replace(entry, line="again"))

    return mock.patch.object(Batch, "_take_entry", take_entry)


def forget_holds_of_a_crash() -> AbstractContextManager[Any]:
    """The holds of a machine that lost power stay for ever."""
    return mock.patch.object(Book, "recover", return_value=Recovery(0, None))


BUGS: Final[dict[Bug, set[Harm]]] = {
    durability_normal: {Harm.LOST},
    synchronous_off: {Harm.LOST, Harm.CORRUPT},
    acknowledge_before_commit: {Harm.LOST},
    commit_in_two_halves: {Harm.ALTERED},
    database_not_synced: {Harm.LOST, Harm.CORRUPT},
    directory_not_synced: {Harm.LOST},
    write_credits_twice: {Harm.ALTERED},
    forget_holds_of_a_crash: {Harm.HELD},
}
"""What each of them must show."""
