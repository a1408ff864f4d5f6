"""A hold: funds set aside for one request, until exactly one of `settle` and `void`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from traghetto.ledger.charges import Charge
from traghetto.ledger.funds import Fund, KeyTallies, Tally
from traghetto.money import Currency
from traghetto.storage.facts import Fact

Durability = asyncio.Future[None]
"""Resolves when what was decided is on disk; fails with `StoreBroken`."""


Beside = Callable[[int], Iterable[Fact]]
"""What must become durable together with a charge; it is told what was charged, in nano_usd."""


def nothing_beside(_charged_nano_usd: int) -> Iterable[Fact]:
    """A charge that stands alone."""
    return ()


class Receipt(NamedTuple):
    """What a request was charged, and when that is on disk."""

    charged_nano_usd: int
    durable: Durability


class HoldEnded(Exception):
    """A hold was used after its end: a defect of the caller, or a hold that expired."""


class HoldKeeper(Protocol):
    """What a hold asks of the book it was taken from."""

    def write_hold(self, hold: Hold) -> Durability: ...
    def extend_hold(self, hold: Hold, nano_usd: int) -> bool: ...
    def settle_hold(self, hold: Hold, charge: Charge, beside: Beside) -> Receipt: ...
    def void_hold(self, hold: Hold) -> Durability | None: ...


class Hold:
    """Funds set aside; made by `Book.reserve`. Amounts are nano_usd, times monotonic seconds."""

    __slots__ = (
        "account_id",
        "amount_nano_usd",
        "created_ns",
        "ended",
        "exclusive_fund",
        "exclusive_limit",
        "expires_at",
        "fund",
        "keeper",
        "key_id",
        "key_limit",
        "key_window",
        "limit_tally",
        "request_id",
        "tallies",
        "written",
    )

    def __init__(
        self,
        keeper: HoldKeeper,
        request_id: str,
        account_id: str,
        key_id: str,
        fund: Fund,
        key_tallies: KeyTallies,
        limit_tally: Tally,
        key_limit: int | None,
    ) -> None:
        self.keeper = keeper
        self.request_id = request_id
        self.account_id = account_id
        self.key_id = key_id
        self.fund = fund
        self.tallies = (key_tallies.day, key_tallies.month, key_tallies.lifetime)
        self.key_window = key_tallies.day_window
        self.limit_tally = limit_tally
        self.key_limit = key_limit
        self.amount_nano_usd = 0
        self.exclusive_fund = False
        self.exclusive_limit = False
        self.created_ns = 0
        self.expires_at = 0.0
        self.ended = False
        self.written: Durability | None = None

    @property
    def currency(self) -> Currency:
        """What the request pays with."""
        return self.fund.currency

    def durable(self) -> Durability:
        """Write the hold, once; a stream waits for this before its first byte."""
        return self.keeper.write_hold(self)

    def extend(self, nano_usd: int) -> bool:
        """Take `nano_usd` more; False, and nothing taken, if funds or limits refuse."""
        return self.keeper.extend_hold(self, nano_usd)

    def settle(self, charge: Charge, beside: Beside = nothing_beside) -> Receipt:
        """End the hold with a charge, and with what belongs to it, in one commit.

        Raises HoldEnded the second time.
        """
        return self.keeper.settle_hold(self, charge, beside)

    def void(self) -> Durability | None:
        """End the hold without a charge; None if it never was on disk. Raises HoldEnded."""
        return self.keeper.void_hold(self)
