"""The book against a reference model of twenty lines, over random sequences of everything."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.books import USD, Books, account_row, charge, key_row, open_books
from traghetto.clock import ManualClock
from traghetto.errors import ApiError
from traghetto.ledger.book import Hold
from traghetto.ledger.verify import verify
from traghetto.money import Currency, LimitPeriod, SpendLimits
from traghetto.storage.facts import DIEM_GRANT
from traghetto.storage.memory import MemoryDisk, MemoryStore

LIMIT = SpendLimits(usd_nano_usd=40 * USD, diem_nano_usd=10 * USD, period=LimitPeriod.MONTH)
DIEM_MAX = 3 * USD
AMOUNTS = st.integers(min_value=1, max_value=8 * USD)


class Ledger(RuleBasedStateMachine):
    """Two accounts with a key each; account b's key has limits."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.disk = MemoryDisk()
        self.clock = ManualClock()
        self.requests = 0
        self.holds: list[Hold] = []
        self.durable_charges: dict[str, int] = {}
        self.credited = dict.fromkeys(("a", "b"), 0)
        self.charged_usd = dict.fromkeys(("a", "b"), 0)
        self.open()
        self.run(self.register)

    def open(self) -> None:
        self.run(self._open)

    def _open(self) -> None:
        self.store = MemoryStore(self.disk)
        self.books: Books = open_books(self.store, clock=self.clock, register=False)
        self.books.book.recover()

    def register(self) -> None:
        self.store.submit((account_row("a"), account_row("b"), key_row("ka", "a")))
        self.store.submit((key_row("kb", "b"),))

    def run(self, step) -> None:
        """Take a step in the loop and let every commit finish."""

        async def inner() -> None:
            step()
            while self.store._committing is not None:
                await asyncio.sleep(0)

        self.loop.run_until_complete(inner())

    @rule(account=st.sampled_from("ab"), amount=AMOUNTS)
    def credit(self, account: str, amount: int) -> None:
        self.run(lambda: self.books.book.credit(account, amount, reason="model"))
        self.credited[account] += amount

    @rule(account=st.sampled_from("ab"), diem=st.sampled_from([0, USD // 10, DIEM_MAX]))
    def allocate(self, account: str, diem: int) -> None:
        self.run(lambda: self.books.book.grant_diem(account, diem))

    @rule(account=st.sampled_from("ab"), bound=AMOUNTS, streamed=st.booleans())
    def reserve(self, account: str, bound: int, streamed: bool) -> None:
        limits = LIMIT if account == "b" else SpendLimits()
        self.requests += 1

        def step() -> None:
            before = self.books.book.spendable(account, f"k{account}", limits).clamped
            try:
                taken = self.books.reserve(
                    f"r{self.requests}", bound, limits, account, f"k{account}"
                )
            except ApiError:
                assert sum(before.values()) < USD // 10
                return
            assert sum(before.values()) >= USD // 10
            currency = next(name for name, amount in before.items() if amount > 0)
            assert taken.currency is currency
            assert taken.amount_nano_usd == min(bound, before[currency])
            if streamed:
                taken.durable()
            self.holds.append(taken)

        self.run(step)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), amount=st.integers(min_value=0, max_value=10 * USD))
    def settle(self, data: st.DataObject, amount: int) -> None:
        taken = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
        usage = charge(taken.request_id, amount, account_id=taken.account_id, key_id=taken.key_id)

        def step() -> None:
            charged = taken.settle(usage).charged_nano_usd
            assert charged <= amount
            if not (taken.exclusive_fund or taken.exclusive_limit):
                assert charged == min(amount, taken.amount_nano_usd)
            self.durable_charges[taken.request_id] = charged
            if taken.currency is Currency.USD:
                self.charged_usd[taken.account_id] += charged

        self.run(step)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        taken = self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1)))
        self.run(taken.void)

    @rule(hours=st.sampled_from([-3, 1, 11, 24, 24 * 30]))
    def time_passes(self, hours: int) -> None:
        self.clock.step_utc(hours * 3600)

    @rule()
    def crash(self) -> None:
        self.store.crash()
        self.holds.clear()
        self.open()

    @invariant()
    def books_balance(self) -> None:
        assert not verify(self.disk).differences
        recorded = {row.request_id: row.charged for row in self.disk.usages()}
        assert recorded == self.durable_charges
        for account, credited in self.credited.items():
            balances = {
                row.currency: row.amount
                for row in self.disk.balances()
                if row.account_id == account and not row.window
            }
            owned = credited - self.charged_usd[account]
            assert balances.get(Currency.USD, 0) == owned
            assert self.books.book._holdings.own(account).usd.balance == owned

    @invariant()
    def a_day_is_granted_the_highest_allocation_at_most(self) -> None:
        granted: dict[tuple[str, str], int] = {}
        for entry in self.disk.entries():
            if entry.debit == DIEM_GRANT:
                window = (entry.account_id, entry.window)
                granted[window] = granted.get(window, 0) + entry.amount
        assert max(granted.values(), default=0) <= DIEM_MAX

    @invariant()
    def holds_are_counted(self) -> None:
        assert self.books.book.open_holds == len(self.holds)
        for account in "ab":
            held = sum(
                taken.amount_nano_usd
                for taken in self.holds
                if taken.account_id == account and taken.currency is Currency.USD
            )
            assert self.books.book._holdings.own(account).usd.held == held

    def teardown(self) -> None:
        self.loop.close()


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
