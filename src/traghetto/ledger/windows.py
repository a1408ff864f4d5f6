"""Windows of time as row keys: the UTC day of a DIEM allocation and of a key's spending.

Invariants: the current day never moves back within a process, nor to before the day that its books
were loaded for, whatever the wall clock does; nor do the times of what is written down.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final

from traghetto.clock import Clock

NO_WINDOW: Final = ""
"""The window of currencies that do not lapse."""
_DAY_NS: Final = 86_400 * 1_000_000_000


def day_window(utc_ns: int) -> str:
    """The window of the UTC day that holds `utc_ns`, such as `E:2026-11-23`."""
    return f"E:{datetime.fromtimestamp(utc_ns // 1_000_000_000, UTC):%Y-%m-%d}"


def window_of_date(day: date) -> str:
    """The window of a UTC day."""
    return f"E:{day}"


def month_of(day: str) -> str:
    """The month of a day window, such as `2026-11`."""
    return day[2:9]


class Calendar:
    """Tells the current day window; a step back of the wall clock stays in the later day."""

    __slots__ = ("_clock", "_day", "_ends_ns", "_latest_ns")

    def __init__(self, clock: Clock, first_day: str) -> None:
        """`first_day` is the window that the books were loaded for: earlier ones are not known."""
        self._clock = clock
        self._latest_ns = 0
        self._ends_ns = 0
        self._day = first_day

    def now_ns(self) -> int:
        """The time to write on an entry: the latest that the wall clock has shown."""
        self._latest_ns = max(self._latest_ns, self._clock.utc_ns())
        return self._latest_ns

    def today(self) -> str:
        """The window of the latest UTC day seen so far."""
        now = self.now_ns()
        if now >= self._ends_ns:
            self._ends_ns = (now // _DAY_NS + 1) * _DAY_NS
            self._day = max(self._day, day_window(now))
        return self._day
