"""A book with one funded account, over any store, for tests that need the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from traghetto.clock import ManualClock
from traghetto.ledger.book import Basis, Book, Charge, ChargeLine, Hold, Overdraft, Usage
from traghetto.ledger.windows import day_window
from traghetto.money import LimitPeriod, SpendLimits
from traghetto.storage.connector import Store
from traghetto.storage.facts import AccountSaved, KeySaved
from traghetto.storage.memory import MemoryDisk, MemoryStore

USD = 1_000_000_000
NO_LIMITS = SpendLimits()


def account_row(account_id: str = "a") -> AccountSaved:
    return AccountSaved(
        account_id, f"name of {account_id}", False, False, False, False, "standard", (), 1
    )


def key_row(key_id: str = "k", account_id: str = "a") -> KeySaved:
    digest = key_id.encode().ljust(32, b"\0")
    return KeySaved(
        key_id, account_id, "INFERENCE", "", "abcdef", None, None, LimitPeriod.EPOCH, "ALL", None,
        False, digest, 1, False,
    )  # fmt: skip


def charge(
    request_id: str, *amounts: int, account_id: str = "a", key_id: str = "k", version: str = "v1"
) -> Charge:
    """A charge with one line per amount, named line-0, line-1, ..."""
    usage = Usage(
        request_id=request_id,
        account_id=account_id,
        key_id=key_id,
        model="m",
        prompt_tokens=10,
        completion_tokens=5,
        cached_tokens=2,
        reasoning_tokens=1,
        basis=Basis.BACKEND,
        streamed=True,
        created_ns=7,
    )
    lines = tuple(ChargeLine(f"line-{n}", 10, amount) for n, amount in enumerate(amounts))
    return Charge(lines, usage, version)


@dataclass
class Books:
    """A book, what it stands on, and shorthands for account `a` with key `k`."""

    book: Book
    store: Store
    clock: ManualClock

    def reserve(
        self,
        request_id: str,
        bound: int,
        limits: SpendLimits = NO_LIMITS,
        account_id: str = "a",
        key_id: str = "k",
    ) -> Hold:
        return self.book.reserve(
            request_id=request_id,
            account_id=account_id,
            key_id=key_id,
            limits=limits,
            upper_bound_nano_usd=bound,
        )

    def spendable(self, limits: SpendLimits = NO_LIMITS) -> tuple[dict, dict]:
        found = self.book.spendable("a", "k", limits)
        return dict(found.clamped), dict(found.unclamped)


def open_books(
    store: Store | None = None,
    *,
    clock: ManualClock | None = None,
    usd: int = 0,
    diem: int = 0,
    overdraft: Overdraft = "last",
    register: bool = True,
) -> Books:
    """Books with account `a` and key `k`; needs a running event loop."""
    store = MemoryStore(MemoryDisk()) if store is None else store
    clock = ManualClock() if clock is None else clock
    book = Book(store, clock, store.load(day_window(clock.utc_ns())), overdraft=overdraft)
    if register:
        store.submit((account_row(), key_row()))
    if usd:
        book.credit("a", usd, reason="test")
    if diem:
        book.grant_diem("a", diem)
    return Books(book, store, clock)
