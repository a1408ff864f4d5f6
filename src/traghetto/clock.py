"""Time, behind one small Protocol, so that tests and the simulation can own it.

Deadlines use the monotonic side (or the event loop's time); windows and records use UTC.
"""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import Final, Protocol

UTC_NS_MIN: Final = 946_684_800_000_000_000
"""The year 2000."""
UTC_NS_MAX: Final = 7_258_118_400_000_000_000
"""The year 2200: as far as clocks are moved, and well within the columns of the books."""


class Clock(Protocol):
    """Where the product reads time."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    def utc_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z; may be stepped by the operating system."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utc_ns(self) -> int:
        return time.time_ns()


class ManualClock:
    """A clock that moves when it is told to; both sides move together unless stepped."""

    def __init__(self, utc_ns: int = 1_767_225_600_000_000_000) -> None:
        self._monotonic = 0.0
        self._utc_ns = utc_ns

    def monotonic(self) -> float:
        return self._monotonic

    def utc_ns(self) -> int:
        return self._utc_ns

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both sides."""
        self._monotonic += seconds
        self._utc_ns += round(seconds * 1e9)

    def step_utc(self, seconds: float) -> None:
        """Step the wall clock (forward or back) without letting time pass."""
        self._utc_ns += round(seconds * 1e9)


def iso8601(utc_ns: int) -> str:
    """`utc_ns` as `2026-01-01T00:00:00.000Z`."""
    seconds, nanoseconds = divmod(utc_ns, 1_000_000_000)
    return f"{_iso8601_second(seconds)}.{nanoseconds // 1_000_000:03d}Z"


@functools.lru_cache(maxsize=4)
def _iso8601_second(utc_seconds: int) -> str:
    """The part before the milliseconds; every answer of one second has the same."""
    return f"{datetime.fromtimestamp(utc_seconds, UTC):%Y-%m-%dT%H:%M:%S}"
