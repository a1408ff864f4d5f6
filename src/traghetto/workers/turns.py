"""Who waits for something, and whose turn it is: principals in turn, each one's own in order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Turns(Generic[Value]):
    """A bounded queue in which nobody waits behind all that another has to be done.

    `principal` is who takes turns: an account, or "" for who is none.
    """

    def __init__(self, waiting_max: int) -> None:
        """A single principal has at most half of the places, so that the others have some."""
        self._waiting_max = waiting_max
        self._own_waiting_max = max(1, waiting_max // 2)
        self._queues: dict[str, deque[asyncio.Future[Value]]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._waiting

    def is_full_for(self, principal: str) -> bool:
        """Whether `principal` may not wait."""
        own = len(self._queues.get(principal, ()))
        return self._waiting >= self._waiting_max or own >= self._own_waiting_max

    def join(self, principal: str) -> asyncio.Future[Value]:
        """A place at the end of the principal's own queue."""
        turn: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(principal, deque()).append(turn)
        self._waiting += 1
        return turn

    def leave(self, principal: str, turn: asyncio.Future[Value]) -> None:
        """Wait no more; nothing happens if it was `turn`'s turn already."""
        queue = self._queues.get(principal)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._waiting -= 1
            if not queue:
                del self._queues[principal]

    def next(self) -> asyncio.Future[Value] | None:
        """Whose turn it is, taken out; None if nobody waits."""
        while self._queues:
            principal = next(iter(self._queues))
            queue = self._queues.pop(principal)
            turn = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[principal] = queue  # behind all others
            if not turn.done():
                return turn
        return None
