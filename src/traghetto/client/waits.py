"""When a server wants to be asked again: `Retry-After` and the headers of rate limits.

Invariant: what is returned is a finite number of seconds from now, and never negative.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

_NUMBER: Final = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_UNIX_SECONDS_MIN: Final = 1e9
_UNIX_MILLISECONDS_MIN: Final = 1e12
_WINDOWS: Final = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-remaining", "x-ratelimit-resets"),  # the budget of failed requests
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
)
"""How much is left in a window, and when it begins anew."""


def wait_seconds(headers: Mapping[str, str], status: int, now: float | None = None) -> float | None:
    """How long `headers` (names in lower case) ask to wait; None if they do not say.

    A 429 without `Retry-After` waits for the windows that are used up. Times are compared with the
    server's own `Date`, so that a clock that is wrong here does no harm; `now` stands in for it.
    """
    present = _date(headers.get("date")) or now or datetime.now(UTC).timestamp()
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    asked = headers.get("retry-after")
    if (seconds := _number(asked)) is not None:
        return seconds
    if (moment := _date(asked)) is not None:
        return max(0.0, moment - present)
    if status != HTTPStatus.TOO_MANY_REQUESTS:
        return None
    used_up = [reset for left, reset in _WINDOWS if _number(headers.get(left)) == 0]
    resets = (headers.get(reset) for reset in used_up or [_WINDOWS[0][1]])
    waits = [wait for reset in resets if (wait := _until(reset, present)) is not None]
    return max(waits, default=None)


def _until(reset: str | None, present: float) -> float | None:
    """Seconds until a reset: servers write a time, in seconds or milliseconds, or a wait."""
    number = _number(reset)
    if number is None or number < _UNIX_SECONDS_MIN:
        return number
    moment = number / 1000 if number >= _UNIX_MILLISECONDS_MIN else number
    return max(0.0, moment - present)


def _number(text: str | None) -> float | None:
    return None if text is None or not _NUMBER.fullmatch(text.strip()) else float(text)


def _date(text: str | None) -> float | None:
    """The moment of an HTTP date, in seconds since 1970."""
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
