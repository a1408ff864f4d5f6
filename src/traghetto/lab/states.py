"""THE STATES: accounts and keys in each condition that decides what a request gets.

One row each: what the account is, what the key is, and what the key has spent already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class State:
    """A condition; its members are arguments of the operators' operations."""

    summary: str
    account: Mapping[str, Any] = field(default_factory=dict)
    key: Mapping[str, Any] = field(default_factory=dict)
    spent_usd: str | None = None
    """What the key has paid before, in the first currency that its account has."""
    is_expired: bool = False


_FUNDED: Final = {"usd": "10"}

STATES: Final[Mapping[str, State]] = {
    "fresh": State("10 USD, and a key without limits", _FUNDED),
    "broke": State("no funds at all"),
    "diem-only": State("10 DIEM a day, no USD", {"diem": "10"}),
    "bundled-only": State("10 USD of bundled credits, nothing else", {"bundled": "10"}),
    "pro": State("10 USD, and the Pro models", _FUNDED | {"pro": True}),
    "beta": State("10 USD, and the feature `beta`", _FUNDED | {"features": ("beta",)}),
    "partner": State("10 USD, and the rate limits of partners", _FUNDED | {"tier": "partner"}),
    "inactive": State("its subscription is inactive", _FUNDED | {"subscription": "inactive"}),
    "disabled": State("its access to the API is disabled", _FUNDED | {"disabled": True}),
    "expired": State("the key has expired", _FUNDED, is_expired=True),
    "usd-limit-reached": State(
        "the key has spent its limit of 1 USD; `period` says until when",
        _FUNDED,
        {"limit_usd": "1"},
        spent_usd="1",
    ),
    "diem-limit-reached": State(
        "the key has spent its limit of 1 DIEM; `period` says until when",
        {"diem": "10"},
        {"limit_diem": "1"},
        spent_usd="1",
    ),
    "private-only": State(
        "the key may use private models alone", _FUNDED, {"privacy": "PRIVATE_ONLY"}
    ),
    "private-text": State(
        "the key may use private text models alone", _FUNDED, {"privacy": "PRIVATE_TEXT"}
    ),
    "openai-errors": State("errors come as OpenAI's objects", _FUNDED, {"openai_errors": True}),
    "admin": State("an ADMIN key", _FUNDED, {"admin": True}),
}
