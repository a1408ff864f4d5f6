"""Every fault of the simulator shows in the way its row says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from traghetto.clock import ManualClock
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.protocols import ChatCall
from traghetto.engines.simulator.backend import SimulatorBackend
from traghetto.engines.simulator.faults import FAULT_MODELS, Fault, FaultPlan, PlannedFault

CALL = ChatCall("request", {"messages": [{"role": "user", "content": "hello"}], "seed": 1})

REFUSALS = {
    Fault.OVERLOADED: FailureKind.OVERLOADED,
    Fault.AT_CAPACITY: FailureKind.AT_CAPACITY,
    Fault.OFFLINE: FailureKind.OFFLINE,
    Fault.UNREACHABLE: FailureKind.UNREACHABLE,
    Fault.CONTENT_POLICY: FailureKind.REJECTED_CONTENT,
    Fault.CONTEXT_EXCEEDED: FailureKind.CONTEXT_EXCEEDED,
    Fault.REJECTED_INPUT: FailureKind.REJECTED_INPUT,
    Fault.BROKEN: FailureKind.BROKEN,
}
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


@pytest.mark.parametrize(("fault", "kind"), REFUSALS.items(), ids=lambda value: value.name)
def test_refusals_come_before_any_answer(fault: Fault, kind: FailureKind) -> None:
    """A refusal is raised, streaming or not, and names no content."""
    for attempt in (complete, stream):
        with pytest.raises(EngineFailure) as refusal:
            attempt(faulty(fault))
        assert refusal.value.kind is kind
        busy = fault in {Fault.OVERLOADED, Fault.AT_CAPACITY}
        assert refusal.value.retry_after_seconds == (2 if busy else None)


@pytest.mark.parametrize("fault", [Fault.OFFLINE, Fault.UNREACHABLE], ids=lambda value: value.name)
def test_a_backend_that_is_down_fails_its_health_check(fault: Fault) -> None:
    """Only the two faults that mean "down" show in the health check."""
    with pytest.raises(EngineFailure):
        asyncio.run(faulty(fault).models())


@pytest.mark.parametrize("fault", [f for f in Fault if f not in {Fault.OFFLINE, Fault.UNREACHABLE}])
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


def test_every_fault_has_a_model_of_its_own() -> None:
    """A catalogue can list one model per fault, named after it."""
    assert set(FAULT_MODELS.values()) == set(Fault)
    assert FAULT_MODELS["simulator-in-band-overload"] is Fault.IN_BAND_OVERLOAD
