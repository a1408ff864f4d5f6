"""What a finished request costs: lines from the price list, and the usage they hang from.

Invariant: a value that the books would refuse cannot be made, so that a backend's nonsense fails
its own request and never a commit that others share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec

from traghetto.money import NANO_USD_MAX, UnitPrice
from traghetto.storage.facts import Basis

__all__ = ["Basis", "Charge", "ChargeLine", "Usage", "bounded", "price_version"]

TOKENS_MAX: Final = 2**48
"""More than any request can use; keeps counts and their sums within 64 bits."""


_PRICE: Final = re.compile(r"(\d{1,30})/([1-9]\d{0,30})", re.ASCII)
PRICES_MAX: Final = 4096
"""How many prices are remembered after they were read from an entry."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """What a request used, and where the counts come from."""

    request_id: str
    account_id: str
    key_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    basis: Basis
    streamed: bool
    created_ns: int
    duration_ms: int = 0
    """From admission to the charge."""

    def __post_init__(self) -> None:
        if not (
            0 <= self.prompt_tokens <= TOKENS_MAX
            and 0 <= self.completion_tokens <= TOKENS_MAX
            and 0 <= self.cached_tokens <= TOKENS_MAX
            and 0 <= self.reasoning_tokens <= TOKENS_MAX
        ):
            raise ValueError("a token count is out of range")


class ChargeLine(msgspec.Struct, frozen=True, gc=False):
    """One priced kind of unit, such as `input`, rounded once (see `UnitPrice.times`)."""

    kind: str
    units: int
    amount_nano_usd: int


class Charge(msgspec.Struct, frozen=True):
    """The price of a request: at most one line per kind."""

    lines: tuple[ChargeLine, ...]
    usage: Usage
    price_version: str
    """The prices it was made by, as `price_version` writes them."""

    def __post_init__(self) -> None:
        total = 0
        for line in self.lines:
            if line.amount_nano_usd < 0:
                raise ValueError(f"the line {line.kind} has a negative amount")
            total += line.amount_nano_usd
        if total > NANO_USD_MAX:
            raise ValueError("a charge is larger than a column of the books")
        if len({line.kind for line in self.lines}) < len(self.lines):
            raise ValueError("two lines of one kind")

    @property
    def total_nano_usd(self) -> int:
        """What the price list asks for."""
        return sum(line.amount_nano_usd for line in self.lines)


def price_version(prices: Mapping[str, UnitPrice]) -> str:
    """The prices of all kinds of lines as the text that entries keep: equal prices, equal text.

    It explains an entry on its own: `prompt=1000000000/1000000` is nano_usd per units, and the
    entry's amount is its units times that, rounded once, unless a hold bounded it.
    """
    return " ".join(f"{kind}={prices[kind].nano_usd}/{prices[kind].per_units}" for kind in prices)


@lru_cache(maxsize=PRICES_MAX)
def price_of(version: str, kind: str) -> UnitPrice | None:
    """The price that `price_version` wrote for lines of `kind`; None if it wrote none."""
    for part in version.split():
        name, _, price = part.partition("=")
        if name == kind and (numbers := _PRICE.fullmatch(price)) is not None:
            return UnitPrice(int(numbers[1]), int(numbers[2]))
    return None


def bounded(lines: tuple[ChargeLine, ...], nano_usd_max: int) -> list[ChargeLine]:
    """`lines` with amounts cut, from the last line backwards, to a sum of at most the bound."""
    left = nano_usd_max
    kept = []
    for line in lines:
        amount = min(line.amount_nano_usd, left)
        left -= amount
        kept.append(ChargeLine(line.kind, line.units, amount))
    return kept
