"""An event loop without time, sockets or threads: what asyncio leaves open is drawn by lot.

Callbacks run in the order in which they were registered, as asyncio promises. Everything that
comes from outside (bytes, commits, clients) comes through timers, and those are what the lot
decides about: each fires a little late, on the next tick of a coarse grid, so that events of
different requests meet in one turn or a few turns apart; those of one moment come in any order; a
turn itself takes some microseconds. One seed is one order of events.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

TICK_SECONDS = 0.001
TURN_SECONDS_MAX = 2e-5
JITTER_SECONDS = 6e-5
"""How much later than its tick a timer may fire: a few turns."""
START_SECONDS = 1_000.0
"""The loop's time at its beginning; no code may take 0 for a time that never was."""

_T = TypeVar("_T")


class NothingLeft(Exception):
    """Somebody waits, and nothing can ever happen again."""


class SimulatedLoop(asyncio.AbstractEventLoop):
    """A loop whose time passes only when nobody has anything to do."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random
        self._now = START_SECONDS
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, float, asyncio.TimerHandle]] = []
        self.complaints: list[str] = []
        """What a real loop would log: errors nobody looked at, generators nobody closed."""

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        lot = self._random()
        fires = math.ceil(max(when, self._now) / TICK_SECONDS) * TICK_SECONDS
        if lot < 0.5:
            fires += lot * 2 * JITTER_SECONDS
        heapq.heappush(self._timers, (fires, self._random(), handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, _T], **options: Any) -> asyncio.Task[_T]:
        return asyncio.Task(coro, loop=self, **options)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context['message']}: {error!r}" if error else context["message"])

    def run_until_complete(self, future: Coroutine[Any, Any, _T]) -> _T:
        """The result of a coroutine. Raises NothingLeft if it waits for what cannot come."""
        task = self.create_task(future)
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._note_abandoned)
        try:
            while not task.done():
                self._turn()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)
        return task.result()

    def _turn(self) -> None:
        ready, timers = self._ready, self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready:
            if not timers:
                raise NothingLeft
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        self._now += TURN_SECONDS_MAX * self._random()

    def _note_abandoned(self, generator: Any) -> None:
        self.complaints.append(f"left to the garbage collector: {generator.__qualname__}")


class SimulatedClock:
    """The product's `Clock` over a simulated loop."""

    def __init__(self, loop: SimulatedLoop, utc_ns: int) -> None:
        """`utc_ns` is the wall clock's time at the beginning."""
        self._loop = loop
        self._utc_ns = utc_ns

    def monotonic(self) -> float:
        return self._loop.time()

    def step_utc(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._utc_ns += int(seconds * 1e9)

    def utc_ns(self) -> int:
        return self._utc_ns + int((self._loop.time() - START_SECONDS) * 1e9)
