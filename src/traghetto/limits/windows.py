"""Fixed windows of a minute that begin with their first request, one for each pair of names.

Invariant: memory is bounded, and finding a window takes constant time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from traghetto.clock import Clock

WINDOW_SECONDS: Final = 60.0
WINDOWS_MAX: Final = 100_000
"""Above it the oldest window is forgotten: under such load a name may get a fresh one early."""


class Window:
    """What was used in one window."""

    __slots__ = ("end", "requests", "tokens")

    def __init__(self, end: float) -> None:
        self.end = end
        """Monotonic seconds."""
        self.requests = 0
        self.tokens = 0


class Windows:
    """The windows that are open, or were until lately."""

    def __init__(self, clock: Clock, *, windows_max: int = WINDOWS_MAX) -> None:
        self._clock = clock
        self._windows_max = windows_max
        # Ordered by end: all windows are equally long, and a new one goes to the back.
        # (An OrderedDict, because finding the front of a dict gets slow as the front is deleted.)
        self.by_name: OrderedDict[tuple[str, str], Window] = OrderedDict()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self.by_name)

    def of(self, who: str, what: str) -> Window:
        """The open window of `who` for `what`."""
        now = self._clock.monotonic()
        window = self.by_name.get((who, what))
        if window is not None:
            if now < window.end:
                return window
            del self.by_name[who, what]
        window = self.by_name[who, what] = Window(now + WINDOW_SECONDS)
        self._forget_old(now)
        return window

    def _forget_old(self, now: float) -> None:
        """Drop up to two windows that have ended, so that they leave faster than new ones come."""
        for _ in range(2):
            oldest = next(iter(self.by_name))
            if now < self.by_name[oldest].end and len(self.by_name) <= self._windows_max:
                return
            del self.by_name[oldest]
