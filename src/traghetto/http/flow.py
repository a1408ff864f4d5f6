"""Back pressure on one connection, and whose it is."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Flow control that knows for how long it was we who did not read.

    A client is not blamed for that time: the deadlines of its body do not run in it.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)
        self._loop = loop
        self._paused_at = 0.0
        self._paused_seconds = 0.0

    def pause_reading(self) -> None:
        if not self.read_paused:
            self._paused_at = self._loop.time()
        super().pause_reading()

    def resume_reading(self) -> None:
        if self.read_paused:
            self._paused_seconds += self._loop.time() - self._paused_at
        super().resume_reading()

    def paused_seconds(self) -> float:
        """In all, up to now."""
        now = self._loop.time() - self._paused_at if self.read_paused else 0.0
        return self._paused_seconds + now
