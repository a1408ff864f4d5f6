"""The book against a model of fifty lines, over random sequences of everything, on every store.

The model has no windows objects, no caches and no clamping in place: plain sums over dictionaries,
written from the rules (`src/traghetto/ledger/README.md`). After each step the book must agree with
it in everything that can be asked; after a crash the disk must be what the model was at the last
step that was waited for, or at one since.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from support.books import USD, Books, account_row, charge, key_row, open_books
from traghetto.clock import ManualClock
from traghetto.errors import ApiError
from traghetto.ledger.book import Hold
from traghetto.ledger.verify import verify
from traghetto.ledger.windows import day_window
from traghetto.money import Currency, LimitPeriod, SpendLimits
from traghetto.storage.connector import Snapshot, Store
from traghetto.storage.facts import EntryKind
from traghetto.storage.memory import MemoryDisk, MemoryStore
from traghetto.storage.sqlite import SqliteStore, open_read_only

DIEM, BUNDLED = Currency.DIEM, Currency.BUNDLED_CREDITS
ORDER = (DIEM, BUNDLED, Currency.USD)
AMOUNTS = st.integers(min_value=1, max_value=8 * USD)
LIMITS = st.builds(
    SpendLimits,
    diem_nano_usd=st.sampled_from([None, 0, USD, 5 * USD]),
    usd_nano_usd=st.sampled_from([None, 0, USD // 20, 9 * USD, 40 * USD]),
    period=st.sampled_from(LimitPeriod),
)


def counted(currency: Currency) -> str:
    return "diem" if currency is DIEM else "usd"


@dataclass
class Held:
    """An open hold of the model."""

    account: str
    fund: tuple[str, Currency, str]
    day: str
    amount: int
    limits: SpendLimits
    takes_all_funds: bool = False
    takes_all_limit: bool = False

    def in_window(self, name: str, period: LimitPeriod, day: str) -> bool:
        """Whether it counts in that window of its key."""
        return counted(self.fund[1]) == name and window(self.day, period) == window(day, period)


def window(day: str, period: LimitPeriod) -> str:
    return day[: {"EPOCH": 12, "MONTH": 9, "LIFETIME": 0}[period]]


@dataclass
class Model:
    """What the books should say. Accounts `a` and `b` have the keys `ka` and `kb`."""

    day: str = ""
    overdraw: bool = True
    funds: dict[tuple[str, Currency, str], int] = field(default_factory=dict)
    granted: dict[tuple[str, str], int] = field(default_factory=dict)
    allocation: dict[str, int] = field(default_factory=dict)
    spent: dict[tuple[str, str, str], int] = field(default_factory=dict)
    charges: dict[str, tuple[Held, int]] = field(default_factory=dict)
    refunded: set[str] = field(default_factory=set)
    holds: dict[str, Held] = field(default_factory=dict)

    def touch(self, account: str) -> None:
        """The first look at an account on a day grants its DIEM."""
        fund = (account, DIEM, self.day)
        if fund not in self.funds and self.allocation.get(account):
            self.funds[fund] = self.granted[account, self.day] = self.allocation[account]

    def of(self, account: str) -> list[tuple[str, Currency, str]]:
        keys = [(account, name, self.day if name is DIEM else "") for name in ORDER]
        return [key for key in keys if key in self.funds or key[1] is Currency.USD]

    def spare(self, fund: tuple[str, Currency, str]) -> int:
        held = [hold for hold in self.holds.values() if hold.fund == fund]
        if any(hold.takes_all_funds for hold in held):
            return 0
        return max(0, self.funds.get(fund, 0) - sum(hold.amount for hold in held))

    def used(self, account: str, name: str, period: LimitPeriod, day: str) -> int:
        return sum(
            amount
            for (owner, kind, spent_on), amount in self.spent.items()
            if (owner, kind) == (account, name) and window(spent_on, period) == window(day, period)
        )

    def room(self, account: str, currency: Currency, limits: SpendLimits, day: str) -> int:
        limit, name = limits.of(currency), counted(currency)
        if limit is None:
            return 2**63
        holds = [
            hold
            for hold in self.holds.values()
            if hold.account == account and hold.in_window(name, limits.period, day)
        ]
        if any(hold.takes_all_limit and hold.limits.period is limits.period for hold in holds):
            return 0
        used = self.used(account, name, limits.period, day)
        return max(0, limit - used - sum(hold.amount for hold in holds))

    def spendable(self, account: str, limits: SpendLimits) -> tuple[dict[Any, int], dict[Any, int]]:
        free = {fund: self.spare(fund) for fund in self.of(account)}
        clamped, taken = {}, {"usd": 0, "diem": 0}
        for fund, spare in free.items():
            name = counted(fund[1])
            clamped[fund] = min(spare, self.room(account, fund[1], limits, self.day) - taken[name])
            taken[name] += clamped[fund]
        return clamped, free

    def reserve(self, request: str, account: str, bound: int, limits: SpendLimits) -> str | None:
        """Takes a hold, or says why not."""
        self.touch(account)
        clamped, free = self.spendable(account, limits)
        if sum(clamped.values()) < USD // 10:
            if sum(free.values()) >= USD // 10:
                blocked = next(fund[1] for fund in free if clamped[fund] < free[fund])
                return f"API_KEY_{counted(blocked).upper()}_SPEND_LIMIT_EXCEEDED"
            return "INSUFFICIENT_BALANCE"
        fund = next(fund for fund in clamped if clamped[fund] > 0)
        hold = Held(account, fund, self.day, min(bound, clamped[fund]), limits)
        if bound > clamped[fund] and self.overdraw:
            hold.takes_all_funds = clamped[fund] == free[fund]
            room = self.room(account, fund[1], limits, self.day)
            hold.takes_all_limit = limits.of(fund[1]) is not None and clamped[fund] == room
        self.holds[request] = hold
        return None

    def settle(self, request: str, priced: int) -> int:
        hold = self.holds.pop(request)
        charged = min(priced, hold.amount)
        more = priced - charged if hold.takes_all_funds or hold.takes_all_limit else 0
        if not hold.takes_all_funds:
            more = min(more, self.spare(hold.fund) - hold.amount)
        if not hold.takes_all_limit and hold.limits.of(hold.fund[1]) is not None:
            room = self.room(hold.account, hold.fund[1], hold.limits, hold.day)
            more = min(more, room - hold.amount)
        charged += max(0, more)
        self.move(hold, -charged)
        self.charges[request] = (hold, charged)
        return charged

    def move(self, hold: Held, amount: int) -> None:
        self.funds[hold.fund] = self.funds.get(hold.fund, 0) + amount
        spent = (hold.account, counted(hold.fund[1]), hold.day)
        self.spent[spent] = self.spent.get(spent, 0) - amount


class Ledger(RuleBasedStateMachine):
    """The book and the model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.model = Model()
        self.since: list[Model] = []
        """The model after each step that nobody has waited for, behind the last one that was."""
        self.holds: dict[str, Hold] = {}
        self.requests = 0

    # The store under test

    def open_store(self) -> Store:
        raise NotImplementedError

    def kill(self, *, commit_survives: bool) -> None:
        """The process dies: what is not committed is lost."""
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        raise NotImplementedError

    # Steps

    @initialize(overdraft=st.sampled_from(["last", "never"]))
    def begin(self, overdraft: Any) -> None:
        self.overdraft = overdraft
        self.model.overdraw = overdraft == "last"
        self.open()

        def register() -> None:
            self.store.submit((account_row("a"), account_row("b")))
            self.store.submit((key_row("ka", "a"), key_row("kb", "b")))

        self.do(register, wait=True)

    def open(self) -> None:
        async def opened() -> None:
            self.store = self.open_store()
            self.books: Books = open_books(
                self.store, clock=self.clock, overdraft=self.overdraft, register=False
            )
            recovery = self.books.book.recover()
            if recovery.durable is not None:
                await recovery.durable

        self.loop.run_until_complete(opened())
        self.model.day = day_window(self.clock.utc_ns())
        self.model.holds.clear()
        self.holds.clear()

    def do(self, step: Callable[[], object], *, wait: bool) -> None:
        """Take a step; `wait` says whether somebody waits until it is on disk."""

        async def done() -> None:
            step()
            if wait:
                await self.store.submit(())

        self.model.day = max(self.model.day, day_window(self.clock.utc_ns()))
        self.loop.run_until_complete(done())
        self.since = [] if wait else self.since
        self.since.append(copy.deepcopy(self.model))
        self.agree()

    @rule(
        account=st.sampled_from("ab"),
        amount=AMOUNTS,
        currency=st.sampled_from([Currency.USD, BUNDLED]),
        wait=st.booleans(),
    )
    def credit(self, account: str, amount: int, currency: Currency, wait: bool) -> None:
        fund = (account, currency, "")

        def step() -> None:
            self.books.book.credit(account, amount, reason="model", currency=currency)
            self.model.funds[fund] = self.model.funds.get(fund, 0) + amount

        self.do(step, wait=wait)

    @rule(
        account=st.sampled_from("ab"),
        diem=st.sampled_from([0, USD // 10, 3 * USD]),
        wait=st.booleans(),
    )
    def allocate(self, account: str, diem: int, wait: bool) -> None:
        def step() -> None:
            self.books.book.grant_diem(account, diem)
            model, fund = self.model, (account, DIEM, self.model.day)
            model.touch(account)
            rise = diem - model.granted.get((account, model.day), 0)
            if fund in model.funds and rise > 0:
                model.funds[fund] += rise
                model.granted[account, model.day] += rise
            model.allocation[account] = diem

        self.do(step, wait=wait)

    @rule(
        account=st.sampled_from("ab"),
        bound=AMOUNTS,
        limits=LIMITS,
        streamed=st.booleans(),
        wait=st.booleans(),
    )
    def reserve(
        self, account: str, bound: int, limits: SpendLimits, streamed: bool, wait: bool
    ) -> None:
        self.requests += 1
        request = f"r{self.requests}"

        def step() -> None:
            refused = None
            try:
                taken = self.books.reserve(request, bound, limits, account, f"k{account}")
            except ApiError as refusal:
                refused = refusal.code.name
            assert self.model.reserve(request, account, bound, limits) == refused
            if refused is not None:
                return
            hold = self.model.holds[request]
            assert (taken.currency, taken.amount_nano_usd) == (hold.fund[1], hold.amount)
            if streamed:
                taken.durable()
            self.holds[request] = taken

        self.do(step, wait=wait)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), priced=st.integers(min_value=0, max_value=10 * USD), wait=st.booleans())
    def settle(self, data: st.DataObject, priced: int, wait: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.holds)))
        taken = self.holds.pop(request)
        usage = charge(request, priced, account_id=taken.account_id, key_id=taken.key_id)

        def step() -> None:
            charged = taken.settle(usage).charged_nano_usd
            assert charged == self.model.settle(request, priced)

        self.do(step, wait=wait)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), wait=st.booleans())
    def void(self, data: st.DataObject, wait: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.holds)))
        del self.model.holds[request]
        self.do(self.holds.pop(request).void, wait=wait)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), more=AMOUNTS, wait=st.booleans())
    def extend(self, data: st.DataObject, more: int, wait: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.holds)))
        hold = self.model.holds[request]
        exclusive = hold.takes_all_funds or hold.takes_all_limit
        room = self.model.room(hold.account, hold.fund[1], hold.limits, hold.day)
        fits = more <= min(self.model.spare(hold.fund), room)

        def step() -> None:
            assert self.holds[request].extend(more) == (exclusive or fits)

        if fits and not exclusive:
            hold.amount += more
        self.do(step, wait=wait)

    @rule(choice=st.integers(min_value=0, max_value=999), wait=st.booleans())
    def refund(self, choice: int, wait: bool) -> None:
        """The operator reads the charge from the disk, so it has to be there.

        Which charges a crash has left is a matter of timing: what is drawn must not depend on it.
        """
        self.do(lambda: None, wait=True)
        chargeable = sorted(set(self.model.charges) - self.model.refunded)
        if not chargeable:
            return
        request = chargeable[choice % len(chargeable)]
        entries = [
            entry
            for entry in self.snapshot().entries()
            if entry.request_id == request and entry.kind is EntryKind.CHARGE
        ]
        hold, charged = self.model.charges[request]
        lapsed = charged > 0 and hold.fund[1] is DIEM and hold.fund[2] != self.model.day

        def step() -> None:
            try:
                self.books.book.refund(entries, reason="model")
            except ValueError:
                assert lapsed
            else:
                assert not lapsed
                self.model.move(hold, charged)
                self.model.refunded.add(request)

        self.do(step, wait=wait)

    @rule(hours=st.sampled_from([-30, -3, 1, 11, 24, 24 * 30]))
    def wall_clock_steps(self, hours: int) -> None:
        self.clock.step_utc(hours * 3600)

    @rule(wait=st.booleans())
    def holds_expire(self, wait: bool) -> None:
        self.clock.advance(901)
        count = len(self.holds)
        self.model.holds.clear()
        self.holds.clear()

        def step() -> None:
            assert self.books.book.sweep() == count

        self.do(step, wait=wait)

    @rule(commit_survives=st.booleans())
    def crash(self, commit_survives: bool) -> None:
        self.kill(commit_survives=commit_survives)
        candidates = [model for model in self.since if self.on_disk() == expected_rows(model)]
        assert candidates, "the disk is what the books never were"
        self.model = copy.deepcopy(candidates[-1])
        self.since = [self.model]
        self.open()
        self.do(lambda: None, wait=True)

    # What must be so

    def on_disk(self) -> Any:
        disk = self.snapshot()
        balances = {(r.account_id, r.currency, r.window): r.amount for r in disk.balances()}
        spends = {
            (r.key_id, r.currency.value.lower(), r.window): r.spent for r in disk.key_spends()
        }
        charged = {row.request_id: row.charged for row in disk.usages()}
        allocations = {row.account_id: row.amount for row in disk.allocations()}
        return nonzero(balances), nonzero(spends), charged, nonzero(allocations)

    def agree(self) -> None:
        model, book = self.model, self.books.book
        for account in "ab":
            # Asking for balances is a look at the account, which may grant the day's DIEM.
            before = dict(model.funds)
            model.touch(account)
            balances = self.ask(lambda account=account: book.balances(account))
            if before != model.funds:
                self.since.append(copy.deepcopy(model))
            expected = {fund[1]: model.funds.get(fund, 0) for fund in model.of(account)}
            assert balances == expected
            for period in LimitPeriod:
                spent = self.ask(
                    lambda account=account, period=period: book.spent(f"k{account}", period)
                )
                for currency, amount in spent.items():
                    assert amount == model.used(account, counted(currency), period, model.day)
        assert book.open_holds == len(model.holds)

    def ask(self, question: Callable[[], Any]) -> Any:
        async def asked() -> Any:
            return question()

        return self.loop.run_until_complete(asked())

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.do(lambda: None, wait=True)
            self.do(lambda: None, wait=True)  # the first look at a new day may have granted DIEM
            assert self.on_disk() == expected_rows(self.model)
            assert not verify(self.snapshot()).differences
            self.loop.run_until_complete(self.store.aclose())
        self.loop.close()


def nonzero(rows: dict[Any, int]) -> dict[Any, int]:
    return {key: amount for key, amount in rows.items() if amount}


def expected_rows(model: Model) -> Any:
    """What the disk says of a model; holds are of no interest there, a start voids them."""
    spends = {(f"k{account}", *rest): amount for (account, *rest), amount in model.spent.items()}
    charged = {request: charged for request, (_, charged) in model.charges.items()}
    return nonzero(model.funds), nonzero(spends), charged, nonzero(model.allocation)


class OnMemory(Ledger):
    """The store of tests and of the simulation."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk()

    def open_store(self) -> Store:
        return MemoryStore(self.disk)

    def kill(self, *, commit_survives: bool) -> None:
        self.store.crash(commit_survives=commit_survives)

    def snapshot(self) -> Snapshot:
        return self.disk


class OnSqlite(Ledger):
    """The store of a gateway. It dies with what its writer has not begun to commit."""

    def __init__(self) -> None:
        super().__init__()
        self.data_dir = Path(tempfile.mkdtemp(prefix="ledger-"))

    def open_store(self) -> Store:
        return SqliteStore(self.data_dir)

    def kill(self, *, commit_survives: bool) -> None:
        store = self.store
        if not commit_survives:
            with store._mutex:
                store._facts = []
        self.loop.run_until_complete(store.aclose())

    def snapshot(self) -> Snapshot:
        return open_read_only(self.data_dir)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.data_dir)


SLOW = [HealthCheck.too_slow]
"""A disk that is slow while others use it is no reason to fail."""

TestLedgerOnMemory = OnMemory.TestCase
TestLedgerOnMemory.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=SLOW
)
TestLedgerOnSqlite = OnSqlite.TestCase
TestLedgerOnSqlite.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=SLOW
)
