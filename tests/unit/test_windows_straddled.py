"""Requests around midnight, and the windows of the books: judged by a small model of days.

The model knows dates by `datetime` alone. It says which day it is for a process (the latest that it
has seen, for a clock can be set back), what is left of that day, and where every charge belongs.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pytest

from support.books import USD, Books, charge, key_row, open_books
from traghetto.clock import ManualClock
from traghetto.errors import ApiError
from traghetto.ledger.book import Hold
from traghetto.ledger.verify import verify
from traghetto.money import Currency, LimitPeriod, SpendLimits
from traghetto.storage.connector import Snapshot, Store
from traghetto.storage.facts import EntryKind
from traghetto.storage.memory import MemoryDisk, MemoryStore
from traghetto.storage.sqlite import SqliteStore, open_read_only

CENT = USD // 100
FLOOR = 10 * CENT
DIEM_PER_DAY = 1000 * USD
USD_AT_FIRST = 1_000_000 * USD
KEYS = {period: f"k-{period}" for period in LimitPeriod}
"""Each period has a key of its own."""
PER_PROCESS = 20
"""Requests between two starts."""
SECOND_NS = 10**9
DAY = 86_400
DAY_NS = DAY * SECOND_NS
FIRST_DATE = date(1970, 1, 1)

Move = Callable[[ManualClock], None]
Left = dict[Currency, int]


def midnight_ns(day: str) -> int:
    """When that day begins, in UTC nanoseconds."""
    return (date.fromisoformat(day) - FIRST_DATE).days * DAY_NS


def date_of(utc_ns: int) -> str:
    """The UTC date of an instant."""
    return (FIRST_DATE + timedelta(days=utc_ns // DAY_NS)).isoformat()


# --- the model ----------------------------------------------------------------------------------


@dataclass
class Taken:
    """A hold, and what the model says of it."""

    hold: Hold
    key: str
    currency: Currency
    day: str
    amount: int


@dataclass
class Days:
    """What was granted, spent and held, by the day on which it was held."""

    usd: int = USD_AT_FIRST
    diem: dict[str, int] = field(default_factory=dict)
    """What is left of each day that anybody asked for."""
    spent: defaultdict[tuple[str, Currency], Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """By key and currency, and then by day."""
    open: list[Taken] = field(default_factory=list)
    today: str = ""

    def start(self, now_ns: int) -> None:
        """A process reads the books of its day: what was held is free, later days are unknown."""
        self.open, self.today = [], date_of(now_ns)

    def look(self, now_ns: int) -> None:
        """The process looks at its clock: there is no way back, and a day is granted once."""
        self.today = max(self.today, date_of(now_ns))
        self.diem.setdefault(self.today, DIEM_PER_DAY)

    def used(self, key: str, currency: Currency, period: LimitPeriod) -> int:
        """What the key has spent and holds in today's window of its limit."""
        length = {LimitPeriod.EPOCH: 10, LimitPeriod.MONTH: 7, LimitPeriod.LIFETIME: 0}[period]
        window = self.today[:length]
        spent = self.spent[key, currency]
        return sum(amount for day, amount in spent.items() if day.startswith(window)) + sum(
            t.amount
            for t in self.open
            if (t.key, t.currency) == (key, currency) and t.day.startswith(window)
        )

    def left(self, key: str, limits: SpendLimits) -> Left:
        """What today's funds and the key's limit leave, in the order in which it is spent."""
        left = {Currency.DIEM: self.diem[self.today], Currency.USD: self.usd}
        for taken in self.open:
            if taken.currency is Currency.USD or taken.day == self.today:
                left[taken.currency] -= taken.amount
        for currency, amount in left.items():
            limit = limits.of(currency)
            if limit is not None:
                left[currency] = max(
                    0, min(amount, limit - self.used(key, currency, limits.period))
                )
        return left

    def charge(self, taken: Taken, amount: int) -> None:
        """Where a charge belongs, whatever day it is meanwhile."""
        self.spent[taken.key, taken.currency][taken.day] += amount
        if taken.currency is Currency.USD:
            self.usd -= amount
        else:
            self.diem[taken.day] -= amount


# --- the books beside it ------------------------------------------------------------------------


@dataclass
class Disk:
    """Where books are kept: how a process opens them, and how they are read afterwards."""

    store: Callable[[], Store]
    read: Callable[[], AbstractContextManager[Snapshot]]

    @classmethod
    def in_memory(cls) -> Disk:
        disk = MemoryDisk()
        return cls(lambda: MemoryStore(disk), lambda: nullcontext(disk))

    @classmethod
    def in_file(cls, path: Path) -> Disk:
        return cls(
            lambda: SqliteStore(path, durability="normal"),  # no power fails in a test
            lambda: open_read_only(path),
        )


class Walk:
    """Processes one after the other on the same books, each request compared with the model."""

    def __init__(self, disk: Disk, seed: str) -> None:
        self.rng = random.Random(seed)
        self.days = Days()
        self.numbers = 0
        self.refused = 0
        self.late = 0
        """Charges that came after the day of their hold."""
        self._disk = disk
        self._expected: dict[str, tuple[Currency, str, int]] = {}
        """By request: currency, day and amount."""

    async def process(self, start_ns: int, requests: int, move: Move) -> int:
        """A process from its start to its end, at which some holds may be left; when it ended."""
        self.clock = ManualClock(start_ns)
        store = self._disk.store()
        is_first = not self.numbers
        self.books: Books = open_books(
            store,
            clock=self.clock,
            overdraft="never",
            register=is_first,
            usd=USD_AT_FIRST if is_first else 0,
            diem=DIEM_PER_DAY if is_first else 0,
        )
        if is_first:
            store.submit([key_row(key) for key in KEYS.values()])
        self.books.book.recover()
        self.days.start(start_ns)
        for _ in range(requests):
            move(self.clock)
            self.request()
            if self.days.open and self.rng.random() < 0.5:
                move(self.clock)
                self.end(self.rng.choice(self.days.open))
        while self.days.open and self.rng.random() < 0.9:
            self.end(self.days.open[0])
        await store.aclose()
        self.compare_disk()
        return self.clock.utc_ns()

    def request(self) -> None:
        """Take a hold, or be refused, as the model says."""
        period = self.rng.choice(list(LimitPeriod))
        key = KEYS[period]
        limits = self.limits(key, period)
        left = self.compare(key, limits)
        self.numbers += 1
        bound = self.rng.randrange(1, 5 * CENT)
        number = f"r{self.numbers}"
        if sum(left.values()) < FLOOR:
            self.refused += 1
            with pytest.raises(ApiError):
                self.books.reserve(number, bound, limits, key_id=key)
            return
        hold = self.books.reserve(number, bound, limits, key_id=key)
        currency = next(currency for currency, amount in left.items() if amount > 0)
        amount = min(bound, left[currency])
        assert (hold.currency, hold.amount_nano_usd) == (currency, amount)
        self.days.open.append(Taken(hold, key, currency, self.days.today, amount))
        if self.rng.random() < 0.5:
            hold.durable()  # as a stream's hold is

    def limits(self, key: str, period: LimitPeriod) -> SpendLimits:
        """None, one that leaves USD alone, or one that allows a little more than was used."""
        self.days.look(self.clock.utc_ns())
        kind = self.rng.randrange(4)
        if kind == 0:
            return SpendLimits(period=period)
        if kind == 1:
            return SpendLimits(diem_nano_usd=0, period=period)
        room = self.rng.choice((0, CENT, FLOOR, 2 * FLOOR))
        currency = self.rng.choice((Currency.DIEM, Currency.USD))
        limit = self.days.used(key, currency, period) + room
        if currency is Currency.DIEM:
            return SpendLimits(limit, 0, period)
        return SpendLimits(0, limit, period)

    def end(self, taken: Taken) -> None:
        """Charge a hold, or give it back; what is left of today is compared again."""
        self.days.open.remove(taken)
        if self.rng.random() < 0.2:
            taken.hold.void()
        else:
            amount = self.rng.randrange(1, taken.amount + 1)
            request_id = taken.hold.request_id
            taken.hold.settle(charge(request_id, amount, key_id=taken.key))
            self.days.charge(taken, amount)
            self._expected[request_id] = (taken.currency, taken.day, amount)
            self.late += self.days.today > taken.day
        period = next(period for period, key in KEYS.items() if key == taken.key)
        high = 10**6 * USD
        self.compare(taken.key, SpendLimits(high, high, period))

    def compare(self, key: str, limits: SpendLimits) -> Left:
        """What is left by the model, which is also what the books say."""
        self.days.look(self.clock.utc_ns())
        expected = self.days.left(key, limits)
        found = self.books.book.spendable("a", key, limits).clamped
        assert {currency: found[currency] for currency in expected} == expected
        return expected

    def compare_disk(self) -> None:
        """Every window is what the model says, and there is no other."""
        days = self.days
        funds = {(Currency.DIEM, f"E:{day}"): left for day, left in days.diem.items()}
        spends = {
            (key, currency, f"E:{day}"): amount
            for (key, currency), by_day in days.spent.items()
            for day, amount in by_day.items()
        }
        with self._disk.read() as books:
            stored = {(row.currency, row.window): row.amount for row in books.balances()}
            assert stored == funds | {(Currency.USD, ""): days.usd}
            stored_spends = {
                (row.key_id, row.currency, row.window): row.spent for row in books.key_spends()
            }
            assert stored_spends == spends

    def compare_journal(self) -> None:
        """Each charge is in the window of its hold, and no day was granted twice."""
        with self._disk.read() as books:
            assert verify(books).differences == ()
            grants = Counter()
            charges = {}
            for entry in books.entries():
                if entry.kind is EntryKind.DIEM_GRANT:
                    grants[entry.window] += 1
                elif entry.kind is EntryKind.CHARGE:
                    window = entry.window or entry.key_window
                    assert entry.key_window == window
                    day = window.removeprefix("E:")
                    charges[entry.request_id] = (entry.currency, day, entry.amount)
        assert charges == self._expected
        assert grants == {f"E:{day}": 1 for day in self.days.diem}


# --- the walks ----------------------------------------------------------------------------------


def around(midnight: int, rng: random.Random) -> Move:
    """Time passes, is stepped by up to two seconds, or is the last or first nanosecond of a day."""

    def move(clock: ManualClock) -> None:
        lot = rng.random()
        if lot < 0.04:
            clock.step_utc(rng.uniform(-2, 2))
        elif lot < 0.12:
            clock.step_utc((midnight + rng.choice((-1, -1, 0, 1)) - clock.utc_ns()) / SECOND_NS)
        else:
            clock.advance(rng.choice((0, 1e-9, 0.001, 0.01, 0.1)))

    return move


async def straddle(walk: Walk, day: str, requests: int) -> None:
    """Many short processes, each started within two seconds of the midnight that begins `day`."""
    midnight = midnight_ns(day)
    move = around(midnight, walk.rng)
    while walk.numbers < requests:
        start = midnight + round(walk.rng.uniform(-2, 0.5) * SECOND_NS)
        await walk.process(start, PER_PROCESS, move)
    walk.compare_journal()


BOUNDARIES = (
    "2026-01-15",
    "2026-02-01",
    "2026-03-01",
    "2026-05-01",
    "2027-01-01",
    "2028-02-29",
    "2028-03-01",
    "2100-03-01",
)
"""Days that begin, most of them with a month or a year; 2028 is a leap year, 2100 is none."""


@pytest.mark.parametrize("day", BOUNDARIES)
def test_ten_thousand_requests_straddle_midnight(day: str) -> None:
    """A charge landed in another window than its hold, or a window was forgotten or reopened."""
    walk = Walk(Disk.in_memory(), f"memory {day}")
    asyncio.run(straddle(walk, day, 10_000))
    assert len(walk.days.diem) == 2
    assert walk.refused > 500
    assert walk.late > 300


@pytest.mark.parametrize("day", ["2027-01-01", "2028-02-29", "2028-03-01"])
def test_the_same_holds_for_books_in_a_file(tmp_path: Path, day: str) -> None:
    """The database kept or read windows otherwise than the books that were decided on."""
    walk = Walk(Disk.in_file(tmp_path), f"file {day}")
    asyncio.run(straddle(walk, day, 1_500))
    assert walk.late > 25


def leaping(rng: random.Random) -> Move:
    """Hours pass; now and then a laptop wakes up days later, or somebody sets the clock back."""

    def move(clock: ManualClock) -> None:
        lot = rng.random()
        if lot < 0.03:
            clock.step_utc(-rng.choice((1, 3600, DAY, 40 * DAY)))
        elif lot < 0.06:
            clock.step_utc(rng.choice((1, 2, 28, 31, 365)) * DAY)
        else:
            clock.advance(rng.uniform(0, DAY / 4))

    return move


async def leap(walk: Walk, first_day: str, requests: int) -> None:
    """Processes that follow one another, also on a clock that was set back in between."""
    now = midnight_ns(first_day)
    move = leaping(walk.rng)
    while walk.numbers < requests:
        start = now + walk.rng.choice((-40 * DAY, -DAY, -1, 0, 0, 1, DAY, 3 * DAY)) * SECOND_NS
        now = await walk.process(start, walk.rng.randrange(100), move)
    walk.compare_journal()


@pytest.mark.parametrize("first_day", ["2026-12-30", "2028-02-27"])
def test_days_are_skipped_and_clocks_set_back(first_day: str) -> None:
    """A day was granted twice, a closed one reopened, or a skipped one was not skipped."""
    walk = Walk(Disk.in_memory(), f"leaps {first_day}")
    asyncio.run(leap(walk, first_day, 5_000))
    assert len(walk.days.diem) > 300
    assert walk.late > 200
