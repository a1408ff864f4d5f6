"""The event loop and the writer of the store in step with each other, so that a seed is one history.

Both are the real ones, each in its own thread. Only when the writer takes a batch and when its
waiters hear of it is decided here: in between, the load goes on and fills the next batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from traghetto.storage import sqlite
from traghetto.storage.connector import Durable, StoreBroken
from traghetto.storage.sqlite import SqliteStore


class Turnstile:
    """The queue that wakes the writer: it lets the writer pass when the conductor says so."""

    def __init__(self) -> None:
        self._wakes: deque[bool] = deque()
        self._may_pass = threading.Semaphore(0)
        self._has_come = threading.Semaphore(0)

    def put(self, wake: bool) -> None:
        """Wake the writer; False ends it, once everything before is written."""
        self._wakes.append(wake)
        if not wake:
            self._may_pass.release()

    def get(self) -> bool:
        """Called by the writer."""
        self._has_come.release()
        self._may_pass.acquire()
        return self._wakes.popleft()

    @property
    def batch_waits(self) -> bool:
        """Whether anything was submitted since the last batch."""
        return bool(self._wakes)

    def let_pass(self, writer: threading.Thread) -> None:
        """Let the writer commit one batch, and wait until it has; not a turn of the loop passes."""
        self._wait_for(writer)  # it may still be on its way
        self._may_pass.release()
        self._wait_for(writer)
        self._has_come.release()  # and there it stands

    def _wait_for(self, writer: threading.Thread) -> None:
        while not self._has_come.acquire(timeout=0.1):
            if not writer.is_alive():
                raise StoreBroken("the writer has ended, which only a failed commit makes it do")


class LockstepLoop(asyncio.SelectorEventLoop):
    """Notes when the writer reports a batch durable, and tells its waiters when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.on_durable: Callable[[Durable], None] = lambda _: None
        """Called by the writer's thread: nobody can have heard of it earlier than now."""
        self._untold: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        durable = getattr(callback, "__self__", None)
        if not isinstance(durable, Durable):
            return super().call_soon_threadsafe(callback, *args, context=context)
        if args == (None,):
            self.on_durable(durable)
        self._untold.append((callback, args))
        return asyncio.Handle(callback, args, self, context)  # of which the writer makes no use

    def tell_waiters(self) -> None:
        """Deliver what the writer reported so far."""
        while self._untold:
            callback, args = self._untold.popleft()
            callback(*args)


@contextlib.contextmanager
def writers_in_step() -> Iterator[None]:
    """Stores that are opened in here wait for `conduct`."""
    with mock.patch.object(sqlite, "SimpleQueue", Turnstile):
        yield


async def turns(rng: random.Random, at_most: int) -> None:
    """Let others go on, for a few turns of the loop."""
    for _ in range(rng.randrange(at_most + 1)):
        await asyncio.sleep(0)


async def conduct(store: SqliteStore, rng: random.Random, finished: asyncio.Event) -> None:
    """Let the writer of `store` go on now and then, until there is no more to write."""
    loop = asyncio.get_running_loop()
    turnstile: Any = store._wake
    assert isinstance(loop, LockstepLoop)
    while not finished.is_set() or turnstile.batch_waits:
        await turns(rng, 8)
        if turnstile.batch_waits:
            turnstile.let_pass(store._writer)
            await turns(rng, 8)
            loop.tell_waiters()
