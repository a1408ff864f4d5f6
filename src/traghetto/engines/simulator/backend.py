"""The simulator as a backend: honest about what it is, exact in what it counts, faulty on demand.

It keeps no state between calls besides its plan of faults, reads no time but the given clock, and
waits only by `asyncio.sleep`, so that it also runs on a simulated event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec

from traghetto.clock import Clock
from traghetto.engines.chat_pictures import described, pictures_of
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import Picture
from traghetto.engines.protocols import BackendModel, ChatCall
from traghetto.engines.simulator.answers import plan_answer
from traghetto.engines.simulator.events import DONE, Telling
from traghetto.engines.simulator.faults import ERROR_OBJECTS, Fault, FaultPlan, PlannedFault
from traghetto.engines.simulator.tokens import count_prompt

_EVENTS_BETWEEN_PAUSES: Final = 16
"""A stream without pacing lets other tasks run this often."""


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """How the simulator behaves when nothing is wrong.

    `model` is the id in answers; `answer_tokens` the usual length of a text, give or take a
    quarter; the two delays stand before the first token and before each further one.
    """

    model: str = "simulator"
    context_tokens: int = 32_768
    answer_tokens: int = 48
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0


class SimulatorBackend:
    """A `ChatBackend` that runs no model."""

    def __init__(
        self,
        *,
        clock: Clock,
        options: SimulatorOptions | None = None,
        faults: FaultPlan | None = None,
        name: str = "simulator",
    ) -> None:
        self._clock = clock
        self._options = options or SimulatorOptions()
        self.faults = faults or FaultPlan()
        """What is to go wrong; tests and labs change it while calls are served."""
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    async def complete(self, call: ChatCall) -> dict[str, Any]:
        fault = await self._begin()
        telling, tokens = self._plan(call)
        options = self._options
        delay = options.first_token_seconds + options.token_seconds * (tokens - 1)
        if delay > 0:
            await asyncio.sleep(delay)
        if fault is None:
            return telling.whole()
        return _spoil(telling.whole(), fault)

    async def stream(self, call: ChatCall) -> AsyncGenerator[list[bytes], None]:
        fault = await self._begin()
        telling, _ = self._plan(call)
        events = telling.events()
        if fault is not None:
            events = _spoil_stream(events, fault)
        await asyncio.sleep(self._options.first_token_seconds)
        pause = self._options.token_seconds
        if fault is not None and fault.fault is Fault.SLOW:
            pause += fault.seconds
        for count, event in enumerate(events):
            if pause > 0 and count > 1:
                await asyncio.sleep(pause)
            elif count % _EVENTS_BETWEEN_PAUSES == 0:
                await asyncio.sleep(0)
            yield [event]
        if fault is not None and fault.fault is Fault.STALL_AFTER:
            await _for_ever()

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        return count_prompt(call.body)

    async def models(self) -> list[BackendModel]:
        fault = self.faults.current()
        if fault is not None and fault.fails_health_check:
            raise EngineFailure(FailureKind.UNREACHABLE, f"simulated fault: {fault.fault.value}")
        return [
            BackendModel(
                id=self._options.model,
                context_tokens=self._options.context_tokens,
                capabilities={
                    "supportsFunctionCalling": True,
                    "supportsResponseSchema": True,
                    "supportsLogProbs": True,
                    "supportsReasoning": True,
                    "supportsVision": True,
                    "supportsMultipleImages": True,
                },
            )
        ]

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _begin(self) -> PlannedFault | None:
        """The fault of this call, unless it lies before the answer: that is raised, or waited."""
        fault = self.faults.take()
        if fault is None:
            return None
        if (refusal := fault.refusal()) is not None:
            raise refusal
        if fault.fault is Fault.HANG:
            await _for_ever()
        if fault.fault is Fault.SLOW:
            await asyncio.sleep(fault.seconds)
        return fault

    def _plan(self, call: ChatCall) -> tuple[Telling, int]:
        """The answer to `call`, and how many tokens it has."""
        body = call.body
        prompt_tokens = count_prompt(body)
        room = self._options.context_tokens - prompt_tokens
        if room <= 0:
            raise EngineFailure(
                FailureKind.CONTEXT_EXCEEDED, "the prompt has more tokens than the context"
            )
        pictures: list[Picture] = []
        if call.has_pictures:
            pictures, body = pictures_of(body), described(body)
        plan = plan_answer(
            body,
            pictures,
            prompt_tokens=prompt_tokens,
            room_tokens=room,
            answer_tokens=self._options.answer_tokens,
        )
        telling = Telling(
            plan,
            model=self._options.model,
            created=self._clock.utc_ns() // 1_000_000_000,
            top_logprobs=(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        )
        return telling, plan.usage["completion_tokens"]


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def _spoil(answer: dict[str, Any], fault: PlannedFault) -> dict[str, Any]:
    """What becomes of a whole answer; raises where an adapter would have nothing to return."""
    match fault.fault:
        case Fault.CUT_AFTER | Fault.INVALID_UTF8:
            raise EngineFailure(FailureKind.BROKEN, f"simulated fault: {fault.fault.value}")
        case Fault.MALFORMED:
            return {"simulated": "not a completion"}
        case Fault.IN_BAND_ERROR | Fault.IN_BAND_OVERLOAD:
            return dict(msgspec.json.decode(ERROR_OBJECTS[fault.fault]))
        case Fault.NO_FINISH_REASON:
            for choice in answer["choices"]:
                choice["finish_reason"] = None
        case Fault.NO_USAGE:
            del answer["usage"]
    return answer


def _spoil_stream(events: Iterator[bytes], fault: PlannedFault) -> Iterator[bytes]:
    """What becomes of a stream, in its bytes."""
    match fault.fault:
        case Fault.STALL_AFTER | Fault.CUT_AFTER:
            yield from islice(events, fault.after_events)
        case Fault.MALFORMED:
            yield from islice(events, fault.after_events)
            yield b'{"id":"chatcmpl-'
            yield from events
        case Fault.INVALID_UTF8:
            yield from islice(events, fault.after_events)
            for event in islice(events, 1):
                yield event[:-3] + b"\xff" + event[-3:]
            yield from events
        case Fault.IN_BAND_ERROR | Fault.IN_BAND_OVERLOAD:
            yield from islice(events, fault.after_events)
            yield ERROR_OBJECTS[fault.fault]
        case Fault.NO_FINISH_REASON:
            yield from (event for event in events if b'"finish_reason":"' not in event)
        case Fault.NO_DONE:
            yield from (event for event in events if event != DONE)
        case Fault.NO_USAGE:
            yield from (event for event in events if b',"choices":[],"usage":' not in event)
        case _:
            yield from events
