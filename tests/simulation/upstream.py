"""A backend that keeps a log of every call and does with it what the lot says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

from simulation.history import AttemptLog, History
from simulation.scenario import COMPLETION_TOKENS_MAX, Scenario
from simulation.upstream_plans import (
    NEVER,
    draw_refusal,
    draw_stream,
    draw_whole,
    encode,
)
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.protocols import BackendModel, ChatCall


def exact_prompt_tokens(words: int) -> int:
    """What backends that count say of a prompt of so many words."""
    return words + 3


class Load:
    """How many calls of one model are under way, in all its replicas."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.calls = 0


class SimulatedBackend:
    """A `ChatBackend`; see `engines.protocols`."""

    def __init__(
        self, name: str, *, model: str, run: int, load: Load, rng: random.Random, history: History
    ) -> None:
        self._name = name
        self._model = model
        self._run = run
        self._load = load
        self._rng = rng
        self._history = history
        self._scenario: Scenario = history.scenario

    @property
    def name(self) -> str:
        return self._name

    async def complete(self, call: ChatCall) -> dict[str, Any]:
        attempt = self._begin(call, streamed=False)
        how = "broken off"
        try:
            faulty = await self._before_the_answer()
            plan = draw_whole(self._rng, *self._order(attempt, call), faulty=faulty)
            await asyncio.sleep(plan.delay)
            attempt.answer = plan
            how = "answered"
            return plan.answer()
        except EngineFailure as failure:
            how = failure.kind.name
            raise
        finally:
            self._end(attempt, how)

    async def stream(self, call: ChatCall) -> AsyncGenerator[list[bytes], None]:
        attempt = self._begin(call, streamed=True)
        how = "broken off"
        try:
            faulty = await self._before_the_answer()
            plan = draw_stream(self._rng, *self._order(attempt, call), faulty=faulty)
            await asyncio.sleep(0)  # nothing is answered in the turn in which it is asked
            for read in plan.reads:
                if read.delay:
                    await asyncio.sleep(read.delay)
                attempt.events += read.events
                self._history.note("sent", attempt.request_id, len(read.events), read.events[-1])
                yield [encode(event) for event in read.events]
            if plan.end == "stall":
                await asyncio.sleep(NEVER)
            if plan.end == "break":
                raise EngineFailure(FailureKind.BROKEN, "simulated")  # noqa: TRY301 - what an adapter does
            how = "ended"
        except EngineFailure as failure:
            how = failure.kind.name
            raise
        finally:
            self._end(attempt, how)

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        if not self._scenario.exact_counts:
            return None
        if self._rng.random() < 0.3:
            await asyncio.sleep(self._rng.choice((0.0, 0.05)))
        return exact_prompt_tokens(call.body["messages"][0]["content"].count(" "))

    async def models(self) -> list[BackendModel]:
        return [BackendModel(self._model)]

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _before_the_answer(self) -> bool:
        """Refuse the call, or say whether its answer is to be faulty."""
        rng = self._rng
        faulty = rng.random() < self._scenario.fault_share
        if faulty and rng.random() < 0.5:
            refusal = draw_refusal(rng)
            await asyncio.sleep(refusal.delay)
            raise refusal.failure()
        return faulty

    def _order(self, attempt: AttemptLog, call: ChatCall) -> tuple[str, int, int]:
        """The name of an answer, the number of its choices, and their length at most."""
        max_tokens = call.body.get("max_tokens", COMPLETION_TOKENS_MAX)
        return f"{attempt.request_id}.{attempt.number}", call.body.get("n", 1), max_tokens

    def _begin(self, call: ChatCall, *, streamed: bool) -> AttemptLog:
        attempts = self._history.attempts.setdefault(call.request_id, [])
        started = self._history.note("attempt", call.request_id, self._name)
        attempt = AttemptLog(
            call.request_id, self._run, self._model, streamed, len(attempts), started
        )
        attempts.append(attempt)
        self._load.calls += 1
        if self._load.limit is not None and self._load.calls > self._load.limit:
            self._history.trouble(
                f"{self._load.calls} calls of {self._model} at once; it takes {self._load.limit}"
            )
        return attempt

    def _end(self, attempt: AttemptLog, how: str) -> None:
        self._load.calls -= 1
        attempt.how = how
        attempt.ended = self._history.note("ended", attempt.request_id, self._name, how)
