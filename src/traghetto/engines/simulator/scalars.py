"""Strings and numbers within the bounds of a schema."""

from __future__ import annotations

import math
import random
from decimal import Decimal
from typing import Any, Final

import jsonschema_rs

from traghetto.engines.simulator.combining import Schema, Unsatisfiable

CHARACTERS_MAX: Final = 100_000
_SPAN: Final = 100
"""How far above its lower bound an unbounded number may lie."""
_WORDS: Final = ("simulated", "simulated text", "simulated value", "simulated answer")

_BY_FORMAT: Final = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "simulated@example.com",
    "idn-email": "simulated@example.com",
    "hostname": "simulated.example.com",
    "idn-hostname": "simulated.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/simulated",
    "uri-reference": "/simulated",
    "iri": "https://example.com/simulated",
    "iri-reference": "/simulated",
    "uri-template": "https://example.com/{simulated}",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "/simulated",
    "relative-json-pointer": "0/simulated",
    "regex": "simulated",
}

_STOCK: Final = (
    *_WORDS,
    *_BY_FORMAT.values(),
    *("Simulated", "SIMULATED", "simulated_text", "simulated-text", "simulated.txt", "/simulated"),
    *("", "a", "A", "ab", "AB", "abc", "ABC", "A1", "a1", "A-1", "AB-12", "ABC-123", "abc123"),
    *("0", "1", "12", "123", "1234", "12345", "123456", "12345678", "1234567890", "1.0", "1.0.0"),
    *("#ffffff", "#fff", "0x00", "+10000000000", "2026-01", "12:00", "12:00:00", "en", "en-US"),
    *("USD", "a" * 32, "0" * 32, "0" * 40, "0" * 64, "0x" + "0" * 40, "0x" + "0" * 64, "@a", "$1"),
)
"""Words that are tried against a pattern."""


def make_string(flat: Schema, rng: random.Random) -> str:
    """A string within the lengths, of the format, and, if a stock word does, of the pattern."""
    shortest = flat.get("minLength", 0)
    longest = flat.get("maxLength", CHARACTERS_MAX)
    if shortest > min(longest, CHARACTERS_MAX):
        raise Unsatisfiable("its strings are too long")
    if (pattern := flat.get("pattern")) is not None:
        return _make_matching(pattern, shortest, longest, rng)
    if (known := _BY_FORMAT.get(flat.get("format", ""))) is not None:
        return known
    word = rng.choice(_WORDS)[:longest]
    return word if len(word) >= shortest else (word + " " + "x" * shortest)[:shortest]


def _make_matching(pattern: str, shortest: int, longest: int, rng: random.Random) -> str:
    try:
        validator = jsonschema_rs.validator_for(
            {"type": "string", "pattern": pattern, "minLength": shortest, "maxLength": longest},
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except ValueError as error:
        raise Unsatisfiable("it has a pattern that is not understood") from error
    matching = [word for word in _STOCK if validator.is_valid(word)]
    if not matching:
        raise Unsatisfiable("it has a pattern that no stock word meets")
    return rng.choice(matching)


def make_number(flat: Schema, kind: str, rng: random.Random) -> int | float:
    """A number within the bounds, a multiple where one is asked for; integers where possible."""
    low, low_open = _bound(flat, "minimum", "exclusiveMinimum", max)
    high, high_open = _bound(flat, "maximum", "exclusiveMaximum", min)
    step = flat.get("multipleOf")
    if step is not None:
        return _make_multiple(Decimal(str(step)), low, high, kind, rng)
    first = None if low is None else math.floor(low) + 1 if low_open else math.ceil(low)
    last = None if high is None else math.ceil(high) - 1 if high_open else math.floor(high)
    if first is None:
        first = 0 if last is None or last >= 0 else last - _SPAN
    if last is None:
        last = first + _SPAN
    if first <= last:
        return rng.randint(first, min(last, first + _SPAN))
    if kind == "integer" or low is None or high is None or low > high:
        raise Unsatisfiable("its bounds leave no number")
    return float(low + high) / 2


def _make_multiple(
    step: Decimal, low: Any, high: Any, kind: str, rng: random.Random
) -> int | float:
    if step <= 0:
        raise Unsatisfiable("its step is not positive")
    first = 0 if low is None else math.floor(Decimal(str(low)) / step)
    if high is not None:
        first = min(first, math.floor(Decimal(str(high)) / step)) if low is None else first
    # The first few multiples, in any order: which of them the open bounds allow, and which are
    # integers, the check below and the validator say.
    for count in rng.sample(range(first, first + _SPAN), _SPAN):
        value = step * count
        if (low is None or value >= Decimal(str(low))) and (
            high is None or value <= Decimal(str(high))
        ):
            if value == value.to_integral_value():
                return int(value)
            if kind == "number":
                return float(value)
    raise Unsatisfiable("its bounds leave no multiple")


def _bound(flat: Schema, closed: str, exclusive: str, narrower: Any) -> tuple[Any, bool]:
    """A bound, or None, and whether the bound itself is excluded."""
    inner, outer = flat.get(closed), flat.get(exclusive)
    if isinstance(outer, bool):  # draft 4: a flag beside the bound
        return inner, outer and inner is not None
    if inner is None or outer is None:
        return (outer, True) if inner is None and outer is not None else (inner, False)
    return (outer, True) if narrower(inner, outer) == outer else (inner, False)
