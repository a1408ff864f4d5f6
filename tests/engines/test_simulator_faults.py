"""Every fault of the simulator shows in the way its row says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from traghetto.clock import ManualClock
from traghetto.engines.classify import failure_of_response
from traghetto.engines.failures import EngineFailure, FailureKind, Retry
from traghetto.engines.protocols import ChatCall
from traghetto.engines.simulator.backend import SimulatorBackend
from traghetto.engines.simulator.faults import Fault, FaultPlan, PlannedFault
from traghetto.errors import ErrorCode
from traghetto.pipeline.failures import CHAT_CODES

CALL = ChatCall("request", {"messages": [{"role": "user", "content": "hello"}], "seed": 1})

AS_SERVERS_REFUSE = {
    Fault.OVERLOADED: (429, b'{"error":"busy"}'),
    Fault.AT_CAPACITY: (503, b'{"error":"busy"}'),
    Fault.CONTENT_POLICY: (400, b'{"error":{"code":"content_policy_violation"}}'),
    Fault.CONTEXT_EXCEEDED: (400, b'{"error":{"code":"context_length_exceeded"}}'),
    Fault.REJECTED_INPUT: (400, b'{"error":{"message":"no such option"}}'),
    Fault.BROKEN: (500, b"oops"),
}
"""What a real server would answer where the simulator refuses, by fault."""
DOWN = (Fault.OFFLINE, Fault.UNREACHABLE)
SILENT = (Fault.HANG, Fault.STALL_AFTER)


def faulty(fault: Fault, **measures: Any) -> SimulatorBackend:
    return SimulatorBackend(
        clock=ManualClock(), faults=FaultPlan(fixed=PlannedFault(fault, **measures))
    )


async def events_of(backend: SimulatorBackend) -> AsyncIterator[bytes]:
    async for events in backend.stream(CALL):
        for event in events:
            yield event


def stream(backend: SimulatorBackend) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [event async for event in events_of(backend)]

    return asyncio.run(collect())


def complete(backend: SimulatorBackend) -> dict[str, Any]:
    return asyncio.run(backend.complete(CALL))


HEALTHY = stream(SimulatorBackend(clock=ManualClock()))


def refusals(fault: Fault) -> list[EngineFailure]:
    """What is raised instead of a whole answer and of a stream."""
    raised = []
    for attempt in (complete, stream):
        with pytest.raises(EngineFailure) as refusal:
            attempt(faulty(fault))
        raised.append(refusal.value)
    return raised


@pytest.mark.parametrize("fault", AS_SERVERS_REFUSE, ids=lambda value: value.name)
def test_refusals_are_those_of_real_servers(fault: Fault) -> None:
    """Whole or streaming, what is raised is what the adapter makes of a server's refusal."""
    status, body = AS_SERVERS_REFUSE[fault]
    expected = failure_of_response(status, {}, body, utc_seconds=0)
    for failure in refusals(fault):
        assert failure.kind is expected.kind
        assert (failure.retry_after_seconds is not None) == (status in {429, 503})


@pytest.mark.parametrize("fault", DOWN, ids=lambda value: value.name)
def test_callers_of_a_backend_that_is_down_hear_that_it_is_offline(fault: Fault) -> None:
    """The two differ in who may be asked instead: nobody knows where an offline model is."""
    for failure in refusals(fault):
        assert CHAT_CODES[failure.kind] is ErrorCode.MODEL_OFFLINE
        assert failure.retry_after_seconds is None
        is_tried_elsewhere = failure.kind.value.retry is not Retry.NEVER
        assert is_tried_elsewhere == (fault is Fault.UNREACHABLE)


@pytest.mark.parametrize("fault", DOWN, ids=lambda value: value.name)
def test_a_backend_that_is_down_fails_its_health_check(fault: Fault) -> None:
    """Only the two faults that mean "down" show in the health check."""
    with pytest.raises(EngineFailure):
        asyncio.run(faulty(fault).models())


@pytest.mark.parametrize("fault", [f for f in Fault if f not in DOWN])
def test_other_faults_leave_the_health_check_alone(fault: Fault) -> None:
    """A fault of calls is not a fault of health."""
    assert asyncio.run(faulty(fault).models())


@pytest.mark.parametrize("fault", SILENT, ids=lambda value: value.name)
def test_silence_lasts_until_the_caller_gives_up(fault: Fault) -> None:
    """A hang sends nothing, a stall a few events and then nothing."""

    heard: list[bytes] = []

    async def listen() -> None:
        async with asyncio.timeout(0.05):
            async for events in faulty(fault, after_events=2).stream(CALL):
                heard.extend(events)

    with pytest.raises(TimeoutError):
        asyncio.run(listen())
    assert heard == ([] if fault is Fault.HANG else HEALTHY[:2])


def test_a_cut_stream_ends_early() -> None:
    """It ends after its events without a finish reason; a whole answer breaks off."""
    assert stream(faulty(Fault.CUT_AFTER, after_events=4)) == HEALTHY[:4]
    with pytest.raises(EngineFailure) as refusal:
        complete(faulty(Fault.CUT_AFTER))
    assert refusal.value.kind is FailureKind.BROKEN


def test_a_malformed_event_is_not_json() -> None:
    """The junk is in the bytes, between good events."""
    events = stream(faulty(Fault.MALFORMED, after_events=1))
    assert (events[0], events[2:]) == (HEALTHY[0], HEALTHY[1:])
    with pytest.raises(ValueError):
        json.loads(events[1])
    assert "choices" not in complete(faulty(Fault.MALFORMED))


def test_invalid_utf8_is_in_the_bytes() -> None:
    """Exactly one event cannot be decoded; a whole answer breaks off."""
    events = stream(faulty(Fault.INVALID_UTF8, after_events=2))
    assert [b"\xff" in event for event in events].count(True) == 1
    with pytest.raises(UnicodeDecodeError):
        events[2].decode()
    with pytest.raises(EngineFailure):
        complete(faulty(Fault.INVALID_UTF8))


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.IN_BAND_ERROR, 500), (Fault.IN_BAND_OVERLOAD, 429)]
)
def test_errors_inside_the_answer(fault: Fault, code: int) -> None:
    """The last event, or the whole answer, is an error object."""
    events = stream(faulty(fault, after_events=0))
    assert [json.loads(event)["error"]["code"] for event in events] == [code]
    assert len(stream(faulty(fault, after_events=3))) == 4
    assert complete(faulty(fault))["error"]["code"] == code


def test_a_missing_finish_reason() -> None:
    """Everything else is there, `[DONE]` included."""
    events = stream(faulty(Fault.NO_FINISH_REASON))
    assert events[-1] == b"[DONE]"
    assert len(events) == len(HEALTHY) - 1
    assert complete(faulty(Fault.NO_FINISH_REASON))["choices"][0]["finish_reason"] is None


def test_a_missing_terminal_marker() -> None:
    """The stream ends after its usage."""
    assert stream(faulty(Fault.NO_DONE)) == HEALTHY[:-1]
    assert complete(faulty(Fault.NO_DONE))["usage"]


def test_a_missing_usage() -> None:
    """Neither the stream nor the answer reports usage."""
    assert not any(b'"usage"' in event for event in stream(faulty(Fault.NO_USAGE)))
    assert "usage" not in complete(faulty(Fault.NO_USAGE))


def test_a_slow_answer_is_whole_but_late() -> None:
    """Every event waits; nothing is missing."""

    async def timed() -> tuple[list[bytes], float]:
        loop = asyncio.get_running_loop()
        started = loop.time()
        events = [event async for event in events_of(faulty(Fault.SLOW, seconds=0.001))]
        return events, loop.time() - started

    events, seconds = asyncio.run(timed())
    assert events == HEALTHY
    assert seconds >= 0.001 * (len(events) - 2)


def test_a_planned_fault_ends_after_its_calls() -> None:
    """`calls` counts down; then the backend behaves."""
    backend = SimulatorBackend(clock=ManualClock())
    backend.faults.set(PlannedFault(Fault.BROKEN), calls=2)
    for _ in range(2):
        with pytest.raises(EngineFailure):
            complete(backend)
    assert complete(backend)["choices"]


def test_a_planned_fault_lasts_until_it_is_cleared() -> None:
    """Without a number of calls the fault stays, and health checks do not use it up."""
    backend = SimulatorBackend(clock=ManualClock())
    backend.faults.set(PlannedFault(Fault.UNREACHABLE))
    for _ in range(3):
        with pytest.raises(EngineFailure):
            asyncio.run(backend.models())
        with pytest.raises(EngineFailure):
            complete(backend)
    backend.faults.clear()
    assert complete(backend)["choices"]
