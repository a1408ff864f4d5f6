"""Dates and times as clients write them, as UTC nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

INSTANT_NS_MAX: Final = 2**63 - 1
"""As far as a 64-bit column reaches: the year 2262."""
DATE_MAX: Final = "2262-04-11"
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_INSTANT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-]\d\d:\d\d))", re.ASCII
)
_NS_PER_SECOND: Final = 1_000_000_000
_NS_DIGITS: Final = 9


def date_ns(text: str) -> int | None:
    """The first moment of a date such as `2026-11-23`; None if there is no such day."""
    if _DATE.fullmatch(text) is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return (day - date(1970, 1, 1)).days * 86_400 * _NS_PER_SECOND


def instant_ns(text: str) -> int | None:
    """A date and time of RFC 3339, its fraction to the nanosecond; None if it does not exist."""
    parts = _INSTANT.fullmatch(text)
    if parts is None:
        return None
    day, time, fraction, offset = parts.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{offset or '+00:00'}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * _NS_PER_SECOND + int((fraction or "")[:_NS_DIGITS].ljust(_NS_DIGITS, "0"))
