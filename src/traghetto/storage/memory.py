"""The books in memory: the store of tests, and the simulated disk of the simulation.

`MemoryDisk` is what survives a crash, `MemoryStore` one process's way of writing to it. Commits
take time through the event loop (`call_later`), so a simulated loop decides when they happen.

Invariant: it refuses what the SQLite schema refuses (unknown accounts and keys, repeated entries
and usages), so that a test against memory proves something about the real books.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from traghetto.money import Currency
from traghetto.storage.connector import Durable, StoreBroken, tell_nobody
from traghetto.storage.facts import (
    DIEM_GRANT,
    FUNDS,
    AccountSaved,
    AllocationSet,
    AnswerKept,
    AnswersExpired,
    BalanceRow,
    Entry,
    EntryKind,
    Fact,
    GrantedRow,
    HoldClosed,
    HoldExtended,
    HoldOpened,
    KeptBytes,
    KeySaved,
    KeySpendRow,
    KeyUsed,
    PepperProved,
    StoredState,
    UsageRecorded,
)

_NS_PER_HOUR: Final = 3600 * 1_000_000_000
_Cell = tuple[str, Currency, str]


class MemoryDisk:
    """Committed facts, as tables; also a `connector.Snapshot` of themselves."""

    def __init__(self) -> None:
        self._accounts: dict[str, AccountSaved] = {}
        self._keys: dict[str, KeySaved] = {}
        self._allocations: dict[str, AllocationSet] = {}
        self._entries: dict[tuple[str, EntryKind, str], Entry] = {}
        self._usages: dict[str, UsageRecorded] = {}
        self._balances: defaultdict[_Cell, int] = defaultdict(int)
        self._key_spends: defaultdict[_Cell, int] = defaultdict(int)
        self._holds: dict[str, HoldOpened] = {}
        self._key_uses: dict[str, KeyUsed] = {}
        self._answers: dict[bytes, AnswerKept] = {}
        self._pepper_proof: bytes | None = None

    def write(self, facts: Iterable[Fact]) -> None:
        """Commit `facts`.

        Raises StoreBroken for what the schema of the books refuses. That is a defect of whoever
        wrote it, and unlike SQLite the disk then keeps the facts before the refused one.
        """
        for fact in facts:
            match fact:
                case Entry():
                    self._write_entry(fact)
                case UsageRecorded():
                    self._require(fact.request_id not in self._usages, "a second usage record")
                    self._require(fact.key_id in self._keys, "a key that does not exist")
                    self._usages[fact.request_id] = fact
                case HoldOpened():
                    self._require(fact.key_id in self._keys, "a key that does not exist")
                    self._require(fact.request_id not in self._holds, "a second hold")
                    self._holds[fact.request_id] = fact
                case HoldExtended():
                    self._extend(fact)
                case HoldClosed():
                    self._holds.pop(fact.request_id, None)
                case AllocationSet():
                    self._require(fact.account_id in self._accounts, "an unknown account")
                    self._allocations[fact.account_id] = fact
                case AccountSaved():
                    self._accounts[fact.id] = fact
                case KeySaved():
                    self._require(fact.account_id in self._accounts, "an unknown account")
                    self._keys[fact.id] = fact
                case KeyUsed():
                    self._require(fact.key_id in self._keys, "a key that does not exist")
                    self._key_uses[fact.key_id] = fact
                case AnswerKept():
                    self._require(fact.key_id in self._keys, "a key that does not exist")
                    self._answers[fact.handle] = fact
                case AnswersExpired():
                    self._forget_answers(fact)
                case PepperProved():
                    self._pepper_proof = fact.proof

    def _forget_answers(self, fact: AnswersExpired) -> None:
        expired = [a for a in self._answers.values() if a.expires_ns <= fact.now_ns]
        for answer in sorted(expired, key=lambda a: a.expires_ns)[: fact.rows_max]:
            del self._answers[answer.handle]

    def load(self, day: str) -> StoredState:
        first_of_month = day[:-2] + "01"
        lifetimes: defaultdict[tuple[str, Currency], int] = defaultdict(int)
        for (key_id, currency, _), spent in self._key_spends.items():
            lifetimes[key_id, currency] += spent
        return StoredState(
            day=day,
            accounts=tuple(self._accounts.values()),
            keys=tuple(self._keys.values()),
            allocations=tuple(self._allocations.values()),
            balances=tuple(row for row in self.balances() if not row.window or row.window >= day),
            grants=tuple(row for row in self._grants() if row.window >= day),
            key_spends=tuple(row for row in self.key_spends() if row.window >= first_of_month),
            key_lifetimes=tuple(KeySpendRow(*key, "", spent) for key, spent in lifetimes.items()),
            holds=tuple(self._holds.values()),
            key_uses=tuple(self._key_uses.values()),
            kept_bytes=tuple(self._kept_bytes()),
            pepper_proof=self._pepper_proof,
        )

    def answer(self, handle: bytes) -> AnswerKept | None:
        """The answer that was kept under `handle`, expired ones included."""
        return self._answers.get(handle)

    async def request_entries(self, request_id: str) -> list[Entry]:
        """The charges and refunds of one request (as `reports.Reports` has it)."""
        kinds = (EntryKind.CHARGE, EntryKind.REFUND)
        return [
            entry
            for entry in self._entries.values()
            if entry.request_id == request_id and entry.kind in kinds
        ]

    def accounts(self) -> Iterable[AccountSaved]:
        return self._accounts.values()

    def allocations(self) -> Iterable[AllocationSet]:
        return self._allocations.values()

    def entries(self) -> Iterable[Entry]:
        return self._entries.values()

    def usages(self) -> Iterable[UsageRecorded]:
        return self._usages.values()

    def balances(self) -> Iterable[BalanceRow]:
        return [BalanceRow(*cell, amount) for cell, amount in self._balances.items()]

    def key_spends(self) -> Iterable[KeySpendRow]:
        return [KeySpendRow(*cell, spent) for cell, spent in self._key_spends.items()]

    def holds(self) -> Iterable[HoldOpened]:
        return self._holds.values()

    def _grants(self) -> list[GrantedRow]:
        granted: defaultdict[tuple[str, str], int] = defaultdict(int)
        for entry in self._entries.values():
            if entry.debit == DIEM_GRANT:
                granted[entry.account_id, entry.window] += entry.amount
        return [GrantedRow(*window, amount) for window, amount in granted.items()]

    def _kept_bytes(self) -> list[KeptBytes]:
        sizes: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
        for answer in self._answers.values():
            account_id = self._keys[answer.key_id].account_id
            hour = answer.expires_ns // _NS_PER_HOUR
            sizes[hour, account_id].append(len(answer.sealed or b""))
        return [KeptBytes(*name, sum(found), len(found)) for name, found in sizes.items()]

    def _write_entry(self, entry: Entry) -> None:
        identity = (entry.request_id, entry.kind, entry.line)
        self._require(identity not in self._entries, "a repeated entry")
        self._require(entry.account_id in self._accounts, "an unknown account")
        self._require(entry.amount > 0, "an entry without an amount")
        self._require((entry.debit == FUNDS) != (entry.credit == FUNDS), "an entry beside funds")
        self._entries[identity] = entry
        self._balances[entry.account_id, entry.currency, entry.window] += entry.into_funds
        if entry.key_id is not None:
            self._require(entry.key_id in self._keys, "a key that does not exist")
            spent = (entry.key_id, entry.currency.counted_as, entry.key_window)
            self._key_spends[spent] += entry.key_spending
            self._require(self._key_spends[spent] >= 0, "a key that has spent less than nothing")

    def _extend(self, extension: HoldExtended) -> None:
        hold = self._holds.get(extension.request_id)
        if hold is not None:
            extended = msgspec.structs.replace(hold, amount=extension.amount)
            self._holds[hold.request_id] = extended

    @staticmethod
    def _require(condition: bool, otherwise: str) -> None:
        if not condition:
            raise StoreBroken(f"the books refuse {otherwise}")


def instant() -> float:
    """A commit that takes one turn of the event loop."""
    return 0.0


class MemoryStore:
    """Writes to a `MemoryDisk` in groups, one commit at a time; see `connector.Store`."""

    def __init__(
        self,
        disk: MemoryDisk | None = None,
        *,
        commit_seconds: Callable[[], float] = instant,
        commit_fails: Callable[[], bool] = bool,
    ) -> None:
        """`commit_seconds` is asked for the duration of each commit, `commit_fails` whether it
        fails at its end (by default never).
        """
        self.disk: Final = disk if disk is not None else MemoryDisk()
        self.on_broken: Callable[[str], None] = tell_nobody
        self._commit_seconds = commit_seconds
        self._commit_fails = commit_fails
        self._facts: list[Fact] = []
        self._waiting: Durable | None = None
        self._committing: tuple[list[Fact], Durable] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: StoreBroken | None = None

    @property
    def healthy(self) -> bool:
        return self._failure is None

    def submit(self, facts: Sequence[Fact]) -> Durable:
        waiting = self._waiting
        if waiting is None:
            waiting = Durable(loop=asyncio.get_running_loop())
            if self._failure is not None:
                waiting.resolve(self._failure)
                return waiting
            self._waiting = waiting
        self._facts.extend(facts)
        if self._committing is None:
            self._start_commit()
        return waiting

    def load(self, day: str) -> StoredState:
        return self.disk.load(day)

    async def find_answer(self, handle: bytes) -> AnswerKept | None:
        return self.disk.answer(handle)

    def crash(self, *, commit_survives: bool = False) -> None:
        """The process dies: what is not on the disk is lost, and no waiter ever hears of it.

        `commit_survives` says that the commit under way had reached the disk.
        """
        if commit_survives and self._committing is not None:
            self.disk.write(self._committing[0])
        if self._timer is not None:
            self._timer.cancel()
        self._failure = StoreBroken("the process has crashed")
        self._facts, self._waiting, self._committing = [], None, None

    async def aclose(self) -> None:
        while self._committing is not None:
            _, durable = self._committing
            await asyncio.wait([durable])
        self._failure = self._failure or StoreBroken("the store is closed")

    def _start_commit(self) -> None:
        assert self._waiting is not None, "a commit has somebody waiting for it"
        self._committing = (self._facts, self._waiting)
        self._facts, self._waiting = [], None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._commit_seconds(), self._end_commit)

    def _end_commit(self) -> None:
        assert self._committing is not None, "a commit is under way"
        facts, durable = self._committing
        self._committing = None
        try:
            if self._commit_fails():
                raise StoreBroken("commit: simulated I/O error")  # noqa: TRY301 - the simulated disk
            self.disk.write(facts)
        except StoreBroken as failure:
            self._failure = failure
            durable.resolve(failure)
            if self._waiting is not None:
                self._waiting.resolve(failure)
            self._facts, self._waiting = [], None
            asyncio.get_running_loop().call_soon(self.on_broken, str(failure))
            return
        durable.resolve(None)
        if self._waiting is not None:
            self._start_commit()
