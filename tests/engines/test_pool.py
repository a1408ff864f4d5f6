"""The pool with several replicas: where calls go, what is retried, and what exhaustion is called."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from support import upstream as up
from support.upstream import FaultUpstream
from traghetto.clock import ManualClock, SystemClock
from traghetto.engines.breaker import SINGLE_USER
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.member import Health
from traghetto.engines.openai import HttpClient, OpenAIBackend
from traghetto.engines.pool import ModelPool, Replica
from traghetto.engines.protocols import BackendModel, ChatCall, Deadlines

K = FailureKind
CALL = ChatCall("r-1", {"messages": [{"role": "user", "content": "Hello"}]})


class ScriptedBackend:
    """A backend in this process whose calls do what they are told; it counts them."""

    def __init__(self, name: str, act: Callable[[], Awaitable[Any]] | None = None) -> None:
        self._name = name
        self.act = act
        self.calls = 0
        self.listing: list[BackendModel] | EngineFailure = [BackendModel("m")]
        self.release = asyncio.Event()

    @property
    def name(self) -> str:
        return self._name

    async def complete(self, call: ChatCall) -> dict[str, Any]:
        self.calls += 1
        if self.act is not None:
            await self.act()
        return up.completion()

    async def stream(self, call: ChatCall) -> AsyncGenerator[list[bytes], None]:
        await self.complete(call)
        yield up.usual_events()

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        return None

    async def models(self) -> list[BackendModel]:
        if isinstance(self.listing, EngineFailure):
            raise self.listing
        return self.listing

    async def aclose(self) -> None:
        pass


def failing(kind: FailureKind, retry_after_seconds: int | None = None) -> Callable[[], Any]:
    async def act() -> None:
        raise EngineFailure(kind, "scripted", retry_after_seconds=retry_after_seconds)

    return act


class Fleet:
    """A pool over scripted backends, with everything it reports."""

    def __init__(self, *acts: Callable[[], Any] | None, upstream_model: str | None = "m") -> None:
        self.clock = ManualClock()
        self.backends = [ScriptedBackend(f"b{i}", act) for i, act in enumerate(acts)]
        self.reports: list[tuple[str, str, str]] = []
        self.outcomes: Counter[str] = Counter()
        self.pool = ModelPool(
            "model",
            [Replica(backend, upstream_model) for backend in self.backends],
            deadlines=Deadlines(),
            clock=self.clock,
            rng=random.Random(3),
            guard=lambda: SINGLE_USER,
            report=self._report,
            on_attempt=lambda model, backend, outcome: self.outcomes.update([outcome]),
        )

    def _report(self, level: str, event: str, /, **fields: Any) -> None:
        self.reports.append((level, event, fields["backend"]))

    async def failure(self) -> EngineFailure:
        with pytest.raises(EngineFailure) as caught:
            await self.pool.complete(CALL, "alice")
        return caught.value

    @property
    def calls(self) -> list[int]:
        return [backend.calls for backend in self.backends]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.mark.parametrize(
    "kind", [K.UNREACHABLE, K.BROKEN, K.MISCONFIGURED, K.OVERLOADED, K.AT_CAPACITY]
)
def test_another_replica_answers_for_one_that_fails(kind: FailureKind) -> None:
    """The caller does not notice, whichever replica was asked first."""

    async def test() -> None:
        fleet = Fleet(failing(kind), None)
        for _ in range(3):
            completion = await fleet.pool.complete(CALL, "alice")
            assert completion.choices
            stream = await fleet.pool.open_stream(CALL, "alice")
            assert [p async for part in stream for p in part][-1] == up.DONE
            await stream.aclose()
        assert fleet.outcomes["ok"] == 6

    run(test)


@pytest.mark.parametrize("kind", [k for k in K if k.value.retry.value == 0 and k is not K.OFFLINE])
def test_a_failure_that_a_retry_cannot_mend_is_final(kind: FailureKind) -> None:
    """The other replica is not asked."""

    async def test() -> None:
        fleet = Fleet(failing(kind), failing(kind))
        assert (await fleet.failure()).kind is kind
        assert sum(fleet.calls) == 1

    run(test)


def test_there_are_at_most_three_attempts() -> None:
    """Even with more replicas; a broken one is asked once more only."""

    async def test() -> None:
        fleet = Fleet(*[failing(K.UNREACHABLE)] * 5)
        assert (await fleet.failure()).kind is K.UNREACHABLE
        assert sorted(fleet.calls) == [0, 0, 1, 1, 1]
        fleet = Fleet(*[failing(K.BROKEN)] * 5)
        await fleet.failure()
        assert sorted(fleet.calls) == [0, 0, 0, 1, 1]

    run(test)


def test_retries_stay_within_a_tenth_of_the_requests() -> None:
    """A backend that fails every call is hit at most 1.1 times per request in ten seconds."""

    async def test() -> None:
        fleet = Fleet(*[failing(K.BROKEN)] * 40)
        for member in fleet.pool.members:
            member.breaker.failed = lambda *_, **__: None  # type: ignore[method-assign]
        for i in range(500):
            fleet.clock.advance(0.01 if i % 10 else 0.1)
            await fleet.failure()
        assert sum(fleet.calls) <= 550 + 3
        assert sum(fleet.calls) >= 530

    run(test)


def test_when_every_replica_is_overloaded_the_smallest_wait_is_told() -> None:
    """429 from all: OVERLOADED, and while they cool nobody is asked again."""

    async def test() -> None:
        fleet = Fleet(failing(K.OVERLOADED, 20), failing(K.OVERLOADED, 7))
        failure = await fleet.failure()
        assert (failure.kind, failure.retry_after_seconds) == (K.OVERLOADED, 7)
        failure = await fleet.failure()
        assert (failure.kind, failure.retry_after_seconds) == (K.OVERLOADED, 7)
        assert fleet.calls == [1, 1]
        assert fleet.pool.available().up
        fleet.clock.advance(7)
        await fleet.failure()
        assert fleet.calls == [1, 2]
        assert not fleet.reports

    run(test)


def test_a_pool_without_room_is_offline_only_if_the_health_check_says_so() -> None:
    """503 from all is AT_CAPACITY, unless they are down."""

    async def test() -> None:
        fleet = Fleet(failing(K.AT_CAPACITY))
        assert (await fleet.failure()).kind is K.AT_CAPACITY

        async def refuse_and_go_down() -> None:
            fleet.pool.members[0].health = Health.DOWN
            raise EngineFailure(K.AT_CAPACITY, "scripted")

        fleet.backends[0].act = refuse_and_go_down
        assert (await fleet.failure()).kind is K.OFFLINE

    run(test)


def test_open_breakers_make_the_model_offline_until_the_soonest_probe() -> None:
    """Row 29: no backend is asked, and the wait is told; then a probe goes through."""

    async def test() -> None:
        fleet = Fleet(failing(K.MISCONFIGURED), failing(K.MISCONFIGURED))
        assert (await fleet.failure()).kind is K.MISCONFIGURED
        availability = fleet.pool.available()
        assert not availability.up
        assert availability.retry_after_seconds in (4, 5, 6)
        failure = await fleet.failure()
        assert failure.kind is K.OFFLINE
        assert failure.retry_after_seconds == availability.retry_after_seconds
        assert fleet.calls == [1, 1]
        fleet.clock.advance(6)
        assert fleet.pool.available().up
        for backend in fleet.backends:
            backend.act = None
        for _ in range(6):
            await fleet.pool.complete(CALL, "alice")
        events = [event for _, event, _ in fleet.reports]
        assert events.count("backend_misconfigured") == 2
        assert events.count("breaker_opened") == 2
        assert events.count("breaker_closed") >= 1

    run(test)


def test_calls_go_to_the_least_busy_replica() -> None:
    """Ten calls under way are spread evenly over two replicas."""

    async def test() -> None:
        release = asyncio.Event()
        fleet = Fleet(release.wait, release.wait)
        tasks = [asyncio.ensure_future(fleet.pool.complete(CALL, "alice")) for _ in range(10)]
        await asyncio.sleep(0.01)
        assert [member.outstanding for member in fleet.pool.members] == [5, 5]
        release.set()
        await asyncio.gather(*tasks)
        assert [member.outstanding for member in fleet.pool.members] == [0, 0]

    run(test)


def test_calls_that_share_an_affinity_share_a_replica_until_it_is_too_busy() -> None:
    """Prefix caches are kept warm, but not at the price of a queue."""

    async def test() -> None:
        fleet = Fleet(None, None, None)
        chosen = set()
        for key in map(str, range(40)):
            before = fleet.calls
            for _ in range(3):
                await fleet.pool.complete(ChatCall("r", CALL.body, key), "alice")
            spread = [now - was for now, was in zip(fleet.calls, before, strict=True)]
            assert sorted(spread) == [0, 0, 3]
            chosen.add(spread.index(3))
        assert chosen == {0, 1, 2}
        release = asyncio.Event()
        fleet = Fleet(release.wait, release.wait)
        call = ChatCall("r", CALL.body, "key")
        tasks = [asyncio.ensure_future(fleet.pool.complete(call, "alice")) for _ in range(9)]
        await asyncio.sleep(0.01)
        busy = sorted(member.outstanding for member in fleet.pool.members)
        assert busy[0] >= 2
        release.set()
        await asyncio.gather(*tasks)

    run(test)


def test_health_is_reported_once_per_change() -> None:
    """Down after the first failed check of a start, or two in a row later; up after one good."""

    async def test() -> None:
        fleet = Fleet(None)
        (member,), (backend,) = fleet.pool.members, fleet.backends
        backend.listing = EngineFailure(K.UNREACHABLE, "x")
        for _ in range(3):
            await member.check()
        assert not fleet.pool.available().up
        backend.listing = [BackendModel("m")]
        await member.check()
        assert fleet.pool.available().up
        backend.listing = EngineFailure(K.AT_CAPACITY, "loading")
        await member.check()
        assert fleet.pool.available().up
        await member.check()
        assert not fleet.pool.available().up
        backend.listing = EngineFailure(K.MISCONFIGURED, "no such route")
        await member.check()
        assert fleet.pool.available().up
        backend.listing = [BackendModel("other")]
        await member.check()
        await member.check()
        assert fleet.reports == [
            ("warn", "backend_down", "b0"),
            ("info", "backend_up", "b0"),
            ("warn", "backend_down", "b0"),
            ("info", "backend_up", "b0"),
            ("warn", "backend_model_missing", "b0"),
        ]

    run(test)


def test_only_replicas_across_the_network_are_checked_in_the_background() -> None:
    """`start` begins checks at once; a local engine has none; `aclose` ends them."""

    async def test() -> None:
        local = Fleet(None, upstream_model=None)
        local.backends[0].listing = EngineFailure(K.BROKEN, "never asked")
        remote = Fleet(None)
        remote.backends[0].listing = EngineFailure(K.UNREACHABLE, "x")
        for fleet in (local, remote):
            fleet.pool.start(health_interval_seconds=0.01)
        await asyncio.sleep(0.05)
        assert local.pool.available().up
        assert not remote.pool.available().up
        remote.backends[0].listing = [BackendModel("m")]
        await asyncio.sleep(0.05)
        assert remote.pool.available().up
        for fleet in (local, remote):
            await fleet.pool.aclose()

    run(test)


def test_a_readers_own_slowness_is_not_the_backends() -> None:
    """The deadline between events runs only while the backend is waited for."""

    async def test() -> None:
        deadlines = Deadlines(first_event_seconds=1, between_events_seconds=0.05)
        act = up.stream(up.usual_events())
        async with FaultUpstream(default=act) as upstream:
            backend = OpenAIBackend("u", HttpClient(upstream.url), "m", clock=SystemClock())
            pool = ModelPool(
                "m",
                [Replica(backend)],
                deadlines=deadlines,
                clock=SystemClock(),
                rng=random.Random(1),
            )
            stream = await pool.open_stream(CALL, "alice")
            seen: list[bytes] = []
            async for payloads in stream:
                seen += payloads
                await asyncio.sleep(0.12)
            await stream.aclose()
            await pool.aclose()
            assert seen == up.usual_events()

    run(test)


def test_a_reader_that_is_cancelled_while_waiting_is_cancelled() -> None:
    """Only our own timer becomes a failure; anybody else's cancellation stays one."""

    async def test() -> None:
        act = up.stream(up.usual_events()[:1], then=up.hang)
        async with FaultUpstream(default=act) as upstream:
            backend = OpenAIBackend("u", HttpClient(upstream.url), "m", clock=SystemClock())
            pool = ModelPool(
                "m",
                [Replica(backend)],
                deadlines=Deadlines(),
                clock=SystemClock(),
                rng=random.Random(1),
            )
            stream = await pool.open_stream(CALL, "alice")
            await anext(stream)
            task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await stream.aclose()
            await asyncio.wait_for(upstream.requests[0].closed.wait(), 0.25)
            await pool.aclose()

    run(test)


def test_what_a_reader_finds_wrong_counts_once() -> None:
    """`fail` tells the breaker; closing afterwards adds nothing."""

    async def test() -> None:
        fleet = Fleet(None)
        stream = await fleet.pool.open_stream(CALL, "alice")
        stream.fail(EngineFailure(K.BROKEN, "no finish reason"))
        await stream.aclose()
        await stream.aclose()
        assert fleet.outcomes == {"broken": 1}
        assert fleet.pool.members[0].outstanding == 0

    run(test)
