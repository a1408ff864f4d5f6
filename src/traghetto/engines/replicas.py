"""The replicas of one model, made dependable: choice, deadlines, retries, breakers, health.

What is here is the same for every kind of work; the pools of the kinds (`engines.pool` for chat,
`engines.image_pool`) say what one attempt is.

A retry happens only before anything was handed over, only for kinds of failure that say so, on
another healthy replica first, at most twice, within the deadline, and within a budget of a tenth
of the recent requests, so that a failing backend is not hit much harder than a working one.

Invariants: a call raises `EngineFailure` and nothing else (besides cancellation); every attempt
ends exactly once.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from traghetto.clock import Clock
from traghetto.engines.breaker import NEVER, Breaker, Evidence, Guard
from traghetto.engines.failures import BreakerEffect, EngineFailure, FailureKind
from traghetto.engines.member import (
    Attempt,
    BackendT,
    CountAttempt,
    Health,
    Member,
    Replica,
    Report,
)
from traghetto.engines.protocols import Deadlines
from traghetto.engines.window import SlidingCounts
from traghetto.telemetry import log_failure

RETRY_SHARE_MAX: Final = 0.10
RETRIES_ALWAYS: Final = 3
"""Retries that a window of ten seconds always allows, however few its requests."""
STALE_RETRIES_MAX: Final = 2
HEALTH_INTERVAL_SECONDS: Final = 10.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a model can be served at all now."""

    up: bool
    retry_after_seconds: int | None = None
    """Where it cannot: when it may be, if that is known."""


class ReplicaPool(Generic[BackendT]):
    """Everything that serves one model; the base of the pools of each kind of work."""

    def __init__(
        self,
        model_id: str,
        replicas: Sequence[Replica[BackendT]],
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
        self._guard = guard
        self._members = tuple(
            Member(
                replica,
                model_id,
                self._new_breaker(),
                report or _ignore_report,
                on_attempt or _ignore_attempt,
            )
            for replica in replicas
        )
        self._requests_and_retries = SlidingCounts()
        self._health_interval = HEALTH_INTERVAL_SECONDS
        self._health_task: asyncio.Task[None] | None = None

    @property
    def members(self) -> tuple[Member[BackendT], ...]:
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

    def forget_failures(self) -> None:
        """Trust every replica as at the start: for a lab, in which they fail on purpose."""
        for member in self._members:
            member.trust(self._new_breaker())

    def available(self) -> Availability:
        """Whether some replica is there: working, or only asking for a pause."""
        for member in self._members:
            if member.is_usable or member.is_waiting_only:
                return Availability(up=True)
        return Availability(False, self._soonest_seconds())

    def _new_breaker(self) -> Breaker:
        return Breaker(self._clock, self._rng, self._guard)

    async def _run(
        self,
        act: Callable[[Attempt[BackendT]], Awaitable[_T]],
        evidence: Callable[[], Evidence],
        deadline: float,
        affinity: str | None = None,
    ) -> _T:
        """`act` on a replica, and on others as long as failures allow it.

        `act` says itself when its attempt has succeeded; `evidence` is asked for when one failed.
        Calls of one `affinity` prefer the same replica.
        """
        self._requests_and_retries.add(self._clock.monotonic(), 1, 0)
        failures: list[EngineFailure] = []
        tried: list[Member[BackendT]] = []
        stale = 0
        member = self._choose(affinity, tried)
        while member is not None:
            attempt = member.begin()
            try:
                return await act(attempt)
            except EngineFailure as failure:
                if failure.stale_connection and stale < STALE_RETRIES_MAX:
                    stale += 1
                    attempt.abandoned()
                    continue
                attempt.failed(failure, evidence())
                failures.append(failure)
                tried.append(member)
                member = self._next_after(failure, affinity, tried, deadline)
            except BaseException:
                attempt.abandoned()
                raise
        raise self._verdict(failures) from (failures[-1].__cause__ if failures else None)

    def _next_after(
        self,
        failure: EngineFailure,
        affinity: str | None,
        tried: list[Member[BackendT]],
        deadline: float,
    ) -> Member[BackendT] | None:
        """Where to retry after the last of `tried` failed; None if that is not to be."""
        treatment = failure.kind.value
        if len(tried) > treatment.retry.value or asyncio.get_running_loop().time() >= deadline:
            return None
        member = self._choose(affinity, tried)
        if member is None and treatment.breaker is BreakerEffect.COUNT:
            # Busy and misconfigured replicas are not asked twice; a broken one may have recovered.
            member = self._choose(affinity, ())
        if member is None or not self._take_retry():
            return None
        return member

    def _take_retry(self) -> bool:
        if self._guard() is NEVER:
            return False  # in a lab a fault is for whoever is to see it
        now = self._clock.monotonic()
        requests, retries = self._requests_and_retries.totals(now)
        if retries >= max(RETRIES_ALWAYS, RETRY_SHARE_MAX * requests):
            return False
        self._requests_and_retries.add(now, 0, 1)
        return True

    def _choose(
        self, affinity: str | None, avoid: Sequence[Member[BackendT]]
    ) -> Member[BackendT] | None:
        """The usable replica for a call: its affinity's unless much busier, else the least busy."""
        usable = [m for m in self._members if m.is_usable and m not in avoid]
        if len(usable) < 2:
            return usable[0] if usable else None
        least = min(usable, key=lambda m: (m.breaker.is_shunned, m.outstanding, self._rng.random()))
        if affinity is not None:
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
                try:
                    await member.check()
                except Exception as error:  # noqa: BLE001 (a defect must not end all checks)
                    log_failure("error", code="HEALTH_CHECK_FAILED", request_id="", error=error)
            # Spread a little, so that many pools do not ask one server in step.
            await asyncio.sleep(self._health_interval * (0.9 + 0.2 * self._rng.random()))


async def before(deadline: float, work: Awaitable[_T]) -> _T:
    """The result of `work`; raises EngineFailure TIMED_OUT when the loop's time is `deadline`."""
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        raise EngineFailure(FailureKind.TIMED_OUT, "no answer within the deadline") from None


def _rendezvous(affinity: str, name: str) -> bytes:
    return hashlib.blake2b(f"{affinity}\0{name}".encode(), digest_size=8).digest()


def _whole(seconds: float) -> int:
    return max(math.ceil(seconds), 1)


def _ignore_report(_level: str, _event: str, /, **_fields: Any) -> None:
    """For pools whose changes of state nobody reads."""


def _ignore_attempt(_model: str, _backend: str, _outcome: str, /) -> None:
    """For pools that are not measured."""
