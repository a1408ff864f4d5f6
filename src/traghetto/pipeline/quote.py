"""What a chat request can cost at most, and what it did cost: pure functions over prices."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from traghetto.catalog.model import TextPricing
from traghetto.ledger.book import ChargeLine, price_version
from traghetto.wire.completion import BackendUsage

OUTPUT_SLICE_TOKENS = 512
"""How far ahead of a stream its hold reaches where holds are extended while it runs."""


PRICE_LISTS_MAX = 1024
"""How many price lists keep their text in memory: more than a catalog usually has models."""


class Quote(msgspec.Struct, frozen=True):
    """An upper bound of a request, in tokens and nano_usd."""

    pricing: TextPricing
    prompt_tokens: int
    output_tokens: int
    nano_usd: int


def quote_chat(pricing: TextPricing, prompt_tokens: int, output_tokens: int) -> Quote:
    """The bound that a hold covers: every prompt token at the dearest price it can have."""
    inputs = (pricing.input, pricing.cache_input, pricing.cache_write)
    bound = max(price.ceiling(prompt_tokens) for price in inputs)
    if any(price.nano_usd % price.per_units for price in inputs):
        bound += 1  # a prompt can be two lines, and both can be rounded up from a half
    bound += pricing.output.ceiling(output_tokens)
    return Quote(pricing, prompt_tokens, output_tokens, bound)


@lru_cache(maxsize=PRICE_LISTS_MAX)
def version_of(pricing: TextPricing) -> str:
    """What the books keep of the prices beside a charge: those of every line it can have."""
    return price_version(
        {
            "prompt": pricing.input,
            "cached_prompt": pricing.cache_input,
            "completion": pricing.output,
        }
    )


def charge_lines(pricing: TextPricing, usage: BackendUsage) -> tuple[ChargeLine, ...]:
    """The lines of a charge, each rounded once; an answer without output has none (A.4)."""
    if not usage.completion_tokens:
        return ()
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    lines = (
        ("prompt", usage.prompt_tokens - cached, pricing.input),
        ("cached_prompt", cached, pricing.cache_input),
        ("completion", usage.completion_tokens, pricing.output),
    )
    return tuple(
        ChargeLine(kind, units, price.times(units)) for kind, units, price in lines if units
    )
