"""What may be spent, and which of three codes says that it is too little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from traghetto.errors import ErrorCode
from traghetto.money import NANO_PER_USD, Currency

FLOOR_NANO_USD: Final = NANO_PER_USD // 10
"""Admission needs 0.10 USD, summed over currencies (contract A.2, code 5), where the price of a
request is known only afterwards."""

_LIMIT_CODES: Final = {
    Currency.DIEM: ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED,
    Currency.USD: ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED,
}


class Spendable(msgspec.Struct, frozen=True, gc=False):
    """What could be spent now, in nano_usd; a currency the account does not have is absent.

    Open holds are already subtracted.
    """

    clamped: dict[Currency, int]
    """Bounded by the key's limits as well. Where two currencies count against one limit, what the
    first could take of it is not counted again for the second, so that the sum is true."""
    unclamped: dict[Currency, int]
    """By the account alone."""

    def counted(self) -> dict[Currency, int]:
        """What the key could spend, by the currency it counts as: bundled credits are USD."""
        sums: dict[Currency, int] = {}
        for currency, amount in self.clamped.items():
            counted = currency.counted_as
            sums[counted] = sums.get(counted, 0) + amount
        return sums


def limit_code(currency: Currency) -> ErrorCode:
    """What a request is told that its key's limit keeps from spending `currency`."""
    return _LIMIT_CODES[currency.counted_as]


def admits(
    amounts: Mapping[Currency, int],
    least_nano_usd: int = 1,
    floor_nano_usd: int = FLOOR_NANO_USD,
) -> bool:
    """Whether these amounts reach the floor, and one of them is enough to pay with (C.5)."""
    return sum(amounts.values()) >= floor_nano_usd and max(amounts.values()) >= least_nano_usd


def refusal(
    spendable: Spendable, least_nano_usd: int = 1, floor_nano_usd: int = FLOOR_NANO_USD
) -> ErrorCode:
    """Why a request is not admitted: the key's limit, if the account alone would do.

    The limit is that of the first currency that it keeps from paying.
    """
    if admits(spendable.unclamped, least_nano_usd, floor_nano_usd):
        for currency, amount in spendable.unclamped.items():
            if amount >= least_nano_usd and spendable.clamped[currency] < amount:
                return limit_code(currency)
    return ErrorCode.INSUFFICIENT_BALANCE
