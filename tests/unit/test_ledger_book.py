"""The book's decisions: who is admitted, how much is held, and what is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from support.books import NO_LIMITS, USD, charge, open_books
from traghetto.clock import ManualClock
from traghetto.errors import ApiError, ErrorCode
from traghetto.ledger.book import Charge, ChargeLine, HoldEnded, day_window
from traghetto.ledger.verify import verify
from traghetto.money import NANO_USD_MAX, Currency, LimitPeriod, SpendLimits
from traghetto.storage.facts import EntryKind
from traghetto.storage.memory import MemoryDisk, MemoryStore

DIEM_CODE = ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED
USD_CODE = ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED
CENT = USD // 100
MIDNIGHT = ManualClock().utc_ns() + 86_400 * 10**9


def in_loop(test: Callable[[], None]) -> None:
    """Run a synchronous test where an event loop is needed only for the store's futures."""

    async def run() -> None:
        test()

    asyncio.run(run())


def limits(
    usd: int | None = None, diem: int | None = None, period: LimitPeriod = LimitPeriod.EPOCH
) -> SpendLimits:
    return SpendLimits(diem_nano_usd=diem, usd_nano_usd=usd, period=period)


@dataclass
class Case:
    """Funds, limits, and the refusal expected (None is admission)."""

    usd: int
    diem: int
    limits: SpendLimits
    refusal: ErrorCode | None


@pytest.mark.parametrize(
    "case",
    [
        Case(0, 0, NO_LIMITS, ErrorCode.INSUFFICIENT_BALANCE),
        Case(10 * CENT - 1, 0, NO_LIMITS, ErrorCode.INSUFFICIENT_BALANCE),
        Case(10 * CENT, 0, NO_LIMITS, None),
        Case(0, 10 * CENT, NO_LIMITS, None),
        Case(USD, 0, limits(usd=0), USD_CODE),
        Case(USD, 0, limits(usd=10 * CENT - 1), USD_CODE),
        Case(USD, 0, limits(usd=10 * CENT), None),
        Case(USD, 0, limits(diem=0), None),
        Case(0, USD, limits(diem=0), DIEM_CODE),
        Case(USD, USD, limits(diem=0), None),
        Case(USD, USD, limits(diem=0, usd=0), DIEM_CODE),
        Case(USD, USD, limits(diem=5 * CENT, usd=5 * CENT), None),
        Case(USD, USD, limits(diem=5 * CENT, usd=CENT), DIEM_CODE),
        Case(5 * CENT, USD, limits(diem=CENT, usd=0), DIEM_CODE),
        Case(9 * CENT, 0, limits(usd=0), ErrorCode.INSUFFICIENT_BALANCE),
    ],
    ids=str,
)
def test_admission(case: Case) -> None:
    """Ten cents over all currencies admit; a key's limit is named only if funds would do."""

    def test() -> None:
        books = open_books(usd=case.usd, diem=case.diem)
        if case.refusal is None:
            books.book.check_funds("a", "k", case.limits)
            books.reserve("r", 1, case.limits).void()
            return
        for attempt in (
            lambda: books.book.check_funds("a", "k", case.limits),
            lambda: books.reserve("r", 1, case.limits),
        ):
            with pytest.raises(ApiError) as refused:
                attempt()
            assert refused.value.code is case.refusal

    in_loop(test)


def test_a_currency_the_account_lacks_is_absent() -> None:
    """USD is always there, DIEM only with an allocation; limits clamp without hiding funds."""

    def test() -> None:
        books = open_books(usd=USD)
        assert books.spendable(limits(usd=CENT)) == ({Currency.USD: CENT}, {Currency.USD: USD})
        books.book.grant_diem("a", 2 * USD)
        clamped, unclamped = books.spendable(limits(usd=CENT))
        assert list(clamped) == [Currency.DIEM, Currency.USD]
        assert unclamped == {Currency.DIEM: 2 * USD, Currency.USD: USD}

    in_loop(test)


def test_diem_is_spent_before_usd_and_one_currency_pays() -> None:
    """A request pays in the first currency that has anything, even if the other has more."""

    def test() -> None:
        books = open_books(usd=10 * USD, diem=USD)
        first = books.reserve("r1", 2 * USD)
        assert (first.currency, first.amount_nano_usd) == (Currency.DIEM, USD)
        second = books.reserve("r2", 2 * USD)
        assert (second.currency, second.amount_nano_usd) == (Currency.USD, 2 * USD)
        third = books.reserve("r3", USD, limits(diem=0))
        assert third.currency is Currency.USD

    in_loop(test)


def test_the_last_funds_may_be_exceeded_by_one_request_alone() -> None:
    """A hold of everything admits nobody else, not even after money arrives, until it ends."""

    def test() -> None:
        books = open_books(usd=20 * CENT)
        first = books.reserve("r1", 15 * CENT)
        with pytest.raises(ApiError):
            books.reserve("r2", 50 * CENT)
        first.void()
        last = books.reserve("r2", 50 * CENT)
        assert last.amount_nano_usd == 20 * CENT
        books.book.credit("a", USD, reason="top-up")
        with pytest.raises(ApiError):
            books.reserve("r3", CENT)
        assert last.settle(charge("r2", 30 * CENT)).charged_nano_usd == 30 * CENT
        assert books.book.balances("a")[Currency.USD] == USD - 10 * CENT
        books.reserve("r3", CENT).void()

    in_loop(test)


def test_a_balance_goes_below_zero_by_what_was_used_only() -> None:
    """The last request's excess is the only debt an account can have."""

    def test() -> None:
        books = open_books(usd=20 * CENT)
        books.reserve("r", USD).settle(charge("r", 25 * CENT))
        assert books.book.balances("a")[Currency.USD] == -5 * CENT
        with pytest.raises(ApiError):
            books.book.check_funds("a", "k", NO_LIMITS)

    in_loop(test)


def test_a_charge_never_exceeds_a_hold_that_left_something() -> None:
    """A bound that was too low costs the operator, not the customer; lines are cut from the end."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=USD)
        receipt = books.reserve("r", 10).settle(charge("r", 7, 4, 2))
        await receipt.durable
        assert receipt.charged_nano_usd == 10
        lines = [(e.line, e.amount) for e in disk.entries() if e.kind is EntryKind.CHARGE]
        assert lines == [("line-0", 7), ("line-1", 3)]
        [usage] = disk.usages()
        assert (usage.priced, usage.charged) == (13, 10)
        assert not verify(disk).differences

    asyncio.run(run())


def test_overdraft_never_means_never() -> None:
    """The last funds are a bound, and an extension beyond them is refused."""

    def test() -> None:
        books = open_books(usd=20 * CENT, overdraft="never")
        taken = books.reserve("r", 15 * CENT)
        assert taken.extend(5 * CENT)
        assert not taken.extend(1)
        assert taken.amount_nano_usd == 20 * CENT
        assert taken.settle(charge("r", 30 * CENT)).charged_nano_usd == 20 * CENT
        assert books.book.balances("a")[Currency.USD] == 0

    in_loop(test)


def test_an_extension_respects_the_keys_limit() -> None:
    """A key's limit refuses an extension that the account could pay."""

    def test() -> None:
        books = open_books(usd=USD, overdraft="never")
        taken = books.reserve("r", 15 * CENT, limits(usd=20 * CENT))
        assert not taken.extend(6 * CENT)
        assert taken.extend(5 * CENT)

    in_loop(test)


def test_the_last_of_a_keys_limit_may_be_exceeded_within_the_account() -> None:
    """The key then admits nobody else, other keys are not disturbed, nor are their holds spent."""

    def test() -> None:
        books = open_books(usd=50 * CENT)
        bounded = limits(usd=20 * CENT)
        last = books.reserve("r1", USD, bounded)
        assert last.amount_nano_usd == 20 * CENT
        with pytest.raises(ApiError) as refused:
            books.reserve("r2", 1, bounded)
        assert refused.value.code is USD_CODE
        other = books.reserve("r3", 25 * CENT, key_id="k2")
        assert last.settle(charge("r1", 40 * CENT)).charged_nano_usd == 25 * CENT
        assert other.settle(charge("r3", 25 * CENT)).charged_nano_usd == 25 * CENT
        assert books.book.balances("a")[Currency.USD] == 0

    in_loop(test)


def test_the_last_funds_do_not_exceed_a_keys_limit() -> None:
    """Where the account bounded the hold, the key's limit still bounds the excess."""

    def test() -> None:
        books = open_books(usd=20 * CENT)
        last = books.reserve("r", USD, limits(usd=22 * CENT))
        assert last.settle(charge("r", 40 * CENT)).charged_nano_usd == 22 * CENT

    in_loop(test)


@pytest.mark.parametrize("second", ["settle", "void", "extend", "durable"])
@pytest.mark.parametrize("first", ["settle", "void"])
def test_a_hold_ends_exactly_once(first: str, second: str) -> None:
    """Whatever ended a hold, using it again is an error and changes nothing."""

    def test() -> None:
        books = open_books(usd=USD)
        taken = books.reserve("r", 10)
        uses: dict[str, Callable[[], object]] = {
            "settle": lambda: taken.settle(charge("r", 3)),
            "void": taken.void,
            "extend": lambda: taken.extend(1),
            "durable": taken.durable,
        }
        uses[first]()
        assert taken.ended
        before = books.spendable()
        with pytest.raises(HoldEnded):
            uses[second]()
        assert books.spendable() == before
        assert books.book.open_holds == 0

    in_loop(test)


def test_an_unwritten_hold_leaves_no_trace() -> None:
    """A request without a stream writes no hold; a void one writes nothing at all."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=USD)
        assert books.reserve("r", 10).void() is None
        streamed = books.reserve("s", 10)
        assert streamed.durable() is streamed.durable()
        await streamed.durable()
        assert [row.request_id for row in disk.holds()] == ["s"]
        voided = streamed.void()
        assert voided is not None
        await voided
        assert not list(disk.holds())
        assert not list(disk.usages())

    asyncio.run(run())


def test_a_free_request_is_metered_and_not_charged() -> None:
    """Usage without a price has no entries, no currency, and nobody waits for it."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk))
        books.book.record_free(charge("r").usage)
        await books.store.aclose()
        [usage] = disk.usages()
        assert (usage.currency, usage.priced, usage.charged) == (None, 0, 0)
        assert not list(disk.entries())

    asyncio.run(run())


def test_nothing_is_admitted_to_a_broken_store() -> None:
    """What cannot be charged is not dispatched."""

    async def run() -> None:
        books = open_books(MemoryStore(commit_fails=lambda: True), usd=USD)
        await asyncio.sleep(0.01)
        assert not books.book.healthy
        with pytest.raises(ApiError) as refused:
            books.reserve("r", 10)
        assert refused.value.code is ErrorCode.UNKNOWN_ERROR

    asyncio.run(run())


def test_an_abandoned_hold_expires_and_a_younger_one_does_not_yet() -> None:
    """The sweep frees what nobody ended, oldest first."""

    def test() -> None:
        books = open_books(usd=USD)
        lost = books.reserve("lost", CENT)
        books.clock.advance(600)
        kept = books.reserve("kept", CENT)
        books.clock.advance(600)
        assert books.book.sweep() == 1
        assert (lost.ended, kept.ended) == (True, False)
        books.clock.advance(600)
        assert books.book.sweep() == 1

    in_loop(test)


@pytest.mark.parametrize("tokens", [-1, 2**63])
def test_a_backends_nonsense_cannot_reach_the_books(tokens: int) -> None:
    """Counts and amounts that the books would refuse are refused as values, one request at a time."""
    usage = charge("r").usage
    with pytest.raises(ValueError, match="token count"):
        msgspec.structs.replace(usage, completion_tokens=tokens)
    lines = (ChargeLine("input", 1, 5), ChargeLine("input", 1, 5))
    with pytest.raises(ValueError, match="one kind"):
        Charge(lines, usage, "v1")
    with pytest.raises(ValueError, match=r"negative|larger"):
        Charge((ChargeLine("input", 1, tokens),), usage, "v1")


# Windows


def test_diem_is_granted_once_a_day_and_lapses() -> None:
    """A new UTC day is a new window with a new grant; what was left of the old one is gone."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), diem=USD)
        books.reserve("r", USD // 2).settle(charge("r", USD // 4))
        books.clock.advance(86_400)
        assert books.spendable()[0][Currency.DIEM] == USD
        await books.store.aclose()
        grants = [e for e in disk.entries() if e.kind is EntryKind.DIEM_GRANT]
        assert [g.window for g in grants] == ["E:2026-01-01", "E:2026-01-02"]
        assert not verify(disk).differences

    asyncio.run(run())


def test_a_hold_keeps_its_window_over_midnight() -> None:
    """Settling after midnight charges the day of the hold, in DIEM and in the key's limit."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), diem=USD)
        bound = limits(diem=USD)
        books.clock.step_utc((MIDNIGHT - books.clock.utc_ns()) / 1e9 - 1)
        taken = books.reserve("r", USD, bound)
        books.clock.advance(2)
        assert books.spendable(bound)[0][Currency.DIEM] == USD
        await taken.settle(charge("r", 300)).durable
        assert books.spendable(bound)[0][Currency.DIEM] == USD
        amounts = {row.window: row.amount for row in disk.balances()}
        assert amounts == {"E:2026-01-01": USD - 300, "E:2026-01-02": USD}
        assert [row.window for row in disk.key_spends()] == ["E:2026-01-01"]
        assert not verify(disk).differences

    asyncio.run(run())


def test_a_clock_that_steps_back_reopens_nothing() -> None:
    """Within a process the later day stays; after a restart the old window is what it was."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), diem=USD)
        await books.reserve("r", USD).settle(charge("r", USD)).durable
        books.clock.advance(86_400)
        await books.reserve("s", USD).settle(charge("s", USD // 2)).durable
        books.clock.step_utc(-86_400)
        assert books.spendable()[0][Currency.DIEM] == USD // 2
        again = open_books(MemoryStore(disk), clock=books.clock, register=False)
        assert again.spendable()[0][Currency.DIEM] == 0
        books.clock.step_utc(86_400)
        assert again.spendable()[0][Currency.DIEM] == USD // 2
        await again.store.aclose()
        assert not verify(disk).differences

    asyncio.run(run())


def test_a_clock_that_steps_back_after_the_start_reopens_nothing() -> None:
    """What came before the day of the start was not read: it is not granted a second time."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), diem=USD)
        await books.reserve("r", USD).settle(charge("r", USD)).durable
        books.clock.advance(86_400)
        again = open_books(MemoryStore(disk), clock=books.clock, register=False)
        books.clock.step_utc(-3600)
        taken = again.reserve("s", USD)
        assert taken.fund.window == "E:2026-01-02"
        await taken.settle(charge("s", USD // 2)).durable
        assert not verify(disk).differences

    asyncio.run(run())


@pytest.mark.parametrize(
    ("period", "after_day", "after_month"),
    [
        (LimitPeriod.EPOCH, 20 * CENT, 20 * CENT),
        (LimitPeriod.MONTH, 12 * CENT, 20 * CENT),
        (LimitPeriod.LIFETIME, 12 * CENT, 12 * CENT),
    ],
)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_keys_limit_renews_with_its_period(
    period: LimitPeriod, after_day: int, after_month: int, restarted: bool
) -> None:
    """A day, a month or never, in memory and after a restart alike."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=10 * USD)
        bound = limits(usd=20 * CENT, period=period)
        await books.reserve("r", 8 * CENT, bound).settle(charge("r", 8 * CENT)).durable

        def left() -> int:
            seen = books
            if restarted:
                seen = open_books(MemoryStore(disk), clock=books.clock, register=False)
            return seen.spendable(bound)[0][Currency.USD]

        assert left() == 12 * CENT
        books.clock.advance(86_400)
        assert left() == after_day
        books.clock.advance(31 * 86_400)
        assert left() == after_month

    asyncio.run(run())


def test_a_changed_period_counts_what_was_spent() -> None:
    """Changing a key from daily to monthly does not forget the month so far."""

    def test() -> None:
        books = open_books(usd=10 * USD)
        books.reserve("r", 8 * CENT, limits(usd=USD)).settle(charge("r", 8 * CENT))
        books.clock.advance(86_400)
        monthly = limits(usd=20 * CENT, period=LimitPeriod.MONTH)
        assert books.spendable(monthly)[0][Currency.USD] == 12 * CENT

    in_loop(test)


# Operators


def test_a_higher_allocation_tops_up_today_and_a_lower_one_waits() -> None:
    """A rise is granted at once by its difference; a cut takes nothing back today."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), diem=USD)
        books.reserve("r", USD // 2).settle(charge("r", USD // 2))
        books.book.grant_diem("a", 3 * USD)
        assert books.spendable()[0][Currency.DIEM] == 2 * USD + USD // 2
        books.book.grant_diem("a", 0)
        assert books.spendable()[0][Currency.DIEM] == 2 * USD + USD // 2
        books.clock.advance(86_400)
        assert Currency.DIEM not in books.spendable()[0]
        await books.store.aclose()
        assert not verify(disk).differences

    asyncio.run(run())


def test_an_allocation_out_of_range_changes_nothing() -> None:
    """A refused allocation is neither remembered for tomorrow nor granted today."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), diem=USD)
        books.spendable()
        books.book.adjust("a", Currency.DIEM, USD, reason="test")
        for refused in (NANO_USD_MAX, NANO_USD_MAX + 1):
            with pytest.raises(ValueError, match="at most"):
                books.book.grant_diem("a", refused)
        assert books.book.allocation("a") == USD
        books.clock.advance(86_400)
        assert books.spendable()[0][Currency.DIEM] == USD
        with pytest.raises(ValueError, match="at most"):
            books.book.grant_diem("b", NANO_USD_MAX + 1)
        await books.store.aclose()
        assert not verify(disk).differences

    asyncio.run(run())


def test_operators_cannot_make_nonsense() -> None:
    """Amounts that are not positive, too small, too large or without a reason are refused."""

    def test() -> None:
        books = open_books(usd=USD)
        refused: list[Callable[[], object]] = [
            lambda: books.book.credit("a", 0, reason="x"),
            lambda: books.book.credit("a", -1, reason="x"),
            lambda: books.book.credit("a", 2**63 - 1, reason="x"),
            lambda: books.book.grant_diem("a", 5 * CENT),
            lambda: books.book.grant_diem("a", -1),
            lambda: books.book.adjust("a", Currency.USD, 0, reason="x"),
            lambda: books.book.adjust("a", Currency.USD, 1, reason=""),
            lambda: books.book.adjust("a", Currency.DIEM, 1, reason="x"),
            lambda: books.reserve("r", 0),
        ]
        for operation in refused:
            with pytest.raises(ValueError):
                operation()
        assert books.book.balances("a") == {Currency.USD: USD}

    in_loop(test)


def test_adjustments_are_entries_with_a_reason() -> None:
    """Up and down, from and to the adjustment account; the books verify."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=USD)
        books.book.adjust("a", Currency.USD, -5, reason="too much")
        await books.book.adjust("a", Currency.USD, 3, reason="too little")
        moves = [
            (e.debit, e.credit, e.amount, e.reason)
            for e in disk.entries()
            if e.kind is EntryKind.ADJUST
        ]
        assert moves == [
            ("funds", "adjustment", 5, "too much"),
            ("adjustment", "funds", 3, "too little"),
        ]
        assert books.book.balances("a")[Currency.USD] == USD - 2
        assert not verify(disk).differences

    asyncio.run(run())


# Crashes


def test_a_crash_voids_orphan_holds_before_anything_else() -> None:
    """What was held and not settled is free again; what was submitted and not durable is gone."""

    async def run() -> None:
        disk = MemoryDisk()
        store = MemoryStore(disk)
        books = open_books(store, usd=USD)
        await books.reserve("orphan", CENT).durable()
        books.reserve("lost", CENT).settle(charge("lost", 5))
        store.crash()
        again = open_books(MemoryStore(disk), register=False)
        assert again.spendable()[0][Currency.USD] == USD
        recovery = again.book.recover()
        assert recovery.holds_voided == 1
        assert recovery.durable is not None
        await recovery.durable
        assert again.book.recover().holds_voided == 0
        assert not list(disk.holds())
        assert not verify(disk).differences

    asyncio.run(run())


def test_the_window_of_an_instant() -> None:
    """Windows are UTC days."""
    assert day_window(MIDNIGHT - 1) == "E:2026-01-01"
    assert day_window(MIDNIGHT) == "E:2026-01-02"
