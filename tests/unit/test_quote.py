"""Prices: the bound of a request covers its charge, and every kind of failure has a code."""

from decimal import ROUND_HALF_EVEN, Decimal

from hypothesis import given
from hypothesis import strategies as st

from traghetto.catalog.model import TextPricing
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.money import UnitPrice
from traghetto.pipeline.failures import CHAT_CODES, chat_error
from traghetto.pipeline.quote import charge_lines, quote_chat, version_of
from traghetto.wire.completion import BackendUsage

PRICES = st.builds(UnitPrice, st.integers(0, 10**12))
PRICINGS = st.builds(TextPricing, PRICES, PRICES, PRICES, PRICES)
TOKENS = st.integers(0, 10**7)


@given(PRICINGS, TOKENS, TOKENS, TOKENS)
def test_a_quote_covers_what_is_charged(
    pricing: TextPricing, prompt: int, output: int, cached: int
) -> None:
    """No usage within the bounds costs more than the hold, whatever was cached."""
    usage = BackendUsage(prompt, output, min(cached, prompt))
    charged = sum(line.amount_nano_usd for line in charge_lines(pricing, usage))
    assert charged <= quote_chat(pricing, prompt, output).nano_usd


def test_a_quote_covers_a_prompt_that_is_rounded_up_twice() -> None:
    """Three cached tokens and three others, at half a nano-dollar each, cost 4 and not 3."""
    half = UnitPrice(500_000)
    pricing = TextPricing(half, UnitPrice(1_000_000), half, half)
    lines = charge_lines(pricing, BackendUsage(6, 1, 3))
    assert [line.amount_nano_usd for line in lines] == [2, 2, 1]
    assert quote_chat(pricing, 6, 1).nano_usd == 5


@given(PRICINGS, TOKENS, st.integers(1, 10**7), TOKENS)
def test_lines_agree_with_decimal_arithmetic(
    pricing: TextPricing, prompt: int, output: int, cached: int
) -> None:
    """Each line is the exact product, rounded once, half to even."""
    cached = min(cached, prompt)
    expected = {
        "prompt": (prompt - cached, pricing.input),
        "cached_prompt": (cached, pricing.cache_input),
        "completion": (output, pricing.output),
    }
    for line in charge_lines(pricing, BackendUsage(prompt, output, cached)):
        units, price = expected[line.kind]
        exact = Decimal(units) * price.nano_usd / price.per_units
        assert line.amount_nano_usd == exact.quantize(Decimal(1), ROUND_HALF_EVEN)


@given(PRICINGS, PRICINGS, TOKENS, st.integers(1, 10**7), TOKENS)
def test_a_price_version_explains_every_line(
    pricing: TextPricing, other: TextPricing, prompt: int, output: int, cached: int
) -> None:
    """What the books keep beside a charge is enough to compute it again, years later."""
    version = version_of(pricing)
    prices = dict(word.split("=") for word in version.split())
    for line in charge_lines(pricing, BackendUsage(prompt, output, min(cached, prompt))):
        nano_usd, per_units = map(int, prices[line.kind].split("/"))
        assert line.amount_nano_usd == UnitPrice(nano_usd, per_units).times(line.units)
    charged_alike = (pricing.input, pricing.cache_input, pricing.output) == (
        other.input,
        other.cache_input,
        other.output,
    )
    assert (version == version_of(other)) == charged_alike


def test_an_answer_without_output_costs_nothing() -> None:
    """Zero output tokens are free (contract A.4)."""
    price = UnitPrice(1_000_000_000)
    pricing = TextPricing(price, price, price, price)
    assert charge_lines(pricing, BackendUsage(100, 0)) == ()


def test_every_kind_of_failure_has_a_code() -> None:
    """The map of the chat endpoint is total."""
    assert CHAT_CODES.keys() == set(FailureKind)


def test_only_fields_of_the_callers_own_body_are_named() -> None:
    """A backend cannot put its words, or names of its own, into our answer."""
    failure = EngineFailure(
        FailureKind.REJECTED_INPUT,
        "refused",
        fields=("messages.0.content", "messages.9.content", "api_base", "temperature"),
    )
    error = chat_error(failure, {"messages": [{"content": "x"}], "temperature": 1})
    assert error.fields == ("messages.0.content", "temperature")
