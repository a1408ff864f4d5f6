"""Failures inside a stream (contract B.1.7): the frames before, the error frame, `[DONE]`, once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from conformance.recipes import CANARY
from support.client import PUBLISHED, Answer, chat
from support.configuration import relayed_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import (
    DONE,
    Act,
    FaultUpstream,
    close,
    delta,
    hang,
    later,
    reset,
    stream,
    usage_chunk,
)
from support.waiting import wait_until
from traghetto.clock import ManualClock

CREATED = 1_767_225_600
BETWEEN_EVENTS_SECONDS = 0.25
BEGINNING = [delta("", role="assistant"), delta("Hel"), delta("lo")]
USAGE_SO_FAR = usage_chunk({"prompt_tokens": 11, "completion_tokens": 9, "total_tokens": 20})
OVERLOAD = PUBLISHED["MODEL_OVERLOADED"].stream_frame()
FAILURE = PUBLISHED["INFERENCE_FAILED"].stream_frame()
POLICY = PUBLISHED["CONTENT_POLICY_VIOLATION"].stream_frame()
TIMEOUT = PUBLISHED["REQUEST_TIMEOUT"].stream_frame()


def in_band(**members: object) -> bytes:
    """What a backend says inside its stream; its own words must not come through."""
    return json.dumps({"error": {"message": CANARY, **members}}).encode()


@dataclass(frozen=True)
class Break:
    """How a backend's stream breaks after `BEGINNING`, and what the client is told."""

    name: str
    act: Act
    frame: bytes
    code: str
    logged: bool = False


def failing(name: str, act: Act) -> Break:
    return Break(name, act, FAILURE, "INFERENCE_FAILED", logged=True)


BREAKS = (
    Break(
        "overload",
        stream([*BEGINNING, in_band(type="overloaded_error", code=429)]),
        OVERLOAD,
        "MODEL_OVERLOADED",
    ),
    Break(
        "overload with a time",
        stream([*BEGINNING, in_band(type="overloaded_error", code=429, retry_after=7)]),
        PUBLISHED["MODEL_OVERLOADED"].stream_frame(retry_after=7),
        "MODEL_OVERLOADED",
    ),
    Break(
        "policy",
        stream([*BEGINNING, in_band(code="content_filter")]),
        POLICY,
        "CONTENT_POLICY_VIOLATION",
    ),
    Break("silence", stream(BEGINNING, then=hang), TIMEOUT, "REQUEST_TIMEOUT"),
    Break(
        "timeout of the backend",
        stream([*BEGINNING, in_band(type="timeout_error")]),
        TIMEOUT,
        "REQUEST_TIMEOUT",
    ),
    failing("error", stream([*BEGINNING, in_band(type="server_error", code=500)])),
    failing("closed", stream(BEGINNING, then=close)),
    failing("reset", stream(BEGINNING, then=reset)),
    failing("no finish reason", stream([*BEGINNING, DONE])),
    failing("no end", stream([*BEGINNING, delta(finish="stop")])),
    failing("not JSON", stream(BEGINNING, then=later(b'data: {"id":\n\n'))),
    failing("gave up", stream([*BEGINNING, delta(finish="error")])),
)


def toml(upstream: FaultUpstream) -> str:
    return relayed_toml(upstream, between_events_seconds=str(BETWEEN_EVENTS_SECONDS))


def streamed(gateway: RunningGateway, key: str) -> Answer:
    messages = [{"role": "user", "content": CANARY}]
    return chat(gateway, key, "relayed", stream=True, messages=messages)


def chunk(answer: Answer, choices: str) -> bytes:
    """A relayed chunk: the public id and model in place of the backend's."""
    return (
        f'{{"id":"chatcmpl-{answer.request_id}","object":"chat.completion.chunk",'
        f'"created":{CREATED},"model":"relayed","choices":{choices}}}'
    ).encode()


def beginning(answer: Answer) -> list[bytes]:
    deltas = ('{"role":"assistant","content":""}', '{"content":"Hel"}', '{"content":"lo"}')
    return [
        chunk(answer, f'[{{"index":0,"delta":{inner},"finish_reason":null}}]') for inner in deltas
    ]


def metric(gateway: RunningGateway, code: str) -> float:
    """How often metrics have counted a chat stream that ended with `code`."""
    labels = {"endpoint": "chat_completions", "status": "200", "code": code}
    registry = gateway.gateway.metrics.registry
    return registry.get_sample_value("traghetto_requests_total", labels) or 0.0


@pytest.mark.parametrize("broken", BREAKS, ids=lambda each: each.name)
@pytest.mark.parametrize("with_usage", [False, True], ids=["", "usage"])
def test_a_broken_stream_says_why_and_ends(
    tmp_path: Path, upstream: FaultUpstream, broken: Break, with_usage: bool
) -> None:
    """What came is delivered, then one error frame and `[DONE]`; it is settled and logged once.

    Without usage from the backend it is free; with it, the prompt and what was delivered of the
    output are charged: 11 tokens at 1 USD and 2 at 2 USD per million.
    """
    act = broken.act
    if with_usage:
        upstream.then(_with_usage_first(act))
    else:
        upstream.then(act)
    with running_gateway(tmp_path, toml(upstream), clock=ManualClock()) as gateway:
        key = gateway.new_key()
        answer = streamed(gateway, key)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.frames == [*beginning(answer), broken.frame, DONE]
        assert answer.body.endswith(b"data: " + broken.frame + b"\n\ndata: [DONE]\n\n")
        assert len(upstream.requests) == 1, "nothing is retried once something was delivered"
        assert gateway.differences() == []
        assert gateway.gateway.book.open_holds == 0
        (shown,) = (k for k in gateway.perform("keys.list")["keys"] if k["kind"] == "INFERENCE")
        assert shown["spent_usd"] == ("0.000015" if with_usage else "0")
        wait_until(lambda: metric(gateway, broken.code) == 1.0)
        mine = [r for r in gateway.records() if r.get("request_id") == answer.request_id]
    assert len(mine) == broken.logged
    for record in mine:
        assert (record["level"], record["code"], record["model"]) == (
            "error",
            "INFERENCE_FAILED",
            "relayed",
        )
    assert CANARY not in gateway.log.getvalue()


def _with_usage_first(act: Act) -> Act:
    """The same stream with usage so far reported after the first event, as some servers do."""

    async def reporting(exchange) -> None:  # type: ignore[no-untyped-def]
        write_chunk = exchange.chunk
        written = 0

        async def counting(data: bytes) -> None:
            nonlocal written
            await write_chunk(data)
            written += 1
            if written == 1:
                await write_chunk(b"data: " + USAGE_SO_FAR + b"\n\n")

        exchange.chunk = counting
        await act(exchange)

    return reporting


@pytest.mark.parametrize(
    ("first", "status", "code"),
    [
        (in_band(type="overloaded_error", code=429), 429, "MODEL_OVERLOADED"),
        (in_band(code="content_filter"), 422, "CONTENT_POLICY_VIOLATION"),
        (in_band(type="server_error", code=503), 503, "MODEL_AT_CAPACITY"),
    ],
)
def test_a_stream_that_fails_at_its_first_event_is_an_http_error(
    tmp_path: Path, upstream: FaultUpstream, first: bytes, status: int, code: str
) -> None:
    """Until the first byte has left, a failure has the status and the plain body of its code."""
    upstream.default = stream([first])
    with running_gateway(tmp_path, toml(upstream)) as gateway:
        answer = streamed(gateway, gateway.new_key())
        assert answer.status == status
        assert answer.headers["x-error-code"] == code
        assert answer.json == {"error": PUBLISHED[code].message}
        assert gateway.differences() == []
        assert gateway.gateway.book.open_holds == 0


def test_a_policy_block_inside_a_stream_counts_as_a_failed_request(
    tmp_path: Path, upstream: FaultUpstream
) -> None:
    """The budget sees the code, whether it came as a status or inside a stream."""
    upstream.default = BREAKS[2].act
    with running_gateway(tmp_path, toml(upstream), failed_requests_max=1) as gateway:
        key = gateway.new_key()
        assert streamed(gateway, key).frames[-2] == POLICY
        assert streamed(gateway, key).frames[-2] == POLICY
        blocked = streamed(gateway, key)
        assert (blocked.status, blocked.headers["x-error-code"]) == (429, "FAILED_REQUEST_BUDGET")


def test_an_unbroken_stream_has_no_error_frame(tmp_path: Path, upstream: FaultUpstream) -> None:
    """The same stream with its proper end: finish reason, one usage chunk, `[DONE]`, the charge."""
    upstream.then(stream([*BEGINNING, delta(finish="stop"), usage_chunk(), DONE]))
    with running_gateway(tmp_path, toml(upstream), clock=ManualClock()) as gateway:
        answer = streamed(gateway, gateway.new_key())
        *before, finish, usage, done = answer.frames
        assert before == beginning(answer)
        assert finish == chunk(answer, '[{"index":0,"delta":{},"finish_reason":"stop"}]')
        assert usage == chunk(answer, "[]")[:-1] + (
            b',"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14,'
            b'"prompt_tokens_details":{"cached_tokens":0,"cache_creation_input_tokens":0},'
            b'"completion_tokens_details":{"reasoning_tokens":0}},'
            b'"cost":{"usd":0.000017,"diem":0}}'
        )
        assert done == DONE
        wait_until(lambda: metric(gateway, "") == 1.0)
        assert gateway.differences() == []
