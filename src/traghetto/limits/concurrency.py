"""A gate before a model: so many calls at the same time, a short fair queue, then a refusal.

Waiting accounts take turns, so one account's burst delays its own calls and not those of others.
Within an account the oldest call goes first until it has waited for half of the time it may; from
then on the newest does, because the old ones are about to be refused anyway and an answer that
comes just too late helps nobody.

Invariants: `leave` is called exactly once for each entry; a freed slot goes to a waiter before any
newcomer; a cancelled or refused call never keeps a slot. The time left for a refused caller is
estimated from how fast slots came free while the gate was full.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Final

from traghetto.clock import Clock
from traghetto.errors import ApiError, ErrorCode

RETRY_SECONDS_MAX: Final = 60
_SMOOTHING: Final = 0.2
"""Weight of the newest interval in the moving average."""


class _Waiter:
    """A call in the queue; its future is resolved when it owns a slot."""

    __slots__ = ("deadline", "entered", "principal", "since")

    def __init__(
        self, principal: str, entered: asyncio.Future[None], since: float, deadline: float
    ) -> None:
        self.principal = principal
        self.entered = entered
        self.since = since
        self.deadline = deadline


class Gate:
    """Admission to one model; without `concurrency_max` everybody passes at once."""

    def __init__(
        self,
        clock: Clock,
        *,
        concurrency_max: int | None,
        queue_max: int = 0,
        queue_seconds_max: float = 2.0,
    ) -> None:
        self._clock = clock
        self._concurrency_max = concurrency_max
        self._queue_max = queue_max
        self._queue_seconds_max = queue_seconds_max
        self._active = 0
        self._waiting = 0
        # Accounts in the order of their turns; no queue in it is empty.
        self._queues: dict[str, deque[_Waiter]] = {}
        self._full_since: float | None = None
        self._interval_seconds: float | None = None

    @property
    def active(self) -> int:
        """Calls inside."""
        return self._active

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return self._waiting

    def try_enter(self) -> bool:
        """Enter at once if a slot is free and nobody waits for it."""
        if self._concurrency_max is None:
            return True
        if self._active >= self._concurrency_max:
            return False
        self._take_slot()
        return True

    async def enter(self, principal: str) -> None:
        """Enter, after waiting if need be; raises MODEL_AT_CAPACITY at once or in good time.

        `principal` is who takes turns: the account.
        """
        if self.try_enter():
            return
        if self._waiting >= self._queue_max or self._queue_seconds_max <= 0:
            raise self._refusal("the queue is full")
        waiter = self._enqueue(principal)
        timer = asyncio.get_running_loop().call_later(self._queue_seconds_max, self._expire, waiter)
        try:
            await waiter.entered
        except asyncio.CancelledError:
            if waiter.entered.done() and not waiter.entered.cancelled():
                # The slot was handed over in the same turn of the loop: pass it on. (If the turn
                # was a refusal instead, its exception has to be looked at.)
                if waiter.entered.exception() is None:
                    self.leave()
            else:
                self._dequeue(waiter)
            raise
        finally:
            timer.cancel()

    def leave(self) -> None:
        """Give the slot back, or straight to the next call that waits."""
        if self._concurrency_max is None:
            return
        assert self._active > 0, "a slot is given back once"
        now = self._clock.monotonic()
        self._note_departure(now)
        waiter = self._next_waiter(now)
        if waiter is None:
            self._active -= 1
            self._full_since = None
        else:
            waiter.entered.set_result(None)

    def retry_after_seconds(self) -> int:
        """When a newcomer would be served within its waiting time, at the present pace."""
        interval = self._interval_seconds
        if interval is None:
            seconds = self._queue_seconds_max
        else:
            wait = (self._waiting + 1) * interval
            seconds = max(interval, wait - self._queue_seconds_max)
        return max(1, min(RETRY_SECONDS_MAX, math.ceil(seconds)))

    def _take_slot(self) -> None:
        self._active += 1
        if self._active == self._concurrency_max:
            self._full_since = self._clock.monotonic()

    def _note_departure(self, now: float) -> None:
        """Learn the time between departures, which means something only while the gate is full."""
        if self._full_since is None:
            return
        interval = now - self._full_since
        known = self._interval_seconds
        self._interval_seconds = (
            interval if known is None else known + _SMOOTHING * (interval - known)
        )
        self._full_since = now

    def _enqueue(self, principal: str) -> _Waiter:
        now = self._clock.monotonic()
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(principal, entered, now, now + self._queue_seconds_max)
        self._queues.setdefault(principal, deque()).append(waiter)
        self._waiting += 1
        return waiter

    def _dequeue(self, waiter: _Waiter) -> None:
        queue = self._queues.get(waiter.principal)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            self._waiting -= 1
            if not queue:
                del self._queues[waiter.principal]

    def _next_waiter(self, now: float) -> _Waiter | None:
        """Take the next call out of the queue: the account's turn first, then within it."""
        for principal in list(self._queues):
            queue = self._queues.pop(principal)
            waiter: _Waiter | None = None
            while queue and waiter is None:
                is_late = now - queue[0].since > self._queue_seconds_max / 2
                candidate = queue.pop() if is_late else queue.popleft()
                self._waiting -= 1
                if candidate.entered.done():
                    continue
                waiter = candidate
            if queue:
                self._queues[principal] = queue
            if waiter is not None:
                return waiter
        return None

    def _expire(self, waiter: _Waiter) -> None:
        if not waiter.entered.done():
            self._dequeue(waiter)
            waiter.entered.set_exception(self._refusal("no slot came free in time"))

    def _refusal(self, reason: str) -> ApiError:
        return ApiError(
            ErrorCode.MODEL_AT_CAPACITY,
            retry_after_seconds=self.retry_after_seconds(),
            reason=reason,
        )
