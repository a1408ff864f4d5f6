"""What a finished request costs: lines from the price list, and the usage they hang from."""

from __future__ import annotations

import msgspec

from traghetto.storage.facts import Basis

__all__ = ["Basis", "Charge", "ChargeLine", "Usage", "bounded"]


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


class ChargeLine(msgspec.Struct, frozen=True, gc=False):
    """One priced kind of unit, such as `input`, rounded once (see `UnitPrice.times`)."""

    kind: str
    units: int
    amount_nano_usd: int


class Charge(msgspec.Struct, frozen=True):
    """The price of a request: at most one line per kind."""

    lines: tuple[ChargeLine, ...]
    usage: Usage
    price_version: str = ""

    @property
    def total_nano_usd(self) -> int:
        """What the price list asks for."""
        return sum(line.amount_nano_usd for line in self.lines)


def bounded(lines: tuple[ChargeLine, ...], nano_usd_max: int) -> list[ChargeLine]:
    """`lines` with amounts cut, from the last line backwards, to a sum of at most the bound."""
    left = nano_usd_max
    kept = []
    for line in lines:
        amount = min(line.amount_nano_usd, left)
        left -= amount
        kept.append(ChargeLine(line.kind, line.units, amount))
    return kept
