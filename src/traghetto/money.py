"""Money is an integer of 1e-9 USD (`nano_usd`); this module holds every conversion and rounding.

Invariants: no float appears here; a line of a charge is rounded once, half to even; DIEM has the
same scale (1 DIEM = 1 USD). Amounts are bounded by the 64-bit column that stores them.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from decimal import (
    MAX_EMAX,
    MIN_EMIN,
    Context,
    Decimal,
    DecimalException,
    Inexact,
    InvalidOperation,
)
from typing import Final

NANO_PER_USD: Final = 1_000_000_000
NANO_USD_MAX: Final = 2**63 - 1
"""Largest amount a signed 64-bit column holds (about 9.2e9 USD)."""
LIMIT_NANO_USD_MAX: Final = 9_999_999_999 * NANO_PER_USD
"""Largest spend limit of a key (contract B.12): more than any balance can reach."""

_NUMBER: Final = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""What a person may write: no spaces, no separators, no digits of other scripts."""
_EXACT: Final = Context(prec=64, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[Inexact, InvalidOperation])
"""Refuses what it would have to round: an amount is taken as it is written, or not at all."""

TOKENS_PER_PRICE: Final = 1_000_000
"""Token prices are quoted per one million tokens (contract C.6)."""


class Currency(enum.StrEnum):
    """What an account pays with, in the order in which it is consumed (contract C.5)."""

    DIEM = "DIEM"
    BUNDLED_CREDITS = "BUNDLED_CREDITS"
    """USD that came with a subscription: spent before money that was paid in."""
    USD = "USD"

    @property
    def counted_as(self) -> Currency:
        """The currency in whose limit and totals it counts: bundled credits are USD."""
        return _COUNTED_AS[self]


_COUNTED_AS: Final = {
    Currency.DIEM: Currency.DIEM,
    Currency.BUNDLED_CREDITS: Currency.USD,
    Currency.USD: Currency.USD,
}
COUNTED_CURRENCIES: Final = (Currency.DIEM, Currency.USD)
"""The currencies that limits, headers and totals name."""


class LimitPeriod(enum.StrEnum):
    """The window of a key's spend limit: a UTC day, a calendar month (UTC), or for ever."""

    EPOCH = "EPOCH"
    MONTH = "MONTH"
    LIFETIME = "LIFETIME"


@dataclass(frozen=True, slots=True)
class SpendLimits:
    """What one API key may spend in each window, in nano_usd; None is no limit, 0 blocks."""

    diem_nano_usd: int | None = None
    usd_nano_usd: int | None = None
    period: LimitPeriod = LimitPeriod.EPOCH

    def of(self, currency: Currency) -> int | None:
        """The limit that spending in `currency` counts against; bundled credits are USD."""
        return self.diem_nano_usd if currency is Currency.DIEM else self.usd_nano_usd


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """A price as an exact rational: `nano_usd` for every `per_units` units."""

    nano_usd: int
    per_units: int = TOKENS_PER_PRICE

    def times(self, units: int) -> int:
        """The price of `units` units in nano_usd, rounded once, half to even."""
        return divide_half_even(units * self.nano_usd, self.per_units)

    def ceiling(self, units: int) -> int:
        """An upper bound of `times(units)` in nano_usd: what a hold must cover."""
        return -(-units * self.nano_usd // self.per_units)


FREE: Final = UnitPrice(0)


def divide_half_even(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded half to even; both integers, `denominator` > 0."""
    quotient, remainder = divmod(numerator, denominator)
    twice = remainder * 2
    if twice > denominator or (twice == denominator and quotient & 1):
        quotient += 1
    return quotient


def parse_usd(text: str | int | Decimal, *, nano_usd_max: int = NANO_USD_MAX) -> int:
    """An amount of USD (or DIEM) written by a person or a file, as nano_usd.

    Raises ValueError for anything that is not a finite decimal with at most 9 decimal places and
    at most `nano_usd_max`. Floats are not accepted: read TOML with `parse_float=Decimal`.
    """
    if isinstance(text, str) and not _NUMBER.fullmatch(text):
        raise ValueError(f"not an amount of money: {text!r}")
    try:
        amount = _EXACT.multiply(Decimal(text), NANO_PER_USD)
        exact = amount.is_finite() and amount == _EXACT.to_integral_value(amount)
    except Inexact:  # more digits than any amount has
        exact = False
    except (DecimalException, TypeError):
        raise ValueError(f"not an amount of money: {text!r}") from None
    if not exact:
        raise ValueError(f"an amount has at most 9 decimal places and is finite: {text!r}")
    if amount.copy_abs() > nano_usd_max:
        raise ValueError(f"an amount is at most {nano_usd_max // NANO_PER_USD} USD: {text!r}")
    return int(amount)


def format_usd(nano_usd: int, places: int | None = None) -> str:
    """`nano_usd` as a plain decimal number: exact, or rounded half to even to `places`.

    The exact form has no exponent and no trailing zeros (`1250000000` is `1.25`, `0` is `0`), so
    it is also a JSON number.
    """
    if places is not None:
        scale = 10 ** (9 - places)
        nano_usd = divide_half_even(nano_usd, scale) * scale
    sign = "-" if nano_usd < 0 else ""
    whole, fraction = divmod(abs(nano_usd), NANO_PER_USD)
    if places is not None:
        return f"{sign}{whole}.{fraction:09d}"[: len(sign) + len(str(whole)) + 1 + places]
    if not fraction:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:09d}".rstrip("0")
