"""Two counters over the last ten seconds, in one-second steps: cheap enough for every request."""

from __future__ import annotations

from typing import Final

WINDOW_SECONDS: Final = 10


class SlidingCounts:
    """Pairs of counts of what happened in the current second and the nine before it.

    `now` is monotonic seconds and never goes back.
    """

    __slots__ = ("_first", "_second", "_stamp")

    def __init__(self) -> None:
        self._first = [0] * WINDOW_SECONDS
        self._second = [0] * WINDOW_SECONDS
        self._stamp = 0

    def add(self, now: float, first: int, second: int) -> None:
        """Count `first` and `second` more events at `now`."""
        place = self._advance(now)
        self._first[place] += first
        self._second[place] += second

    def totals(self, now: float) -> tuple[int, int]:
        """Both sums over the window that ends at `now`."""
        self._advance(now)
        return sum(self._first), sum(self._second)

    def clear(self) -> None:
        """Forget everything."""
        self._first = [0] * WINDOW_SECONDS
        self._second = [0] * WINDOW_SECONDS

    def _advance(self, now: float) -> int:
        second = int(now)
        passed = second - self._stamp
        if passed > 0:
            for step in range(min(passed, WINDOW_SECONDS)):
                place = (second - step) % WINDOW_SECONDS
                self._first[place] = self._second[place] = 0
            self._stamp = second
        return second % WINDOW_SECONDS
