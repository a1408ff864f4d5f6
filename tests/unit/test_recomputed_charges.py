"""Charges, computed again by Python's decimal arithmetic from prices as an operator writes them.

Nothing here shares arithmetic with the product: prices are decimal text per million tokens, an
amount is a product of two decimals, and `decimal` rounds it, half to even.
"""

from __future__ import annotations

import random
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import pytest

from traghetto.catalog.model import TextPricing
from traghetto.money import UnitPrice, parse_usd
from traghetto.pipeline.quote import charge_lines, quote_chat, version_of
from traghetto.wire.completion import BackendUsage

USAGES = 1_000_000
CHUNKS = 8
USAGES_PER_LIST = 100
EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""More digits than the largest count at the highest price has, so that nothing is rounded twice."""
NANO_PER_TOKEN = 1000
"""What 1 USD per million tokens is in nano-dollars for each of them."""
COUNTS_MAX = (1, 9, 400, 4_096, 200_000, 100_000_000, 2**48)
HALF = Decimal("0.5")

Prices = tuple[str, str, str, str]
"""USD per million tokens: prompt, answer, prompt from the cache, prompt written to the cache."""


def random_price(rng: random.Random) -> str:
    """Whole, usual, awkward, half a nano-dollar for every other token, dust, or a fortune."""
    kind = rng.randrange(7)
    if kind == 0:
        return str(rng.randrange(100))
    if kind == 1:
        return f"{rng.randrange(1, 10_000) / 100:.2f}"
    if kind in {2, 3}:
        return f"{rng.randrange(20)}.{rng.randrange(10**9):09d}"
    if kind == 4:
        return f"0.{rng.randrange(1, 1000, 2) * 5:04d}"
    if kind == 5:
        return f"0.{rng.randrange(1, 1000):09d}"
    return f"{rng.randrange(10**9)}.{rng.randrange(10**9):09d}"


def random_prices(rng: random.Random) -> Prices:
    """A price list; for half of them it makes no difference what was cached."""
    prompt, output = random_price(rng), random_price(rng)
    if rng.random() < 0.5:
        return prompt, output, prompt, prompt
    return prompt, output, random_price(rng), random_price(rng)


def pricing_of(prices: Prices) -> TextPricing:
    """The price list as the product keeps it."""
    return TextPricing(*(UnitPrice(parse_usd(price)) for price in prices))


def prices_of_version(version: str) -> list[tuple[str, Decimal]]:
    """What the text beside an entry in the books says of a token: nano-dollars by kind of line."""
    prices = []
    for word in version.split(" "):
        kind, fraction = word.split("=")
        nano_usd, tokens = fraction.split("/")
        prices.append((kind, Decimal(nano_usd) / Decimal(tokens)))
    return prices


def random_usage(rng: random.Random) -> tuple[int, int, int]:
    """Tokens of prompt, answer and cache; a backend may claim more from its cache than it got."""
    most = rng.choice(COUNTS_MAX)
    prompt = int(rng.random() * most) + 1
    output = 0 if rng.random() < 0.02 else int(rng.random() * most) + 1
    share = rng.random()
    cached = 0 if share < 0.4 else prompt if share < 0.5 else int(share * 1.2 * prompt)
    return prompt, output, cached


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_million_charges_are_what_decimal_arithmetic_says(chunk: int) -> None:
    """A charge was wrong by a nano-dollar, or its own price text did not explain it, or its hold
    would have been smaller."""
    rng = random.Random(f"charges {chunk}")
    usages = ties = free = 0
    with localcontext(EXACT):
        while usages < USAGES // CHUNKS:
            prices = random_prices(rng)
            pricing = pricing_of(prices)
            prompt_price, output_price, cached_price, _ = (
                Decimal(price) * NANO_PER_TOKEN for price in prices
            )
            # Equal prices of a token make equal amounts: the text explains all that follow.
            assert prices_of_version(version_of(pricing)) == [
                ("prompt", prompt_price),
                ("cached_prompt", cached_price),
                ("completion", output_price),
            ]
            for _ in range(USAGES_PER_LIST):
                usages += 1
                prompt, output, cached = random_usage(rng)
                lines = charge_lines(pricing, BackendUsage(prompt, output, cached))
                charged = [(line.kind, line.units, line.amount_nano_usd) for line in lines]
                if not output:
                    free += 1
                    assert charged == []
                    continue
                cached = min(cached, prompt)
                expected = []
                total = 0
                for kind, tokens, price in (
                    ("prompt", prompt - cached, prompt_price),
                    ("cached_prompt", cached, cached_price),
                    ("completion", output, output_price),
                ):
                    if tokens:
                        exact = price * tokens
                        amount = int(exact.to_integral_value())
                        ties += abs(exact - amount) == HALF
                        total += amount
                        expected.append((kind, tokens, amount))
                assert charged == expected, prices
                assert total <= quote_chat(pricing, prompt, output).nano_usd, (prices, charged)
    # The hard cases were among them.
    assert ties > USAGES // CHUNKS // 20
    assert free > USAGES // CHUNKS // 100


@pytest.mark.parametrize(
    ("price", "tokens", "nano_usd"),
    [
        ("0.0005", 1, 0),
        ("0.0005", 3, 2),
        ("0.0005", 5, 2),
        ("0.0015", 1, 2),
        ("0.000499999", 1, 0),
        ("0.000500001", 1, 1),
        ("0.333333333", 3, 1000),
        ("2", 10**9, 2 * 10**12),
    ],
)
def test_a_half_is_rounded_to_the_even_neighbour(price: str, tokens: int, nano_usd: int) -> None:
    """Halves were rounded up or down always, or something else was taken for a half."""
    pricing = pricing_of(("0", price, "0", "0"))
    *_, line = charge_lines(pricing, BackendUsage(1, tokens))
    assert (line.kind, line.units, line.amount_nano_usd) == ("completion", tokens, nano_usd)
