"""The lab's time: that of the machine, and as much more as was asked for."""

from __future__ import annotations

import time

from traghetto.clock import UTC_NS_MAX, UTC_NS_MIN


class LabClock:
    """The machine's clocks, which can be moved.

    Windows, epochs and expiries follow it; so do the times a client is told to wait. Deadlines of
    calls that are under way are the event loop's, and are not touched.
    """

    def __init__(self) -> None:
        self._ahead_seconds = 0.0
        self._utc_ahead_ns = 0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_seconds

    def utc_ns(self) -> int:
        return time.time_ns() + self._utc_ahead_ns

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both sides; raises ValueError past the end of all calendars."""
        ahead_ns = round(seconds * 1e9)
        if self.utc_ns() + ahead_ns > UTC_NS_MAX:
            raise ValueError("the clock ends with the year 2200")
        self._ahead_seconds += seconds
        self._utc_ahead_ns += ahead_ns

    def set(self, utc_ns: int) -> None:
        """Let the time pass until then; a time in the past only steps the wall clock back."""
        if not UTC_NS_MIN <= utc_ns <= UTC_NS_MAX:
            raise ValueError("the clock knows the years from 2000 to 2200")
        ahead_ns = utc_ns - self.utc_ns()
        if ahead_ns > 0:
            self.advance(ahead_ns / 1e9)
        else:
            self._utc_ahead_ns += ahead_ns
