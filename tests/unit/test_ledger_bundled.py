"""Bundled credits: spent after DIEM and before USD, within the limit that they share with USD."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.books import NO_LIMITS, USD, Books, charge, open_books
from support.places import KINDS, Place, open_place
from traghetto.errors import ApiError, ErrorCode
from traghetto.ledger.book import Overdraft
from traghetto.money import NANO_USD_MAX, Currency, LimitPeriod, SpendLimits
from traghetto.storage.facts import BalanceRow, KeySpendRow

BUNDLED = Currency.BUNDLED_CREDITS
DIEM_CODE = ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED
USD_CODE = ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED
CENT = USD // 100


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


def funded(
    place: Place | None = None,
    *,
    usd: int = 0,
    bundled: int = 0,
    diem: int = 0,
    overdraft: Overdraft = "last",
) -> Books:
    store = None if place is None else place.open()
    books = open_books(store, usd=usd, diem=diem, overdraft=overdraft)
    if bundled:
        books.book.credit("a", bundled, reason="plan", currency=BUNDLED)
    return books


def limits(usd: int | None = None, diem: int | None = None) -> SpendLimits:
    return SpendLimits(diem_nano_usd=diem, usd_nano_usd=usd)


def refusal_of(books: Books, bounds: SpendLimits) -> ErrorCode | None:
    """What a request is told, by the check and by the hold alike; None if it is admitted."""
    code = None
    try:
        books.book.check_funds("a", "k", bounds)
    except ApiError as refused:
        code = refused.code
    try:
        books.reserve("r", 1, bounds).void()
        held = None
    except ApiError as refused:
        held = refused.code
    assert held is code
    return code


def test_they_are_spent_after_diem_and_before_usd(place: Place) -> None:
    """The order of currencies is a promise of the contract; another order takes paid money first."""

    async def run() -> None:
        books = funded(place, usd=USD, bundled=USD, diem=USD)
        for number, currency in enumerate((Currency.DIEM, BUNDLED, Currency.USD)):
            taken = books.reserve(f"r{number}", 2 * USD)
            assert (taken.currency, taken.amount_nano_usd) == (currency, USD)
            await taken.settle(charge(f"r{number}", 60 * CENT, 40 * CENT)).durable
        assert set(books.book.balances("a").values()) == {0}
        await books.store.aclose()
        snapshot = place.snapshot()
        assert [usage.currency for usage in snapshot.usages()] == list(Currency)
        assert set(snapshot.key_spends()) == {
            KeySpendRow("k", Currency.DIEM, "E:2026-01-01", USD),
            KeySpendRow("k", Currency.USD, "E:2026-01-01", 2 * USD),
        }, "bundled credits count as USD"
        assert place.differences() == []

    asyncio.run(run())


def test_they_do_not_lapse_and_survive_a_restart(place: Place) -> None:
    """A new day or a new process must find the same credits; they are not a daily allocation."""

    async def run() -> None:
        books = funded(place, bundled=3 * USD)
        await books.reserve("r", USD).settle(charge("r", USD)).durable
        books.clock.advance(40 * 86_400)
        assert books.spendable()[0] == {BUNDLED: 2 * USD, Currency.USD: 0}
        await books.store.aclose()
        again = open_books(place.open(), clock=books.clock, register=False)
        assert again.book.balances("a") == {BUNDLED: 2 * USD, Currency.USD: 0}
        assert again.reserve("s", USD).currency is BUNDLED
        await again.store.aclose()
        assert BalanceRow("a", BUNDLED, "", 2 * USD) in place.snapshot().balances()
        assert place.differences() == []

    asyncio.run(run())


@dataclass
class Case:
    """Funds in cents, limits, and the refusal expected (None is admission)."""

    usd: int
    bundled: int
    diem: int
    limits: SpendLimits
    refusal: ErrorCode | None


@pytest.mark.parametrize(
    "case",
    [
        Case(0, 9, 0, NO_LIMITS, ErrorCode.INSUFFICIENT_BALANCE),
        Case(0, 10, 0, NO_LIMITS, None),
        Case(5, 5, 0, NO_LIMITS, None),
        Case(5, 4, 0, NO_LIMITS, ErrorCode.INSUFFICIENT_BALANCE),
        Case(3, 4, 10, limits(diem=3 * CENT), None),
        Case(3, 3, 10, limits(diem=3 * CENT), DIEM_CODE),
        Case(0, 100, 0, limits(usd=0), USD_CODE),
        Case(100, 100, 0, limits(usd=0), USD_CODE),
        Case(100, 100, 0, limits(usd=9 * CENT), USD_CODE),
        Case(5, 100, 0, limits(usd=9 * CENT), USD_CODE),
        Case(100, 5, 0, limits(usd=9 * CENT), USD_CODE),
        Case(100, 100, 0, limits(usd=10 * CENT), None),
        Case(100, 100, 0, limits(diem=0), None),
        Case(100, 100, 10, limits(usd=0), None),
        Case(100, 100, 100, limits(usd=0, diem=0), DIEM_CODE),
        Case(5, 4, 0, limits(usd=0), ErrorCode.INSUFFICIENT_BALANCE),
    ],
    ids=str,
)
def test_admission_sums_currencies_and_counts_their_limit_once(case: Case) -> None:
    """Ten cents over all three admit; a limit of nine cents is nine cents for two currencies."""

    async def run() -> None:
        books = funded(usd=case.usd * CENT, bundled=case.bundled * CENT, diem=case.diem * CENT)
        assert refusal_of(books, case.limits) is case.refusal

    asyncio.run(run())


@pytest.mark.parametrize(
    ("bundled", "usd", "limit", "clamped"),
    [
        (30, 100, None, (30, 100)),
        (30, 100, 200, (30, 100)),
        (30, 100, 130, (30, 100)),
        (30, 100, 129, (30, 99)),
        (30, 100, 50, (30, 20)),
        (30, 100, 30, (30, 0)),
        (30, 100, 20, (20, 0)),
        (30, 0, 20, (20, 0)),
        (30, 100, 0, (0, 0)),
    ],
)
def test_the_sum_of_two_currencies_never_exceeds_their_limit(
    bundled: int, usd: int, limit: int | None, clamped: tuple[int, int]
) -> None:
    """What bundled credits could take of the limit is not offered again as USD."""

    async def run() -> None:
        books = funded(usd=usd * CENT, bundled=bundled * CENT)
        bounds = limits(usd=None if limit is None else limit * CENT)
        found = books.book.spendable("a", "k", bounds)
        assert found.clamped == {BUNDLED: clamped[0] * CENT, Currency.USD: clamped[1] * CENT}
        assert found.unclamped == {BUNDLED: bundled * CENT, Currency.USD: usd * CENT}
        assert found.counted() == {Currency.USD: sum(clamped) * CENT}

    asyncio.run(run())


@pytest.mark.parametrize("period", LimitPeriod)
def test_spending_of_either_uses_up_the_same_limit(place: Place, period: LimitPeriod) -> None:
    """Twenty cents of bundled credits leave thirty of a limit of fifty, after a restart as well."""

    async def run() -> None:
        bounds = SpendLimits(usd_nano_usd=50 * CENT, period=period)
        books = funded(place, usd=USD, bundled=20 * CENT)
        await books.reserve("r", 20 * CENT, bounds).settle(charge("r", 20 * CENT)).durable
        assert books.spendable(bounds)[0] == {BUNDLED: 0, Currency.USD: 30 * CENT}
        await books.store.aclose()
        books = open_books(place.open(), clock=books.clock, register=False)
        assert books.spendable(bounds)[0] == {BUNDLED: 0, Currency.USD: 30 * CENT}
        assert books.book.spent("k", period)[Currency.USD] == 20 * CENT
        await books.reserve("s", 30 * CENT, bounds).settle(charge("s", 30 * CENT)).durable
        assert refusal_of(books, bounds) is USD_CODE
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_holds_of_either_use_up_the_same_limit() -> None:
    """Two requests at once must not both be promised the last of a limit."""

    async def run() -> None:
        books = funded(usd=USD, bundled=20 * CENT)
        bounds = limits(usd=50 * CENT)
        first = books.reserve("r1", 20 * CENT, bounds)
        second = books.reserve("r2", 25 * CENT, bounds)
        assert (first.currency, second.currency) == (BUNDLED, Currency.USD)
        assert refusal_of(books, bounds) is USD_CODE, "five cents are left"
        first.void()
        assert refusal_of(books, bounds) is None
        second.void()
        assert books.spendable(bounds)[0] == {BUNDLED: 20 * CENT, Currency.USD: 30 * CENT}

    asyncio.run(run())


def test_the_last_of_a_shared_limit_admits_nobody_in_either_currency() -> None:
    """A hold that may exceed the limit closes it for USD too, or both would exceed it."""

    async def run() -> None:
        books = funded(usd=USD, bundled=USD)
        bounds = limits(usd=20 * CENT)
        last = books.reserve("r", USD, bounds)
        assert (last.currency, last.amount_nano_usd) == (BUNDLED, 20 * CENT)
        assert refusal_of(books, bounds) is USD_CODE
        assert last.settle(charge("r", 40 * CENT)).charged_nano_usd == 40 * CENT
        assert books.book.balances("a") == {BUNDLED: 60 * CENT, Currency.USD: USD}

    asyncio.run(run())


@pytest.mark.parametrize(("overdraft", "left"), [("last", -5), ("never", 0)])
def test_one_request_alone_may_exceed_the_last_of_them(
    place: Place, overdraft: Overdraft, left: int
) -> None:
    """The excess is a debt of the bundled credits; USD is not touched by it, and pays the next."""

    async def run() -> None:
        books = funded(place, usd=USD, bundled=20 * CENT, overdraft=overdraft)
        last = books.reserve("r", 50 * CENT)
        beside = books.reserve("s", 50 * CENT)
        assert (last.currency, beside.currency) == (BUNDLED, Currency.USD)
        await last.settle(charge("r", 25 * CENT)).durable
        beside.void()
        assert books.book.balances("a") == {BUNDLED: left * CENT, Currency.USD: USD}
        assert books.reserve("t", 50 * CENT).currency is Currency.USD
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


def test_an_account_without_them_does_not_show_them(place: Place) -> None:
    """Absent is not zero: the balance of an account that never had any names USD alone."""

    async def run() -> None:
        books = funded(place, usd=USD)
        assert list(books.book.balances("a")) == [Currency.USD]
        await books.book.adjust("a", BUNDLED, -CENT, reason="taken back")
        assert books.book.balances("a") == {BUNDLED: -CENT, Currency.USD: USD}
        assert books.reserve("r", CENT).currency is Currency.USD, "a debt is nothing to spend"
        await books.store.aclose()
        assert place.differences() == []

    asyncio.run(run())


@pytest.mark.parametrize("nano_usd", [0, -1, NANO_USD_MAX])
def test_a_credit_that_makes_no_sense_is_refused(nano_usd: int) -> None:
    """Nothing, less than nothing, or more than a column holds changes no balance."""

    async def run() -> None:
        books = funded(bundled=1)
        with pytest.raises(ValueError):
            books.book.credit("a", nano_usd, reason="x", currency=BUNDLED)
        assert books.book.balances("a")[BUNDLED] == 1

    asyncio.run(run())
