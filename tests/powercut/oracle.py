"""What must hold of every image that a power cut leaves.

The books on it are opened as after any cut, with the ordinary file system, and compared with what
the machine had promised: its clients' log says what was acknowledged, and the facts of its batches,
written once more to a disk in memory, say what the books must hold to the last row.
"""

from __future__ import annotations

import asyncio
import enum
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from powercut.disk import Image
from powercut.load import Recording
from support.books import NO_LIMITS, USD, account_row, charge, key_row
from traghetto.clock import ManualClock
from traghetto.ledger.book import Book, day_window
from traghetto.ledger.verify import verify
from traghetto.storage.connector import Snapshot, StoreBroken
from traghetto.storage.facts import FUNDS, EntryKind
from traghetto.storage.memory import MemoryDisk
from traghetto.storage.sqlite import FILE_NAME, SqliteStore, open_read_only

LONG_AGO = day_window(0)
PATIENCE_SECONDS = 10.0
SHOWN_MAX = 3
"""How many of many alike a sentence names."""


class Harm(enum.Enum):
    """What a power cut must not do."""

    LOST = "acknowledged commits are missing"
    ALTERED = "the books hold what was not submitted"
    CORRUPT = "the database is corrupt"
    UNBALANCED = "the books do not verify"
    HELD = "holds are left after recovery"
    REFUSED = "new work is refused"


@dataclass
class Verdict:
    """What was found on an image."""

    acknowledged: int
    """Batches that were reported durable before the cut."""
    found: int | None = None
    """Batches that the books hold; None if they are in no state that they ever were in."""
    holds_voided: int = 0
    """By the recovery."""
    harms: list[tuple[Harm, str]] = field(default_factory=list)

    @property
    def kinds(self) -> set[Harm]:
        return {harm for harm, _ in self.harms}

    def add(self, harm: Harm, sentence: str) -> None:
        self.harms.append((harm, sentence))


class Contents(NamedTuple):
    """Everything that is in some books. The order of the journal and of usage is part of it."""

    entries: list[Any]
    usages: list[Any]
    others: frozenset[Any]

    @classmethod
    def of(cls, books: Snapshot) -> Contents:
        """Read books that are stored in whatever way."""
        state = books.load(LONG_AGO)
        rows = (
            *(state.accounts + state.keys + state.allocations + state.holds),
            *(*books.balances(), *books.key_spends()),
        )
        return cls(list(books.entries()), list(books.usages()), frozenset(rows))

    @property
    def sizes(self) -> str:
        """For people."""
        entries, usages, others = map(len, self)
        return f"{entries} entries, {usages} usages and {others} other rows"


def judge(recording: Recording, events: int, image: Image, folder: Path) -> Verdict:
    """Examine what was left when `events` were complete; `folder` is empty."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    verdict = Verdict(recording.acknowledged(events))
    try:
        asyncio.run(_restart(recording, events, folder, verdict))
        _check_database(folder, verdict)
    except Exception as failure:  # a corrupt database makes its readers trip over anything
        verdict.add(Harm.CORRUPT, f"{type(failure).__name__}: {failure}")
    return verdict


async def _restart(recording: Recording, events: int, folder: Path, verdict: Verdict) -> None:
    """What the next start of a gateway does, and a little work."""
    clock = ManualClock(recording.clock.utc_ns())
    store = SqliteStore(folder)
    try:
        with open_read_only(folder) as left:
            _compare_batches(recording, left, verdict)
            _compare_promises(recording, events, left, verdict)
            _check_balance(left, verdict)
        book = Book(store, clock, store.load(day_window(clock.utc_ns())))
        async with asyncio.timeout(PATIENCE_SECONDS):
            recovery = book.recover()
            verdict.holds_voided = recovery.holds_voided
            if recovery.durable is not None:
                await recovery.durable
            with open_read_only(folder) as recovered:
                if holds := [hold.request_id for hold in recovered.holds()]:
                    verdict.add(Harm.HELD, _some(holds))
            await _work(book, store)
    except (StoreBroken, TimeoutError) as failure:
        verdict.add(Harm.REFUSED, f"{type(failure).__name__}: {failure}")
    finally:
        await store.aclose()


async def _work(book: Book, store: SqliteStore) -> None:
    """A new account that pays for a stream."""
    store.submit((account_row("new"), key_row("k-new", "new")))
    await book.credit("new", USD, reason="after the cut")
    hold = book.reserve(
        request_id="after the cut",
        account_id="new",
        key_id="k-new",
        limits=NO_LIMITS,
        upper_bound_nano_usd=USD // 2,
    )
    await hold.durable()
    await hold.settle(charge("after the cut", 5, 7, account_id="new", key_id="k-new")).durable


def _compare_batches(recording: Recording, left: Snapshot, verdict: Verdict) -> None:
    """The books hold every batch that was acknowledged, and at most the one under way besides."""
    contents = Contents.of(left)
    acknowledged = verdict.acknowledged
    for batches in (acknowledged, acknowledged + 1, *reversed(range(acknowledged))):
        if contents == _expected(recording, batches):
            verdict.found = batches
            if batches < acknowledged:
                verdict.add(Harm.LOST, f"{acknowledged - batches} of {acknowledged} batches")
            return
    expected = _expected(recording, acknowledged)
    differing = sorted(map(str, contents.others ^ expected.others))
    verdict.add(
        Harm.ALTERED,
        f"no number of batches leads to these books, which have {contents.sizes}; "
        f"{acknowledged} lead to {expected.sizes}; different: {_some(differing)}",
    )


@lru_cache(maxsize=256)
def _expected(recording: Recording, batches: int) -> Contents:
    memory = MemoryDisk()
    memory.write(recording.facts(batches))
    return Contents.of(memory)


def _compare_promises(recording: Recording, events: int, left: Snapshot, verdict: Verdict) -> None:
    """Nothing that a client was told is missing, and nothing has another amount."""
    moved: defaultdict[str, int] = defaultdict(int)
    for entry in left.entries():
        if entry.kind is EntryKind.CHARGE:
            moved[entry.request_id] += entry.amount
        else:
            moved[entry.reason] += entry.amount if entry.credit == FUNDS else -entry.amount
    charged = {usage.request_id: usage.charged for usage in left.usages()}
    lost, altered = [], []
    for promise in recording.promises:
        subject, nano_usd = promise.subject, promise.nano_usd
        if subject not in moved and subject not in charged:
            if recording.acknowledged_at[promise.durable] <= events:
                lost.append(subject)
        elif moved[subject] != nano_usd or charged.get(subject, nano_usd) != nano_usd:
            altered.append(subject)
    if lost:
        verdict.add(Harm.LOST, f"{len(lost)} charges and movements: {_some(lost)}")
    if altered:
        verdict.add(Harm.ALTERED, f"{len(altered)} have another amount: {_some(altered)}")


def _check_balance(books: Snapshot, verdict: Verdict) -> None:
    if differences := verify(books).differences:
        verdict.add(Harm.UNBALANCED, _some(map(str, differences)))


def _check_database(folder: Path, verdict: Verdict) -> None:
    """The file as the restarted store left it: sound, in balance, with the new work in it."""
    connection = apsw.Connection(str(folder / FILE_NAME))
    try:
        for check in ("integrity_check", "foreign_key_check"):
            complaints = [str(row[0]) for row in connection.execute(f"PRAGMA {check}")]
            if complaints not in ([], ["ok"]):
                verdict.add(Harm.CORRUPT, f"{check}: {_some(complaints)}")
    finally:
        connection.close()
    with open_read_only(folder) as books:
        _check_balance(books, verdict)
        if holds := [hold.request_id for hold in books.holds()]:
            verdict.add(Harm.HELD, f"at the end: {_some(holds)}")
        if not any(usage.request_id == "after the cut" for usage in books.usages()):
            verdict.add(Harm.REFUSED, "its charge is not in the books")


def _some(names: Any) -> str:
    """The first few of many."""
    listed = list(names)
    more = len(listed) - SHOWN_MAX
    return "; ".join(listed[:SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
