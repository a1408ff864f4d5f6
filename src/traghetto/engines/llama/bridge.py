"""From worker threads to the event loop: a bounded queue whose consumer may leave at any time.

Invariants: a producer never blocks once the consumer has left, and never keeps more than
`CHUNKS_PENDING_MAX` chunks waiting. Only the loop's thread touches the queue itself.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final, Generic, TypeVar

T = TypeVar("T")

CHUNKS_PENDING_MAX: Final = 1024


class Bridge(Generic[T]):
    """Carries items from any number of threads to one consumer on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._pending: list[T] = []
        self._room = threading.Semaphore(CHUNKS_PENDING_MAX)
        self._left = False

    def put(self, item: T) -> bool:
        """From a worker: hand over `item`, waiting for room. True says that nobody wants more."""
        self._room.acquire()
        if self._left:
            self._room.release()  # let the next producer find out as well
            return True
        try:
            self._loop.call_soon_threadsafe(self._deliver, item)
        except RuntimeError:  # the loop is closed, and the consumer with it
            return True
        return False

    async def take(self) -> list[T]:
        """On the loop: everything that has arrived, in order per producer; none after `leave`."""
        while not self._pending and not self._left:
            self._arrived.clear()
            await self._arrived.wait()
        items, self._pending = self._pending, []
        if items:
            self._room.release(len(items))
        return items

    def leave(self) -> None:
        """On the loop: nobody wants more. Producers stop at their next item, `take` returns."""
        self._left = True
        self._arrived.set()
        self._room.release()

    def _deliver(self, item: T) -> None:
        self._pending.append(item)
        self._arrived.set()
