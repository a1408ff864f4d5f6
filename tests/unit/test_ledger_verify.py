"""Verification names every number that the journal does not explain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from support.books import USD, charge, open_books
from traghetto.ledger.book import Beside, Book, Hold, Receipt
from traghetto.ledger.charges import Charge, price_of
from traghetto.ledger.verify import verify
from traghetto.money import Currency
from traghetto.storage.connector import StoreBroken
from traghetto.storage.facts import EntryKind, HoldOpened
from traghetto.storage.memory import MemoryDisk, MemoryStore

DAY = "E:2026-01-01"


def written() -> MemoryDisk:
    disk = MemoryDisk()

    async def run() -> None:
        books = open_books(MemoryStore(disk), usd=USD, diem=USD)
        for number in range(3):
            await books.reserve(f"r{number}", 100).settle(charge(f"r{number}", 7, 5)).durable

    asyncio.run(run())
    return disk


def test_good_books_have_no_differences() -> None:
    """What was counted is said, and nothing differs."""
    found = verify(written())
    assert (found.entries, found.usages, found.open_holds) == (8, 3, 0)
    assert found.differences == ()


def _lose_an_entry(disk: MemoryDisk) -> None:
    disk._entries.popitem()


def _move_a_balance(disk: MemoryDisk) -> None:
    disk._balances["a", Currency.USD, ""] += 1


def _forget_a_balance(disk: MemoryDisk) -> None:
    del disk._balances["a", Currency.USD, ""]


def _invent_a_balance(disk: MemoryDisk) -> None:
    disk._balances["a", Currency.DIEM, "E:2025-12-31"] = 5


def _move_a_counter(disk: MemoryDisk) -> None:
    disk._key_spends["k", Currency.DIEM, DAY] -= 1


def _forget_a_usage(disk: MemoryDisk) -> None:
    disk._usages.pop("r1")


def _keep_a_hold(disk: MemoryDisk) -> None:
    disk._holds["r1"] = HoldOpened("r1", "a", "k", Currency.USD, "", DAY, 5, 1, 2)


@pytest.mark.parametrize(
    ("corrupt", "named"),
    [
        (_lose_an_entry, ["balance of account a", "spending of key k", "charge of request r2"]),
        (_move_a_balance, ["balance of account a in USD: the books say 1000000001"]),
        (_forget_a_balance, ["balance of account a in USD: the books say 0"]),
        (_invent_a_balance, ["balance of account a in DIEM E:2025-12-31"]),
        (_move_a_counter, ["spending of key k in DIEM E:2026-01-01"]),
        (_forget_a_usage, ["charge of request r1: the books say 0, the entries 12"]),
        (_keep_a_hold, ["hold of request r1, which has ended"]),
    ],
)
def test_every_corruption_is_named(corrupt: Callable[[MemoryDisk], None], named: list[str]) -> None:
    """Each way to damage the books is found, and only what was damaged is named."""
    disk = written()
    corrupt(disk)
    differences = [str(difference) for difference in verify(disk).differences]
    assert len(differences) == len(named)
    for difference, start in zip(differences, named, strict=True):
        assert difference.startswith(start)


PRICES = "line-0=7/10 line-1=5/10"
"""By which ten units cost what the charges below say."""


def priced(*bounds: int) -> MemoryDisk:
    """Charges of 12 nano-dollars by their prices, each within a hold of so many."""
    disk = MemoryDisk()

    async def run() -> None:
        books = open_books(MemoryStore(disk), usd=USD)
        for number, bound in enumerate(bounds):
            asked = charge(f"r{number}", 7, 5, version=PRICES)
            await books.reserve(f"r{number}", bound).settle(asked).durable

    asyncio.run(run())
    return disk


def test_a_charge_may_be_less_than_its_price_where_its_hold_was() -> None:
    """A bounded charge is no difference; a full one is its units at its prices."""
    assert verify(priced(100, 9, 7, 12)).differences == ()


@pytest.mark.parametrize(("bound", "amount"), [(100, 8), (100, 6), (9, 8)])
def test_a_charge_that_its_prices_do_not_explain_is_named(bound: int, amount: int) -> None:
    """Also where balance, counter and usage record were changed to agree with it."""
    disk = priced(bound)
    identity = ("r0", EntryKind.CHARGE, "line-0")
    change = amount - disk._entries[identity].amount
    disk._entries[identity] = msgspec.structs.replace(disk._entries[identity], amount=amount)
    disk._balances["a", Currency.USD, ""] -= change
    disk._key_spends["k", Currency.USD, DAY] += change
    usage = disk._usages["r0"]
    disk._usages["r0"] = msgspec.structs.replace(
        usage, charged=usage.charged + change, priced=max(usage.priced, usage.charged + change)
    )
    if bound == 100:
        disk._usages["r0"] = msgspec.structs.replace(disk._usages["r0"], priced=12 + change)
    (difference,) = verify(disk).differences
    assert str(difference).startswith(f"charge of request r0, line line-0: the books say {amount}")


@pytest.mark.parametrize(
    "version", ["", "line-0", "line-0=", "line-0=a/b", "line-0=1/0", "line-0=-1/2", "line-0=1/2/3"]
)
def test_a_price_that_cannot_be_read_explains_nothing(version: str) -> None:
    """Books of other origins have none: their charges are compared in every other way."""
    assert price_of(version, "line-0") is None


class SettlesTwice(Book):
    """A seeded defect: the second end of a hold is not noticed."""

    def settle_hold(self, hold: Hold, charge: Charge, beside: Beside) -> Receipt:
        super().settle_hold(hold, charge, beside)
        hold.ended = False
        self._open[hold.request_id] = hold
        return super().settle_hold(hold, charge, beside)


def test_a_seeded_double_settlement_is_refused_by_the_books() -> None:
    """Even if the book forgets, the journal's uniqueness stops the second charge."""

    async def run() -> None:
        disk = MemoryDisk()
        books = open_books(MemoryStore(disk), usd=USD)
        books.book.__class__ = SettlesTwice
        with pytest.raises(StoreBroken, match="repeated entry"):
            await books.reserve("r", 10).settle(charge("r", 3)).durable

    asyncio.run(run())
