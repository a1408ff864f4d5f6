"""Money: exact, rounded once, half to even."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.money import (
    FREE,
    NANO_USD_MAX,
    Currency,
    LimitPeriod,
    SpendLimits,
    UnitPrice,
    divide_half_even,
    format_usd,
    parse_usd,
)


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**15))
def test_division_rounds_as_decimal_does(numerator: int, denominator: int) -> None:
    """Half to even, by an independent implementation, for either sign."""
    exact = Decimal(numerator) / Decimal(denominator)
    quotient = divide_half_even(numerator, denominator)
    assert abs(quotient * denominator - numerator) * 2 <= denominator
    if abs(exact) < 10**12:
        assert quotient == int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


@given(st.integers(0, 10**9), st.integers(0, 10**12))
def test_a_price_is_at_most_its_ceiling(units: int, nano_usd: int) -> None:
    """A hold made from ceilings covers the charge, by less than one unit of rounding."""
    price = UnitPrice(nano_usd)
    assert price.times(units) <= price.ceiling(units) <= price.times(units) + 1


@given(st.integers(-NANO_USD_MAX, NANO_USD_MAX))
def test_amounts_survive_being_written(nano_usd: int) -> None:
    """Formatting without rounding and parsing are inverse; no exponent, no trailing zero."""
    text = format_usd(nano_usd)
    assert parse_usd(text) == nano_usd
    assert "e" not in text.lower()
    assert "." not in text or not text.endswith("0")


@pytest.mark.parametrize(
    ("nano_usd", "places", "text"),
    [
        (0, None, "0"),
        (1, None, "0.000000001"),
        (1_250_000_000, None, "1.25"),
        (-500_000_000, None, "-0.5"),
        (1_234_567_890, 4, "1.2346"),
        (50_000, 4, "0.0000"),
        (150_000, 4, "0.0002"),
        (2_000_000_000, 6, "2.000000"),
        (-1_250_000_000, 4, "-1.2500"),
    ],
)
def test_formats(nano_usd: int, places: int | None, text: str) -> None:
    """Plain decimal numbers, rounded half to even where places are asked for."""
    assert format_usd(nano_usd, places) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "abc", "1_000", " 5 ", "٣", "$5", "NaN", "sNaN", "Infinity", "1,5",
        "9223372037", "1e30", "1e999999", "-1e999999", "1e999999999999999999",
        "0.0000000001", "1e-999999999", "9000000000.00000000000000000001", "1e999999999",
    ],
)  # fmt: skip
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    """Anything that is not a finite decimal of at most nine places within 64 bits."""
    with pytest.raises(ValueError):
        parse_usd(text)


def test_nothing_is_rounded_on_the_way_in() -> None:
    """An amount that would have to be rounded is refused."""
    with pytest.raises(ValueError):
        parse_usd(Decimal(1) / Decimal(3))


def test_limits_are_per_currency() -> None:
    """The limit of a currency; None is no limit, 0 blocks."""
    limits = SpendLimits(diem_nano_usd=0, usd_nano_usd=None, period=LimitPeriod.MONTH)
    assert limits.of(Currency.DIEM) == 0
    assert limits.of(Currency.USD) is None
    assert FREE.times(10**9) == 0
