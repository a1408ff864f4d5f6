"""Dates and times as clients write them, as UTC nanoseconds."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final

INSTANT_NS_MAX: Final = 2**63 - 1
"""As far as a 64-bit column reaches: the year 2262."""
DATE_MAX: Final = "2262-04-11"
_NS_PER_SECOND: Final = 1_000_000_000
_NS_DIGITS: Final = 9


def date_ns(text: str) -> int | None:
    """The first moment of a date such as `2026-11-23`; None if there is no such day."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return (day - date(1970, 1, 1)).days * 86_400 * _NS_PER_SECOND


def instant_ns(text: str) -> int | None:
    """A date and time of RFC 3339, its fraction to the nanosecond; None if it does not exist."""
    body = text.upper()
    offset = "+00:00"
    if body.endswith("Z"):
        body = body[:-1]
    elif len(body) > 6 and body[-6] in "+-":
        body, offset = body[:-6], body[-6:]
    whole, _, fraction = body.partition(".")
    try:
        moment = datetime.fromisoformat(f"{whole}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    return seconds * _NS_PER_SECOND + int(fraction[:_NS_DIGITS].ljust(_NS_DIGITS, "0") or 0)
