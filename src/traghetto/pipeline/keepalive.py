"""Keep-alive comments in a quiet stream, so that intermediaries do not close it."""

from __future__ import annotations

import asyncio
from typing import Final

from traghetto.pipeline.exchange import Exchange

_COMMENT: Final = b": ping\n\n"


class StreamWriter:
    """Writes a stream's frames, and a comment whenever nothing was written for a while.

    Comments begin only after the first frame (before it, an HTTP error is still possible), and
    never interleave with a frame: while a write waits for the client, no comment is due.
    """

    __slots__ = ("_exchange", "_interval_seconds", "_last", "_loop", "_ping", "_timer", "_writing")

    def __init__(self, exchange: Exchange, interval_seconds: float) -> None:
        self._exchange = exchange
        self._interval_seconds = interval_seconds
        self._loop = asyncio.get_running_loop()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None
        self._writing = False

    async def write(self, frames: bytes, *, more: bool = True) -> None:
        """Send `frames`; returns once the connection has taken them."""
        if self._ping is not None:
            await self._ping
        self._writing = True
        try:
            await self._exchange.write(frames, more=more)
        finally:
            self._writing = False
        self._last = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval_seconds, self._look)

    def close(self) -> None:
        """Write no more comments."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()

    def _look(self) -> None:
        """Armed once and re-armed only when it fires: a busy stream costs no timers."""
        due = self._last + self._interval_seconds
        now = self._loop.time()
        if now >= due and not self._writing:
            self._ping = self._loop.create_task(self._write_comment())
            due = now + self._interval_seconds
        self._timer = self._loop.call_at(max(due, now + 0.01), self._look)

    async def _write_comment(self) -> None:
        try:
            await self._exchange.write(_COMMENT, more=True)
        finally:
            self._last = self._loop.time()
            self._ping = None
