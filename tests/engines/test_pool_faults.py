"""Every row of the upstream fault matrix, at the pool: kind, attempts, and the breaker's view."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from support import upstream as up
from support.upstream import Act, FaultUpstream
from traghetto.clock import SystemClock
from traghetto.engines.breaker import SINGLE_USER, BreakerState
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.openai import HttpClient, OpenAIBackend
from traghetto.engines.pool import ChatStream, ModelPool, Replica
from traghetto.engines.protocols import ChatCall, Deadlines

CALL = ChatCall("r-1", {"messages": [{"role": "user", "content": "Hello"}]})
SHORT = Deadlines(first_event_seconds=0.3, between_events_seconds=0.2, total_seconds=0.3)
K = FailureKind


@asynccontextmanager
async def pool_of(*urls: str, **options: Any) -> AsyncIterator[ModelPool]:
    clock = SystemClock()
    replicas = [
        Replica(OpenAIBackend(f"u{i}", HttpClient(url), "m", clock=clock), "m")
        for i, url in enumerate(urls)
    ]
    options = {"deadlines": SHORT, "guard": lambda: SINGLE_USER} | options
    pool = ModelPool("model", replicas, clock=clock, rng=random.Random(5), **options)
    try:
        yield pool
    finally:
        await pool.aclose()


async def read_all(pool: ModelPool) -> list[bytes]:
    stream = await pool.open_stream(CALL, "alice")
    try:
        return [payload async for payloads in stream for payload in payloads]
    finally:
        await stream.aclose()


async def collect(stream: ChatStream, seen: list[bytes]) -> None:
    async for payloads in stream:
        seen += payloads


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """One fault before the first byte: what it is called, how often it is tried, what it does."""

    number: str
    act: Act
    kind: FailureKind
    attempts: int
    counts: int
    """Failures the breaker counted; -1 if it opened at once."""
    retry_after: int | None = None


def error(status: int, body: Any = None, **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return up.answer_json(body or {"error": {"message": "m"}}, status, named)


CONTEXT = {"error": {"message": "too long", "code": "context_length_exceeded"}}
POLICY = {"error": {"message": "no", "code": "content_filter"}}

BOTH_WAYS = [
    Row("2 accept then close", up.close, K.BROKEN, 2, 2),
    Row("2 reset before headers", up.reset, K.BROKEN, 2, 2),
    Row("3 hang", up.hang, K.TIMED_OUT, 1, 1),
    Row("3 slow headers", up.slow_headers(0.02), K.TIMED_OUT, 1, 1),
    Row("4 context length", error(400, CONTEXT), K.CONTEXT_EXCEEDED, 1, 0),
    Row("5 bad request", error(400), K.REJECTED_INPUT, 1, 0),
    Row("5 unprocessable", error(422), K.REJECTED_INPUT, 1, 0),
    Row("6 unauthorized", error(401), K.MISCONFIGURED, 1, -1),
    Row("6 forbidden", error(403), K.MISCONFIGURED, 1, -1),
    Row("7 payment required", error(402), K.MISCONFIGURED, 1, -1),
    Row("8 no such model", error(404), K.MISCONFIGURED, 1, -1),
    Row("9 too large", error(413), K.TOO_LARGE, 1, 0),
    Row("10 too many requests", error(429, retry_after="7"), K.OVERLOADED, 1, 0, 7),
    Row("10 overloaded", error(529), K.OVERLOADED, 1, 0),
    Row("11 internal error", error(500), K.BROKEN, 2, 2),
    Row("12 bad gateway", error(502), K.BROKEN, 2, 2),
    Row("13 unavailable", error(503, retry_after="3"), K.AT_CAPACITY, 1, 0, 3),
    Row("14 gateway timeout", error(504), K.TIMED_OUT, 1, 1),
    Row("14 request timeout", error(408), K.TIMED_OUT, 1, 1),
    Row("15 redirect", error(307, location="http://127.0.0.1:1/"), K.REDIRECTED, 1, -1),
    Row(
        "16 HTML",
        up.answer(200, b"<html>", content_type="text/html"),
        K.BROKEN,
        2,
        2,
    ),
    Row("23 error in a 200", error(200, {"error": {"message": "out of memory"}}), K.BROKEN, 2, 2),
    Row("23 overload in a 200", error(200, {"error": {"code": 429}}), K.OVERLOADED, 1, 0),
    Row("24 policy", error(400, POLICY), K.REJECTED_CONTENT, 1, 0),
    Row("27 large header", up.oversized_header(200_000), K.UNUSABLE, 1, 1),
    Row("27 many headers", up.many_headers(90), K.UNUSABLE, 1, 1),
    Row("27 compressed", up.compressed(), K.UNUSABLE, 1, 1),
]

WHOLE = [
    Row("16 truncated with length", up.truncated(b'{"choices":[', length=99), K.BROKEN, 2, 2),
    Row("16 truncated cleanly", up.truncated(b'{"choices":['), K.BROKEN, 2, 2),
    Row("16 malformed", up.answer(200, b"{]"), K.BROKEN, 2, 2),
    Row("16 not a completion", up.answer_json({"choices": []}), K.BROKEN, 2, 2),
    Row("19 not UTF-8", up.answer(200, b'{"choices":"\xff"}'), K.BROKEN, 2, 2),
    Row(
        "21 no finish reason",
        up.answer_json({"choices": [{"message": {"content": "x"}, "finish_reason": None}]}),
        K.BROKEN,
        2,
        2,
    ),
    Row("27 large body", up.oversized_body(33 << 20), K.UNUSABLE, 1, 1),
]

STREAMED = [
    Row("16 first event is junk", up.stream([b"<oops>"]), K.BROKEN, 2, 2),
    Row("16 first event is no object", up.stream([b"[1]"]), K.BROKEN, 2, 2),
    Row("19 first event is not UTF-8", up.raw_stream(b"data: \xff\n\n"), K.BROKEN, 2, 2),
    Row("20 bad chunk", up.stream([], then=up.bad_chunk), K.BROKEN, 2, 2),
    Row("21 empty stream", up.stream([]), K.BROKEN, 2, 2),
    Row("21 only done", up.stream([up.DONE]), K.BROKEN, 2, 2),
    Row("22 no first event", up.stream([], then=up.hang), K.TIMED_OUT, 1, 1),
    Row(
        "23 first event is an error",
        up.stream([b'{"error":{"message":"x","code":503}}']),
        K.AT_CAPACITY,
        1,
        0,
    ),
    Row(
        "23 event: error comes first",
        up.raw_stream(b'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n'),
        K.OVERLOADED,
        1,
        0,
    ),
    Row(
        "24 policy in the first event",
        up.stream([b'{"error":{"code":"content_filter"}}']),
        K.REJECTED_CONTENT,
        1,
        0,
    ),
    Row("27 large line", up.raw_stream(b"data: " + b"x" * (1 << 20)), K.UNUSABLE, 1, 1),
]


def failures_counted(pool: ModelPool) -> int:
    breaker = pool.members[0].breaker
    return -1 if breaker.state is BreakerState.OPEN else breaker._consecutive


async def check(row: Row, act: Callable[[ModelPool], Awaitable[object]]) -> None:
    async with FaultUpstream(default=row.act) as upstream, pool_of(upstream.url) as pool:
        with pytest.raises(EngineFailure) as caught:
            await act(pool)
        assert caught.value.kind is row.kind
        assert len(upstream.requests) == row.attempts
        assert failures_counted(pool) == row.counts
        if row.retry_after is not None:
            assert caught.value.retry_after_seconds == row.retry_after
        assert pool.members[0].outstanding == 0


@pytest.mark.parametrize("row", BOTH_WAYS + WHOLE, ids=lambda row: row.number)
def test_a_fault_of_a_whole_answer_has_its_kind_attempts_and_breaker(row: Row) -> None:
    """A non-streaming call fails as the matrix says, on a single replica."""
    run(lambda: check(row, lambda pool: pool.complete(CALL, "alice")))


@pytest.mark.parametrize("row", BOTH_WAYS + STREAMED, ids=lambda row: row.number)
def test_a_fault_before_the_first_event_has_its_kind_attempts_and_breaker(row: Row) -> None:
    """A streaming call fails as the matrix says before anything was handed over."""
    run(lambda: check(row, lambda pool: pool.open_stream(CALL, "alice")))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refused_connection_is_tried_three_times(streamed: bool) -> None:
    """Row 1: the request never arrived, so that two more attempts repeat no work."""

    async def test() -> None:
        async with up.refusing_url() as url, pool_of(url) as pool:
            act = pool.open_stream if streamed else pool.complete
            with pytest.raises(EngineFailure) as caught:
                await act(CALL, "alice")
            assert caught.value.kind is K.UNREACHABLE
            assert failures_counted(pool) == 3

    run(test)


GOOD_START = up.usual_events()[:2]

MIDSTREAM = [
    ("19 not UTF-8", up.stream(GOOD_START, then=up.later(b"data: \xff\n\n")), K.BROKEN),
    (
        "19 not UTF-8, cut",
        up.raw_stream(up.event(GOOD_START[0]) + b"data: \xe4\xb8x\n\n", cut=1),
        K.BROKEN,
    ),
    ("20 reset", up.stream(GOOD_START, then=up.reset), K.BROKEN),
    ("20 FIN", up.stream(GOOD_START, then=up.close), K.BROKEN),
    ("20 bad chunk", up.stream(GOOD_START, then=up.bad_chunk), K.BROKEN),
    ("20 half an event", up.raw_stream(up.event(GOOD_START[0]) + b'data: {"cho'), K.BROKEN),
    ("22 stall", up.stream(GOOD_START, then=up.hang), K.TIMED_OUT),
    (
        "23 event: error",
        up.raw_stream(up.event(GOOD_START[0]) + b'event: error\ndata: {"error":"x"}\n\n'),
        K.BROKEN,
    ),
    (
        "27 large line",
        up.raw_stream(up.event(GOOD_START[0]) + b"data: " + b"x" * (1 << 20)),
        K.UNUSABLE,
    ),
]


@pytest.mark.parametrize(
    ("act", "kind"), [row[1:] for row in MIDSTREAM], ids=[r[0] for r in MIDSTREAM]
)
def test_a_fault_in_mid_stream_is_raised_after_what_was_good(act: Act, kind: FailureKind) -> None:
    """Good events are handed over first; then the failure comes, and there is no retry."""

    async def test() -> None:
        async with FaultUpstream(default=act) as upstream, pool_of(upstream.url) as pool:
            stream = await pool.open_stream(CALL, "alice")
            seen: list[bytes] = []
            with pytest.raises(EngineFailure) as caught:
                await collect(stream, seen)
            await stream.aclose()
            assert caught.value.kind is kind
            assert seen
            assert seen == GOOD_START[: len(seen)]
            assert len(upstream.requests) == 1
            assert failures_counted(pool) == 1
            assert pool.members[0].outstanding == 0

    run(test)


def test_a_stream_that_ends_without_done_counts_against_the_backend() -> None:
    """Row 21: the iteration just ends, which its reader sees; the breaker is told."""

    async def test() -> None:
        act = up.stream(GOOD_START)
        async with FaultUpstream(default=act) as upstream, pool_of(upstream.url) as pool:
            assert await read_all(pool) == GOOD_START
            assert failures_counted(pool) == 1

    run(test)


def test_a_good_answer_and_a_good_stream_reuse_one_connection() -> None:
    """Both ways return the connection to the pool, even if the reader stops at `[DONE]`."""

    async def test() -> None:
        async with FaultUpstream() as upstream, pool_of(upstream.url) as pool:
            completion = await pool.complete(CALL, "alice")
            assert completion.choices[0]["message"]["content"] == "Hello."
            assert completion.usage is not None
            assert completion.usage.prompt_tokens == 11
            assert await read_all(pool) == up.usual_events()
            stream = await pool.open_stream(CALL, "alice")
            async for payloads in stream:
                if payloads[-1] == up.DONE:
                    break
            await stream.aclose()
            await pool.complete(CALL, "alice")
            assert upstream.connections == 1
            assert failures_counted(pool) == 0

    run(test)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": -1, "completion_tokens": 2},
        {"prompt_tokens": 1, "completion_tokens": 10**15},
        {"prompt_tokens": float("nan"), "completion_tokens": 2},
        {"prompt_tokens": "many", "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": 2},
        "lots",
    ],
)
def test_an_unbelievable_usage_does_not_cost_the_answer(usage: Any) -> None:
    """Rows 17 and 18: the answer is good, its usage is missing or suspect."""

    async def test() -> None:
        act = up.answer_json(up.completion(usage=usage))
        async with FaultUpstream(default=act) as upstream, pool_of(upstream.url) as pool:
            completion = await pool.complete(CALL, "alice")
            assert completion.usage is None
            assert completion.output_bytes(1) == len("Hello.")

    run(test)


def test_a_stale_connection_is_retried_for_free() -> None:
    """Row 2: a kept-alive connection that dies before the answer costs no attempt."""

    async def test() -> None:
        async with FaultUpstream() as upstream, pool_of(upstream.url) as pool:
            await pool.complete(CALL, "alice")
            upstream.then(up.close)
            await pool.complete(CALL, "alice")
            assert len(upstream.requests) == 3
            assert upstream.connections == 2
            assert failures_counted(pool) == 0

    run(test)


def test_cancelling_closes_the_connection_at_once() -> None:
    """Row 30: whoever gives up stops the backend's work, in either form and at either time."""

    async def test() -> None:
        async with (
            FaultUpstream(default=up.hang) as upstream,
            pool_of(upstream.url, deadlines=Deadlines()) as pool,
        ):
            for act in (pool.complete, pool.open_stream):
                task = asyncio.ensure_future(act(CALL, "alice"))
                while not upstream.requests:
                    await asyncio.sleep(0.01)
                request = upstream.requests.pop()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.wait_for(request.closed.wait(), 0.25)
            upstream.default = up.stream(GOOD_START, then=up.hang)
            stream = await pool.open_stream(CALL, "alice")
            await stream.aclose()
            await asyncio.wait_for(upstream.requests[0].closed.wait(), 0.25)
            assert pool.members[0].outstanding == 0
            assert failures_counted(pool) == 0

    run(test)


def test_the_upstream_request_holds_only_what_it_should() -> None:
    """The body is the call's plus model and stream; identity encoding is asked for."""

    async def test() -> None:
        async with FaultUpstream() as upstream:
            client = HttpClient(upstream.url, api_key="sk-secret")
            backend = OpenAIBackend("u", client, "their-name", clock=SystemClock())
            assert "secret" not in repr(vars(backend))
            await backend.complete(CALL)
            stream = [p async for p in backend.stream(CALL)]
            await backend.aclose()
            assert stream
            whole, streamed = upstream.requests
            assert whole.json == CALL.body | {"model": "their-name", "stream": False}
            assert streamed.json == CALL.body | {
                "model": "their-name",
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            assert whole.header("accept-encoding") == "identity"
            assert whole.header("authorization") == "Bearer sk-secret"
            assert {name.lower() for name, _ in whole.headers} == {
                "host",
                "accept",
                "accept-encoding",
                "authorization",
                "content-length",
                "content-type",
                "user-agent",
            }

    run(test)
