"""Refunds: what a charge took goes back to the funds and the limit that it was taken from, once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from support.books import USD, Books, charge, open_books
from support.places import KINDS, Place, open_place
from traghetto.clock import ManualClock
from traghetto.ledger.verify import verify
from traghetto.money import Currency, LimitPeriod, SpendLimits
from traghetto.storage.connector import StoreBroken
from traghetto.storage.facts import REVENUE, Entry, EntryKind, Fact
from traghetto.storage.memory import MemoryDisk, MemoryStore

BUNDLED = Currency.BUNDLED_CREDITS
CENT = USD // 100
DAY_SECONDS = 86_400
NO_DIEM = SpendLimits(diem_nano_usd=0)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


def charges_of(place: Place, request_id: str) -> list[Entry]:
    """The charges of a request, as the journal has them."""
    return [
        entry
        for entry in place.snapshot().entries()
        if entry.request_id == request_id and entry.kind is EntryKind.CHARGE
    ]


async def spend(books: Books, request_id: str, *amounts: int, of: SpendLimits = NO_DIEM) -> None:
    hold = books.reserve(request_id, sum(amounts), of)
    await hold.settle(charge(request_id, *amounts)).durable


async def restarted(place: Place, books: Books) -> Books:
    await books.store.aclose()
    return open_books(place.open(), clock=books.clock, register=False)


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
@pytest.mark.parametrize("currency", Currency)
def test_a_refund_gives_back_what_was_paid_to_whom_it_was_taken_from(
    place: Place, currency: Currency, restart: bool
) -> None:
    """Every line, in its own currency and window, and nothing to any other fund."""

    async def run() -> None:
        books = open_books(place.open(), usd=3 * USD, diem=3 * USD)
        await books.book.credit("a", 3 * USD, reason="plan", currency=BUNDLED)
        before = books.book.balances("a")
        if currency is Currency.USD:
            await books.book.adjust("a", BUNDLED, -3 * USD, reason="test")
            before[BUNDLED] = 0
        limits = SpendLimits() if currency is Currency.DIEM else NO_DIEM
        await spend(books, "r", 7 * CENT, 0, 5 * CENT, of=limits)
        if restart:
            books = await restarted(place, books)
        assert books.book.balances("a") == {**before, currency: before[currency] - 12 * CENT}
        charges = charges_of(place, "r")
        assert {row.currency for row in charges} == {currency}
        await books.book.refund(charges, reason="an outage")
        assert books.book.balances("a") == before
        assert set(books.book.spent("k", LimitPeriod.LIFETIME).values()) == {0}
        await books.store.aclose()
        snapshot = place.snapshot()
        refunds = [row for row in snapshot.entries() if row.kind is EntryKind.REFUND]
        assert [(row.line, row.amount, row.debit, row.reason) for row in refunds] == [
            ("line-0", 7 * CENT, REVENUE, "an outage"),
            ("line-2", 5 * CENT, REVENUE, "an outage"),
        ]
        assert {row.spent for row in snapshot.key_spends()} == {0}
        [usage] = snapshot.usages()
        assert usage.charged == 12 * CENT, "what was charged stays written"
        assert place.differences() == []

    asyncio.run(run())


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
@pytest.mark.parametrize(
    ("days_later", "counted"),
    [
        (0, {LimitPeriod.EPOCH: 5, LimitPeriod.MONTH: 5, LimitPeriod.LIFETIME: 5}),
        (1, {LimitPeriod.EPOCH: 0, LimitPeriod.MONTH: 5, LimitPeriod.LIFETIME: 5}),
        (30, {LimitPeriod.EPOCH: 0, LimitPeriod.MONTH: 5, LimitPeriod.LIFETIME: 5}),
        (31, {LimitPeriod.EPOCH: 0, LimitPeriod.MONTH: 0, LimitPeriod.LIFETIME: 5}),
    ],
)
def test_a_refund_counts_in_the_window_of_its_charge(
    place: Place, days_later: int, counted: dict[LimitPeriod, int], restart: bool
) -> None:
    """A limit is given back in the day, month and lifetime in which it was spent, in no other."""

    async def run() -> None:
        books = open_books(place.open(), usd=3 * USD)
        await spend(books, "given back", 20 * CENT)
        await spend(books, "kept", 5 * CENT)
        books.clock.advance(days_later * DAY_SECONDS)
        if restart:
            books = await restarted(place, books)
        if days_later:
            await spend(books, "later", 3 * CENT)
        await books.book.refund(charges_of(place, "given back"), reason="test")
        for books_now in (books, await restarted(place, books)):
            for period, cents in counted.items():
                later = 3 if days_later else 0
                spent = books_now.book.spent("k", period)[Currency.USD]
                assert spent == (cents + later) * CENT, period
                limits = SpendLimits(diem_nano_usd=0, usd_nano_usd=50 * CENT, period=period)
                assert books_now.spendable(limits)[0][Currency.USD] == 50 * CENT - spent
        await books_now.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_a_refund_of_bundled_credits_gives_back_the_limit_of_usd(place: Place) -> None:
    """They are spent within the USD limit, so their refund makes room there for either."""

    async def run() -> None:
        books = open_books(place.open(), usd=USD)
        await books.book.credit("a", 20 * CENT, reason="plan", currency=BUNDLED)
        limits = SpendLimits(usd_nano_usd=30 * CENT)
        await spend(books, "r", 20 * CENT, of=limits)
        assert books.spendable(limits)[0] == {BUNDLED: 0, Currency.USD: 10 * CENT}
        await books.book.refund(charges_of(place, "r"), reason="test")
        assert books.spendable(limits)[0] == {BUNDLED: 20 * CENT, Currency.USD: 10 * CENT}
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_a_request_that_ended_after_midnight_is_given_back_in_its_own_day(place: Place) -> None:
    """It counts in the day its hold was taken in, so its refund does, too."""

    async def run() -> None:
        clock = ManualClock()
        clock.advance(DAY_SECONDS - 1)
        books = open_books(place.open(), clock=clock, usd=USD)
        hold = books.reserve("r", 20 * CENT)
        clock.advance(2)
        await hold.settle(charge("r", 20 * CENT)).durable
        await books.book.refund(charges_of(place, "r"), reason="test")
        assert books.book.balances("a") == {Currency.USD: USD}
        for period in LimitPeriod:
            assert books.book.spent("k", period)[Currency.USD] == 0, period
        await books.store.aclose()
        assert [row.spent for row in place.snapshot().key_spends()] == [0]
        assert place.differences() == []

    asyncio.run(run())


def test_a_charge_of_a_day_that_has_not_come_is_given_back_for_it(place: Place) -> None:
    """The wall clock ran ahead, then was set right: the limit of the later day is whole again."""

    async def run() -> None:
        clock = ManualClock()
        clock.step_utc(DAY_SECONDS)
        books = open_books(place.open(), clock=clock, usd=USD)
        await spend(books, "r", 20 * CENT)
        await spend(books, "s", 5 * CENT)
        clock.step_utc(-DAY_SECONDS)
        books = await restarted(place, books)
        assert books.book.spent("k", LimitPeriod.EPOCH)[Currency.USD] == 0
        await books.book.refund(charges_of(place, "r"), reason="test")
        clock.advance(DAY_SECONDS)
        for period in LimitPeriod:
            assert books.book.spent("k", period)[Currency.USD] == 5 * CENT, period
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_diem_of_a_day_that_is_over_are_not_given_back(place: Place) -> None:
    """They lapsed: a refund would put them into a window that nobody can spend, or grant new ones."""

    async def run() -> None:
        books = open_books(place.open(), diem=USD)
        await spend(books, "r", 20 * CENT, of=SpendLimits())
        charges = charges_of(place, "r")
        books.clock.advance(DAY_SECONDS)
        before = (books.spendable(), books.book.spent("k", LimitPeriod.LIFETIME))
        with pytest.raises(ValueError, match="lapsed"):
            books.book.refund(charges, reason="test")
        assert (books.spendable(), books.book.spent("k", LimitPeriod.LIFETIME)) == before
        await books.store.aclose()
        assert not any(row.kind is EntryKind.REFUND for row in place.snapshot().entries())
        assert place.differences() == []

    asyncio.run(run())


def test_a_refund_makes_room_beside_open_holds(place: Place) -> None:
    """What others hold stays held: a refund changes what is owned, not what is promised."""

    async def run() -> None:
        books = open_books(place.open(), usd=30 * CENT)
        await spend(books, "r", 10 * CENT)
        hold = books.reserve("s", 15 * CENT)
        await books.book.refund(charges_of(place, "r"), reason="test")
        assert books.spendable()[0] == {Currency.USD: 15 * CENT}
        await hold.settle(charge("s", 15 * CENT)).durable
        assert books.book.balances("a") == {Currency.USD: 15 * CENT}
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_a_refund_ends_a_debt(place: Place) -> None:
    """The request that overdrew an account can be given back like any other."""

    async def run() -> None:
        books = open_books(place.open(), usd=20 * CENT)
        hold = books.reserve("r", 50 * CENT)
        await hold.settle(charge("r", 45 * CENT)).durable
        assert books.book.balances("a") == {Currency.USD: -25 * CENT}
        await books.book.refund(charges_of(place, "r"), reason="test")
        assert books.book.balances("a") == {Currency.USD: 20 * CENT}
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_a_refund_under_way_is_not_begun_again(place: Place) -> None:
    """Two operators at once: until the first refund is on disk, the second is refused."""

    async def run() -> None:
        books = open_books(place.open(), usd=USD)
        await spend(books, "r", 10 * CENT)
        charges = charges_of(place, "r")
        first = books.book.refund(charges, reason="one")
        with pytest.raises(ValueError, match="being refunded"):
            books.book.refund(charges, reason="another")
        await first
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_nothing_is_charged_without_what_belongs_to_it(place: Place) -> None:
    """If what is to be kept beside a charge cannot be made, the hold ends without a charge."""

    def cannot(_: int) -> list[Fact]:
        raise MemoryError

    async def run() -> None:
        books = open_books(place.open(), usd=USD)
        hold = books.reserve("r", 10 * CENT)
        await hold.durable()
        with pytest.raises(MemoryError):
            hold.settle(charge("r", 10 * CENT), cannot)
        assert books.book.open_holds == 0
        assert books.book.balances("a")[Currency.USD] == USD
        await books.store.aclose()
        assert list(place.snapshot().holds()) == charges_of(place, "r") == []
        assert place.differences() == []

    asyncio.run(run())


def test_a_charge_and_its_refund_in_one_commit_agree(place: Place) -> None:
    """Group commit may write both at once; the key's counter is then touched in the right order."""

    async def run() -> None:
        books = open_books(place.open(), usd=USD)
        await spend(books, "r", 10 * CENT)
        [entry] = charges_of(place, "r")
        books.reserve("s", 10 * CENT).settle(charge("s", 10 * CENT))
        refunded = books.book.refund([entry], reason="test")
        await books.book.refund(
            [msgspec.structs.replace(entry, request_id="s")], reason="before its charge is on disk"
        )
        await refunded
        await books.store.aclose()
        assert [row.spent for row in place.snapshot().key_spends()] == [0]
        assert place.differences() == []

    asyncio.run(run())


def test_the_journal_refuses_a_second_refund(place: Place) -> None:
    """Whatever the caller forgot, no line is given back twice: the store breaks before it is."""

    async def run() -> None:
        books = open_books(place.open(), usd=USD)
        await spend(books, "r", 10 * CENT)
        charges = charges_of(place, "r")
        await books.book.refund(charges, reason="test")
        with pytest.raises(StoreBroken):
            await books.book.refund(charges, reason="again")
        await books.store.aclose()
        kinds = [row.kind for row in place.snapshot().entries()]
        assert kinds.count(EntryKind.REFUND) == 1
        assert place.differences() == []

    asyncio.run(run())


# What verification finds


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        ({"amount": 11 * CENT}, {"balance of", "spending of", "refund of"}),
        ({"request_id": "nobody's"}, {"refund of"}),
        ({"line": "another"}, {"refund of"}),
        ({"currency": BUNDLED}, {"balance of", "refund of"}),
        ({"account_id": "b"}, {"balance of", "refund of"}),
        ({"key_window": "E:2026-01-02"}, {"spending of", "refund of"}),
        ({"key_id": "k2"}, {"spending of", "refund of"}),
        ({"key_id": None, "key_window": ""}, {"spending of", "refund of"}),
    ],
    ids=lambda value: ",".join(map(str, value if isinstance(value, dict) else sorted(value))),
)
def test_a_tampered_refund_is_found(tampering: dict[str, object], named: set[str]) -> None:
    """A refund without its charge, or of something else than its charge took, is a difference."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=USD)
        await spend(books, "r", 10 * CENT)
        [entry] = await disk.request_entries("r")
        await books.book.refund([entry], reason="test")
        assert verify(disk).differences == ()
        [identity] = [key for key in disk._entries if key[1] is EntryKind.REFUND]
        refund = disk._entries.pop(identity)
        changed = msgspec.structs.replace(refund, **tampering)
        disk._entries[changed.request_id, changed.kind, changed.line] = changed
        found = {" ".join(str(each).split()[:2]) for each in verify(disk).differences}
        assert found == named

    asyncio.run(run())


def test_an_orphaned_refund_is_found() -> None:
    """A refund whose charge is gone gave money back that nobody had paid."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=USD)
        await spend(books, "r", 10 * CENT)
        [entry] = await disk.request_entries("r")
        await books.book.refund([entry], reason="test")
        del disk._entries["r", EntryKind.CHARGE, "line-0"]
        differences = [str(difference) for difference in verify(disk).differences]
        wanted = "refund of request r, line line-0: the books say 100000000, the entries 0"
        assert wanted in differences

    asyncio.run(run())
