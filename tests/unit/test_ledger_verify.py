"""Verification names every number that the journal does not explain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from support.books import USD, charge, open_books
from traghetto.ledger.book import Beside, Book, Hold, Receipt
from traghetto.ledger.charges import Charge
from traghetto.ledger.verify import verify
from traghetto.money import Currency
from traghetto.storage.connector import StoreBroken
from traghetto.storage.facts import HoldOpened
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
