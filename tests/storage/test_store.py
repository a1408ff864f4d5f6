"""Both stores, one suite: what was reported durable is there, in order, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.books import USD, account_row, charge, key_row, open_books
from support.places import KINDS, Place, open_place
from traghetto.ledger.verify import verify
from traghetto.money import Currency, SpendLimits
from traghetto.storage.connector import StoreBroken
from traghetto.storage.facts import (
    DIEM_GRANT,
    AllocationSet,
    AnswerKept,
    BalanceRow,
    HoldClosed,
    HoldExtended,
    HoldOpened,
    KeptBytes,
    KeySpendRow,
)

DAY = "E:2026-01-01"
HOUR_NS = 3_600_000_000_000


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request.param, tmp_path) as opened:
        yield opened


def hold(request_id: str, amount: int = 5) -> HoldOpened:
    return HoldOpened(request_id, "a", "k", Currency.USD, "", DAY, amount, 1, 2)


def test_durable_facts_survive_the_process(place: Place) -> None:
    """Accounts, keys, balances, spending and holds are read back as they were written."""

    async def run() -> None:
        store = place.open()
        books = open_books(store, usd=3 * USD, diem=USD)
        taken = books.reserve("r1", USD, SpendLimits(diem_nano_usd=0))
        await taken.durable()
        await taken.settle(charge("r1", 7, 5)).durable
        await books.reserve("r2", USD // 2).durable()
        await store.aclose()
        store = place.open()
        state = store.load(DAY)
        await store.aclose()
        assert state.accounts == (account_row(),)
        assert state.keys == (key_row(),)
        assert state.allocations == (AllocationSet("a", USD),)
        assert set(state.balances) == {
            BalanceRow("a", Currency.USD, "", 3 * USD - 12),
            BalanceRow("a", Currency.DIEM, DAY, USD),
        }
        assert state.key_spends == (KeySpendRow("k", Currency.USD, DAY, 12),)
        assert state.key_lifetimes == (KeySpendRow("k", Currency.USD, "", 12),)
        assert [row.request_id for row in state.holds] == ["r2"]
        assert not verify(place.snapshot()).differences

    asyncio.run(run())


def test_kept_answers_are_counted_by_the_hour(place: Place) -> None:
    """An account's answers that expire in one hour are one row, of their sizes together."""

    async def run() -> None:
        store = place.open()
        open_books(store)
        kept = [
            (b"1", b"abc", 0),
            (b"2", b"de", HOUR_NS - 1),
            (b"3", None, 0),
            (b"4", b"f", HOUR_NS),
        ]
        await store.submit(
            [
                AnswerKept(name * 32, "k", b"p" * 32, sealed, expires_ns)
                for name, sealed, expires_ns in kept
            ]
        )
        await store.aclose()
        store = place.open()
        assert set(store.load(DAY).kept_bytes) == {
            KeptBytes(0, "a", 5, 3),
            KeptBytes(1, "a", 1, 1),
        }
        await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("restarted", [False, True])
def test_cutting_and_restoring_an_allocation_grants_nothing_again(
    place: Place, restarted: bool
) -> None:
    """A day's window is topped up to the highest allocation of the day, whoever set it when."""

    async def run() -> None:
        store = place.open()
        books = open_books(store, diem=10 * USD)
        books.reserve("r", USD).settle(charge("r", USD))
        for allocation, left in ((0, 9), (10, 9), (4, 9), (12, 11), (0, 11), (12, 11), (13, 12)):
            await books.book.grant_diem("a", allocation * USD)
            if restarted:
                await store.aclose()
                store = place.open()
                books = open_books(store, clock=books.clock, register=False)
            assert books.spendable()[0][Currency.DIEM] == left * USD
        books.clock.advance(86_400)
        assert books.spendable()[0][Currency.DIEM] == 13 * USD
        await store.aclose()
        assert not verify(place.snapshot()).differences
        granted = [row for row in place.snapshot().entries() if row.debit == DIEM_GRANT]
        assert [row.amount // USD for row in granted] == [10, 2, 1, 13]

    asyncio.run(run())


def test_a_hold_row_follows_its_hold(place: Place) -> None:
    """Extending changes the row, ending removes it, within one batch and across batches."""

    async def run() -> None:
        store = place.open()
        store.submit((account_row(), key_row()))
        await store.submit((hold("across"), hold("stays"), hold("grown"), HoldExtended("grown", 9)))
        await store.submit((hold("within"), HoldExtended("within", 8), HoldClosed("within")))
        await store.submit((HoldExtended("stays", 11), HoldClosed("across")))
        rows = {row.request_id: row.amount for row in store.load(DAY).holds}
        await store.aclose()
        assert rows == {"stays": 11, "grown": 9}

    asyncio.run(run())


def test_a_commit_fails_once_and_for_ever(place: Place) -> None:
    """A refused batch fails its waiters, those behind it and every later one; nothing is kept."""

    async def run() -> None:
        store = place.open()
        books = open_books(store, usd=USD)
        await books.reserve("r", 10).settle(charge("r", 10)).durable
        books.clock.advance(1)
        told: list[str] = []
        store.on_broken = told.append
        twice = books.reserve("r", 10).settle(charge("r", 10)).durable
        with pytest.raises(StoreBroken) as failure:
            await twice
        assert not store.healthy
        with pytest.raises(StoreBroken):
            await store.submit((account_row("b"),))
        async with asyncio.timeout(5):
            while not told:  # the callback comes after the waiters, in a turn of its own
                await asyncio.sleep(0.001)
        assert told == [str(failure.value)], "whoever runs the process hears of it once"
        await store.aclose()
        assert len(told) == 1
        assert [row.id for row in place.snapshot().accounts()] == ["a"]
        assert not verify(place.snapshot()).differences

    asyncio.run(run())


def test_unknown_parents_are_refused(place: Place) -> None:
    """A key without an account cannot be stored."""

    async def run() -> None:
        store = place.open()
        with pytest.raises(StoreBroken):
            await store.submit((key_row(account_id="nobody"),))
        await store.aclose()

    asyncio.run(run())


def test_cancelling_one_waiter_leaves_the_others(place: Place) -> None:
    """The future of a batch is shared; a cancelled request must not cancel its neighbours."""

    async def run() -> None:
        store = place.open()
        durable = store.submit((account_row(),))

        async def wait() -> None:
            await durable

        first, second = asyncio.create_task(wait()), asyncio.create_task(wait())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()
        assert durable.result() is None
        await store.aclose()

    asyncio.run(run())


def test_closing_writes_what_was_submitted(place: Place) -> None:
    """`aclose` waits for the last batch; afterwards the store refuses."""

    async def run() -> None:
        store = place.open()
        told: list[str] = []
        store.on_broken = told.append
        durable = store.submit((account_row(),))
        await store.aclose()
        assert [row.id for row in place.snapshot().accounts()] == ["a"]
        await durable
        assert not store.healthy
        assert not told, "an end is no failure"
        with pytest.raises(StoreBroken):
            await store.submit((account_row("b"),))

    asyncio.run(run())


def test_many_writers_share_commits(place: Place) -> None:
    """A thousand concurrent requests leave books that verify."""

    async def run() -> None:
        store = place.open()
        books = open_books(store, usd=1_000 * USD)

        async def request(number: int) -> None:
            taken = books.reserve(f"r{number}", 1_000)
            if number % 2:
                await taken.durable()
            if number % 5:
                await taken.settle(charge(f"r{number}", number, 1)).durable
            elif (written := taken.void()) is not None:
                await written

        await asyncio.gather(*map(request, range(1_000)))
        await store.aclose()
        found = verify(place.snapshot())
        assert found.usages == 800
        assert found.open_holds == 0
        assert not found.differences

    asyncio.run(run())
