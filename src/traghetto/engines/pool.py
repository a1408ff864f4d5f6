"""The replicas of one model, made dependable: choice, deadlines, retries, breakers, health.

A retry happens only before anything was handed over, only for kinds of failure that say so, on
another healthy replica first, at most twice, within the deadline, and within a budget of a tenth
of the recent requests, so that a failing backend is not hit much harder than a working one.

Invariants: `complete` and `open_stream` raise `EngineFailure` and nothing else (besides
cancellation); every attempt ends exactly once; cancelling a call closes its connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from traghetto.clock import Clock
from traghetto.engines.breaker import Breaker, Guard
from traghetto.engines.classify import error_inside
from traghetto.engines.failures import BreakerEffect, EngineFailure, FailureKind
from traghetto.engines.member import (
    Attempt,
    CountAttempt,
    Health,
    Member,
    Replica,
    Report,
)
from traghetto.engines.protocols import ChatCall, Deadlines
from traghetto.engines.stream import ChatStream
from traghetto.engines.window import SlidingCounts
from traghetto.wire.completion import Completion, decode_answer, parse_completion
from traghetto.wire.sse import DONE

__all__ = ["Availability", "ChatStream", "ModelPool", "Replica"]

RETRY_SHARE_MAX: Final = 0.10
RETRIES_ALWAYS: Final = 3
"""Retries that a window of ten seconds always allows, however few its requests."""
STALE_RETRIES_MAX: Final = 2
HEALTH_INTERVAL_SECONDS: Final = 10.0
COUNT_SECONDS_MAX: Final = 5.0
"""Counting a prompt is quick or not worth waiting for."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a model can be served at all now."""

    up: bool
    retry_after_seconds: int | None = None
    """Where it cannot: when it may be, if that is known."""


class ModelPool:
    """Everything that serves one model."""

    def __init__(
        self,
        model_id: str,
        replicas: Sequence[Replica],
        *,
        deadlines: Deadlines,
        clock: Clock,
        rng: random.Random,
        guard: Callable[[], Guard] = Guard,
        report: Report | None = None,
        on_attempt: CountAttempt | None = None,
    ) -> None:
        """`guard` gives `breaker.SINGLE_USER` while a server has one account only."""
        self.model_id: Final = model_id
        self._deadlines = deadlines
        self._clock = clock
        self._rng = rng
        self._members = tuple(
            Member(
                replica,
                model_id,
                Breaker(clock, rng, guard),
                report or _ignore_report,
                on_attempt or _ignore_attempt,
            )
            for replica in replicas
        )
        self._counts_tokens = all(replica.counts_tokens for replica in replicas)
        self._requests_and_retries = SlidingCounts()
        self._health_interval = HEALTH_INTERVAL_SECONDS
        self._health_task: asyncio.Task[None] | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """The replicas with their state, for metrics and the console."""
        return self._members

    def start(self, health_interval_seconds: float = HEALTH_INTERVAL_SECONDS) -> None:
        """Begin health checks of the replicas across the network; needs a running loop."""
        self._health_interval = health_interval_seconds
        if self._health_task is None and any(m.upstream_model for m in self._members):
            self._health_task = asyncio.get_running_loop().create_task(self._watch_health())

    async def aclose(self) -> None:
        """Stop the health checks and close every backend."""
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.wait([self._health_task])
            self._health_task = None
        for member in self._members:
            await member.backend.aclose()

    def available(self) -> Availability:
        """Whether some replica is there: working, or only asking for a pause."""
        for member in self._members:
            if member.is_usable or member.is_waiting_only:
                return Availability(up=True)
        return Availability(False, self._soonest_seconds())

    async def complete(self, call: ChatCall, principal: str) -> Completion:
        """One whole answer, its structure checked; raises EngineFailure."""
        deadline = asyncio.get_running_loop().time() + self._deadlines.total_seconds

        async def attempt_whole(attempt: Attempt) -> Completion:
            answer = await _before(deadline, attempt.member.backend.complete(call))
            completion = _checked(answer)
            attempt.succeeded()
            return completion

        return await self._run(call, principal, attempt_whole, deadline)

    async def open_stream(self, call: ChatCall, principal: str) -> ChatStream:
        """A stream whose first event has arrived and is good; raises EngineFailure.

        The caller must close it.
        """
        deadline = asyncio.get_running_loop().time() + self._deadlines.first_event_seconds
        between = self._deadlines.between_events_seconds

        async def attempt_stream(attempt: Attempt) -> ChatStream:
            events = attempt.member.backend.stream(call)
            try:
                first = await _before(deadline, _first_of(events))
            except BaseException:
                await events.aclose()
                raise
            return ChatStream(attempt, events, first, call, principal, between)

        return await self._run(call, principal, attempt_stream, deadline)

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        """The exact number of prompt tokens, or None where no replica can tell.

        A replica that cannot say so now is no reason to refuse: the backend decides then.
        """
        member = self._choose(call, ()) if self._counts_tokens else None
        if member is None:
            return None
        try:
            return await _before(
                asyncio.get_running_loop().time() + COUNT_SECONDS_MAX,
                member.backend.count_prompt_tokens(call),
            )
        except EngineFailure as failure:
            if failure.kind is FailureKind.CONTEXT_EXCEEDED:
                raise
            return None

    async def _run(
        self,
        call: ChatCall,
        principal: str,
        act: Callable[[Attempt], Awaitable[_T]],
        deadline: float,
    ) -> _T:
        """`act` on a replica, and on others as long as failures allow it."""
        self._requests_and_retries.add(self._clock.monotonic(), 1, 0)
        failures: list[EngineFailure] = []
        tried: list[Member] = []
        stale = 0
        member = self._choose(call, tried)
        while member is not None:
            attempt = member.begin()
            try:
                return await act(attempt)
            except EngineFailure as failure:
                if failure.stale_connection and stale < STALE_RETRIES_MAX:
                    stale += 1
                    attempt.abandoned()
                    continue
                attempt.failed(failure, call, principal)
                failures.append(failure)
                tried.append(member)
                member = self._next_after(failure, call, tried, deadline)
            except BaseException:
                attempt.abandoned()
                raise
        raise self._verdict(failures) from (failures[-1].__cause__ if failures else None)

    def _next_after(
        self, failure: EngineFailure, call: ChatCall, tried: list[Member], deadline: float
    ) -> Member | None:
        """Where to retry after the last of `tried` failed; None if that is not to be."""
        treatment = failure.kind.value
        if len(tried) > treatment.retry.value or asyncio.get_running_loop().time() >= deadline:
            return None
        member = self._choose(call, tried)
        if member is None and treatment.breaker is BreakerEffect.COUNT:
            # Busy and misconfigured replicas are not asked twice; a broken one may have recovered.
            member = self._choose(call, ())
        if member is None or not self._take_retry():
            return None
        return member

    def _take_retry(self) -> bool:
        now = self._clock.monotonic()
        requests, retries = self._requests_and_retries.totals(now)
        if retries >= max(RETRIES_ALWAYS, RETRY_SHARE_MAX * requests):
            return False
        self._requests_and_retries.add(now, 0, 1)
        return True

    def _choose(self, call: ChatCall, avoid: Sequence[Member]) -> Member | None:
        """The usable replica for a call: its affinity's unless much busier, else the least busy."""
        usable = [m for m in self._members if m.is_usable and m not in avoid]
        if len(usable) < 2:
            return usable[0] if usable else None
        least = min(usable, key=lambda m: (m.breaker.is_shunned, m.outstanding, self._rng.random()))
        if call.affinity is not None:
            affinity = call.affinity
            preferred = max(usable, key=lambda m: _rendezvous(affinity, m.name))
            if not preferred.breaker.is_shunned and (
                preferred.outstanding <= 2 * (least.outstanding + 1)
            ):
                return preferred
        return least

    def _verdict(self, failures: list[EngineFailure]) -> EngineFailure:
        """The failure of the whole call, after `failures` of its attempts (none: nobody to ask)."""
        if not failures:
            waiting = [m for m in self._members if m.is_waiting_only]
            if not waiting:
                return EngineFailure(
                    FailureKind.OFFLINE,
                    "no backend may be tried",
                    retry_after_seconds=self._soonest_seconds(),
                )
            kinds = {m.cooled_by for m in waiting}
            kind = (
                FailureKind.OVERLOADED
                if kinds == {FailureKind.OVERLOADED}
                else FailureKind.AT_CAPACITY
            )
            return EngineFailure(
                kind,
                "every backend asked to be left alone",
                retry_after_seconds=_whole(min(m.breaker.wait_seconds() for m in waiting)),
            )
        last = failures[-1]
        if last.kind is FailureKind.AT_CAPACITY and self._is_down():
            return EngineFailure(
                FailureKind.OFFLINE,
                "every backend is down by its health check",
                retry_after_seconds=self._soonest_seconds(),
            )
        if last.kind in (FailureKind.OVERLOADED, FailureKind.AT_CAPACITY):
            named = [f.retry_after_seconds for f in failures if f.retry_after_seconds is not None]
            last.retry_after_seconds = min(named, default=None)
        return last

    def _is_down(self) -> bool:
        return all(member.health is Health.DOWN for member in self._members)

    def _soonest_seconds(self) -> int:
        """When a replica may be back: the soonest half-open breaker, or the next health check."""
        waits = [
            max(
                member.breaker.wait_seconds(),
                self._health_interval if member.health is Health.DOWN else 0.0,
            )
            for member in self._members
        ]
        return _whole(min(waits, default=self._health_interval))

    async def _watch_health(self) -> None:
        checked = [member for member in self._members if member.upstream_model is not None]
        while True:
            for member in checked:
                await member.check()
            # Spread a little, so that many pools do not ask one server in step.
            await asyncio.sleep(self._health_interval * (0.9 + 0.2 * self._rng.random()))


async def _before(deadline: float, work: Awaitable[_T]) -> _T:
    """The result of `work`; raises EngineFailure TIMED_OUT when the loop's time is `deadline`."""
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        raise EngineFailure(FailureKind.TIMED_OUT, "no answer within the deadline") from None


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


def _rendezvous(affinity: str, name: str) -> bytes:
    return hashlib.blake2b(f"{affinity}\0{name}".encode(), digest_size=8).digest()


def _whole(seconds: float) -> int:
    return max(math.ceil(seconds), 1)


def _ignore_report(_level: str, _event: str, /, **_fields: Any) -> None:
    """For pools whose changes of state nobody reads."""


def _ignore_attempt(_model: str, _backend: str, _outcome: str, /) -> None:
    """For pools that are not measured."""
