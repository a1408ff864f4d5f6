"""What the rest of the product asks of a store, and the future that says "durable".

Invariants: facts become durable in the order in which they were submitted; after one failed
commit nothing is ever reported durable again (a failed fsync may have dropped the pages it failed
to write, so a retry would lie).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from traghetto.storage.facts import (
    AccountSaved,
    AllocationSet,
    AnswerKept,
    BalanceRow,
    Entry,
    Fact,
    HoldOpened,
    KeySpendRow,
    StoredState,
    UsageRecorded,
)


class StoreBroken(Exception):
    """A commit failed, so the store can no longer be trusted; the process must stop."""


class StoreUnusable(Exception):
    """The store cannot be opened; the message says what to do next."""


class Durable(asyncio.Future[None]):
    """Resolves when a batch is on disk; shared by everybody who wrote in that batch.

    Cancelling one waiter never cancels the others, so it can be awaited without `shield`.
    """

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 - the base class's signature
        """Refuse: what was submitted will be written whoever waits for it."""
        return False

    def __await__(self) -> Generator[Any, None, None]:
        if self.done():
            return super().__await__()
        waiter: asyncio.Future[None] = self.get_loop().create_future()
        self.add_done_callback(partial(_pass_on, waiter))
        return waiter.__await__()

    __iter__ = __await__

    def resolve(self, failure: StoreBroken | None) -> None:
        """End the wait; a failure nobody waits for is not reported as an unhandled error."""
        if failure is None:
            self.set_result(None)
        else:
            self.set_exception(failure)
            self.exception()


def _pass_on(waiter: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
    if waiter.done():
        return  # cancelled
    failure = ended.exception()
    if failure is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(failure)


def tell_nobody(_reason: str) -> None:
    """What a store calls when it breaks, until somebody wants to hear of it."""


class Store(Protocol):
    """A place where facts become durable. One event loop uses it."""

    on_broken: Callable[[str], None]
    """Called once, on the event loop, with a reason, when the store is no longer healthy because
    writing failed; the futures of those who waited have failed before. Whoever runs the process
    sets it, and ends the process."""

    @property
    def healthy(self) -> bool:
        """False for good after a commit failed, and after `aclose`."""
        ...

    def submit(self, facts: Sequence[Fact]) -> Durable:
        """Queue facts that become durable together; never blocks and never raises.

        The future fails with StoreBroken if their commit fails or the store is not healthy.
        """
        ...

    def load(self, day: str) -> StoredState:
        """The durable state as of the UTC day window `day` (`E:2026-11-23`); read at boot."""
        ...

    async def find_answer(self, handle: bytes) -> AnswerKept | None:
        """The answer that was kept under `handle`, if it is durable; expired ones included."""
        ...

    async def aclose(self) -> None:
        """Write what was submitted and release the store."""
        ...


class Snapshot(Protocol):
    """One consistent view of the books, for reading and for verification."""

    def load(self, day: str) -> StoredState:
        """The state a gateway would start from."""
        ...

    def accounts(self) -> Iterable[AccountSaved]: ...
    def allocations(self) -> Iterable[AllocationSet]: ...
    def entries(self) -> Iterable[Entry]: ...
    def usages(self) -> Iterable[UsageRecorded]: ...
    def balances(self) -> Iterable[BalanceRow]: ...
    def key_spends(self) -> Iterable[KeySpendRow]: ...
    def holds(self) -> Iterable[HoldOpened]: ...


class SnapshotStore:
    """A snapshot behind the Store protocol, for commands that only read.

    What the ledger would write while it answers (today's DIEM grant, say) is shown, not stored.
    """

    healthy = True
    on_broken: Callable[[str], None] = staticmethod(tell_nobody)

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def submit(self, facts: Sequence[Fact]) -> Durable:  # noqa: ARG002 - nothing is written
        done = Durable(loop=asyncio.get_running_loop())
        done.resolve(None)
        return done

    def load(self, day: str) -> StoredState:
        return self._snapshot.load(day)

    async def find_answer(self, handle: bytes) -> AnswerKept | None:  # noqa: ARG002 - none is given
        return None

    async def aclose(self) -> None:
        return None
