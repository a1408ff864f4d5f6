"""A stream from a backend that has begun: its deadlines, and how it ends for the breaker.

Invariants: the backend's generator is closed exactly once; the attempt ends exactly once, as a
success when `[DONE]` came, as a failure when the stream broke or the reader says so, otherwise as
abandoned. One timer per stream is re-armed when it fires, not once per event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from traghetto.engines.breaker import Evidence
from traghetto.engines.chat_pictures import described
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.member import Attempt
from traghetto.engines.protocols import ChatBackend, ChatCall
from traghetto.wire.sse import DONE

_NEVER: Final = float("inf")


def evidence_of_chat(call: ChatCall, principal: str) -> Evidence:
    """What a breaker is shown when `call` fails: equal requests of one caller count as one."""
    body = described(call.body) if call.has_pictures else call.body
    return Evidence(principal, hash(msgspec.json.encode(body)))


class ChatStream:
    """An async iterator over the payloads of a stream's events, one non-empty list per read.

    Iterating raises EngineFailure when the backend breaks the stream or is silent for too long.
    Only time spent waiting for the backend counts, not the reader's own.
    """

    def __init__(
        self,
        attempt: Attempt[ChatBackend],
        events: AsyncGenerator[list[bytes], None],
        first: list[bytes],
        call: ChatCall,
        principal: str,
        between_events_seconds: float,
    ) -> None:
        """`first` is what the opened stream has already given."""
        self._attempt = attempt
        self._events = events
        self._first: list[bytes] | None = first
        self._call = call
        self._principal = principal
        self._between = between_events_seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = _NEVER
        self._waiter: asyncio.Task[object] | None = None
        self._reader: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._is_late = False
        self._is_ended = False

    @property
    def backend(self) -> str:
        """The name of the backend that answers."""
        return self._attempt.member.name

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> list[bytes]:
        payloads = self._first
        if payloads is not None:
            self._first = None
        else:
            payloads = await self._next()
        if payloads[-1] == DONE:
            self._disarm()
            self._is_ended = True
        return payloads

    def fail(self, failure: EngineFailure) -> None:
        """Say that the stream is broken in a way only its reader could see.

        Also of a stream that came to its end: whether that was a good one, its reader judges.
        """
        self._disarm()
        self._attempt.failed(failure, evidence_of_chat(self._call, self._principal))

    async def aclose(self) -> None:
        """Stop the backend's work, or let go of a stream that ended; may be called twice."""
        self._disarm()
        if self._is_ended:
            self._attempt.succeeded()
        else:
            self._attempt.abandoned()
        await self._events.aclose()

    async def _next(self) -> list[bytes]:
        self._deadline = self._loop.time() + self._between
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        reader = self._reader
        if reader is None:
            # A stream has one reader for its life; asking who runs costs more than the rest here.
            reader = self._reader = asyncio.current_task()
        self._waiter = reader
        try:
            return await self._events.__anext__()
        except StopAsyncIteration:
            if not self._is_ended:
                self.fail(EngineFailure(FailureKind.BROKEN, "the stream ended without `[DONE]`"))
            raise
        except EngineFailure as failure:
            self.fail(failure)
            raise
        except asyncio.CancelledError:
            late = self._failure_of_cancellation()
            if late is None:
                raise
            self.fail(late)
            raise late from None
        finally:
            self._waiter = None

    def _failure_of_cancellation(self) -> EngineFailure | None:
        """The failure if it was our timer that cancelled the reader, and nobody else did."""
        if self._is_late and self._waiter is not None:
            self._is_late = False
            if self._waiter.uncancel() <= self._cancellations:
                return EngineFailure(FailureKind.TIMED_OUT, "no event within the deadline")
        return None

    def _on_timer(self) -> None:
        now = self._loop.time()
        if self._waiter is None:
            # The reader is busy; its next wait sets a deadline no earlier than this.
            self._timer = self._loop.call_at(now + self._between, self._on_timer)
        elif now < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        else:
            self._timer = None
            self._is_late = True
            self._cancellations = self._waiter.cancelling()
            self._waiter.cancel()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
