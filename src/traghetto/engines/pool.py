"""The pool of one chat model: what an attempt is, and when its answer counts as good.

Choice of a replica, retries and health are `engines.replicas`'.

Invariants: `complete` and `open_stream` raise `EngineFailure` and nothing else (besides
cancellation); every attempt ends exactly once; cancelling a call closes its connection.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator
from typing import Any, Final

from traghetto.engines.classify import error_inside
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.member import Attempt, Replica
from traghetto.engines.protocols import ChatBackend, ChatCall
from traghetto.engines.replicas import Availability, ReplicaPool, before
from traghetto.engines.stream import ChatStream, evidence_of_chat
from traghetto.wire.completion import Completion, decode_answer, parse_completion
from traghetto.wire.sse import DONE

__all__ = ["Availability", "ChatStream", "ModelPool", "Replica"]

COUNT_SECONDS_MAX: Final = 5.0
"""Counting a prompt is quick or not worth waiting for."""


class ModelPool(ReplicaPool[ChatBackend]):
    """Everything that serves one chat model."""

    @functools.cached_property
    def _counts_tokens(self) -> bool:
        return all(member.counts_tokens for member in self._members)

    async def complete(self, call: ChatCall, principal: str) -> Completion:
        """One whole answer, its structure checked; raises EngineFailure."""
        deadline = asyncio.get_running_loop().time() + self._deadlines.total_seconds

        async def attempt_whole(attempt: Attempt[ChatBackend]) -> Completion:
            answer = await before(deadline, attempt.member.backend.complete(call))
            completion = _checked(answer)
            attempt.succeeded()
            return completion

        return await self._run(
            attempt_whole, lambda: evidence_of_chat(call, principal), deadline, call.affinity
        )

    async def open_stream(self, call: ChatCall, principal: str) -> ChatStream:
        """A stream whose first event has arrived and is good; raises EngineFailure.

        The caller must close it.
        """
        deadline = asyncio.get_running_loop().time() + self._deadlines.first_event_seconds
        between = self._deadlines.between_events_seconds

        async def attempt_stream(attempt: Attempt[ChatBackend]) -> ChatStream:
            events = attempt.member.backend.stream(call)
            try:
                first = await before(deadline, _first_of(events))
            except BaseException:
                await events.aclose()
                raise
            return ChatStream(attempt, events, first, call, principal, between)

        return await self._run(
            attempt_stream, lambda: evidence_of_chat(call, principal), deadline, call.affinity
        )

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        """The exact number of prompt tokens, or None where no replica can tell.

        A replica that cannot say so now is no reason to refuse: the backend decides then.
        """
        member = self._choose(call.affinity, ()) if self._counts_tokens else None
        if member is None:
            return None
        try:
            return await before(
                asyncio.get_running_loop().time() + COUNT_SECONDS_MAX,
                member.backend.count_prompt_tokens(call),
            )
        except EngineFailure as failure:
            if failure.kind is FailureKind.CONTEXT_EXCEEDED:
                raise
            return None


def _checked(answer: dict[str, Any]) -> Completion:
    if (failure := error_inside(answer)) is not None:
        raise failure
    try:
        return parse_completion(answer)
    except ValueError as error:
        raise EngineFailure(FailureKind.BROKEN, str(error)) from error


async def _first_of(events: AsyncGenerator[list[bytes], None]) -> list[bytes]:
    """The first payloads of a stream; raises EngineFailure if the very first one is no good."""
    first = await anext(events, None)
    if first is None or first[0] == DONE:
        raise EngineFailure(FailureKind.BROKEN, "the stream ended before its first event")
    try:
        event = decode_answer(first[0])
    except ValueError as error:
        raise EngineFailure(FailureKind.BROKEN, "the first event is not JSON") from error
    if (failure := error_inside(event)) is not None:
        raise failure
    if not isinstance(event, dict):
        raise EngineFailure(FailureKind.BROKEN, "the first event is not a JSON object")
    return first
