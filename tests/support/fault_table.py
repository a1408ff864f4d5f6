"""THE FAULT TABLE: what backends do wrong, one row each, and what follows from it.

A row is provoked for real by its act (`support.upstream`). Numbers are those of the matrix in
`docs/explanation/upstream-faults.md`.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

from support import upstream as up
from support.upstream import Act

OPEN, COOLING, SHUNNED = "open", "cooling", "shunned"


@dataclass(frozen=True)
class Row:
    """One fault before the first byte and its consequences."""

    name: str
    act: Act
    code: str
    attempts: int
    breaker: int | str
    """Failures counted, or what became of the backend."""
    retry_after: int | None = None

    def model(self, stream: bool) -> str:
        return slug(f"{'stream' if stream else 'whole'} {self.name}")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def error(status: int, body: Any = None, **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return up.answer_json(body or {"error": {"message": "SECRET-WORDS"}}, status, named)


CONTEXT = {"error": {"message": "too long", "code": "context_length_exceeded"}}
POLICY = {"error": {"message": "no", "code": "content_filter"}}
BROKEN, OFFLINE, TIMEOUT = "INFERENCE_FAILED", "MODEL_OFFLINE", "REQUEST_TIMEOUT"
OVERLOADED, CAPACITY = "MODEL_OVERLOADED", "MODEL_AT_CAPACITY"

BOTH_WAYS = [
    Row("03 hang", up.hang, TIMEOUT, 1, 1),
    Row("03 slow headers", up.slow_headers(0.02), TIMEOUT, 1, 1),
    Row("04 context length", error(400, CONTEXT), "TOO_MANY_TOKENS", 1, 0),
    Row("05 bad request", error(400), "INVALID_REQUEST", 1, 0),
    Row("05 unprocessable", error(422), "INVALID_REQUEST", 1, 0),
    Row("06 unauthorized", error(401), OFFLINE, 1, OPEN),
    Row("06 forbidden", error(403), OFFLINE, 1, OPEN),
    Row("07 payment required", error(402), OFFLINE, 1, OPEN),
    Row("08 no such model", error(404), OFFLINE, 1, OPEN),
    Row("09 too large", error(413), "PAYLOAD_TOO_LARGE", 1, 0),
    Row("10 too many requests", error(429, retry_after="7"), OVERLOADED, 1, COOLING, 7),
    Row("10 overloaded", error(529), OVERLOADED, 1, SHUNNED),
    Row("11 internal error", error(500), BROKEN, 2, 2),
    Row("12 bad gateway", error(502), BROKEN, 2, 2),
    Row("13 loading", error(503, retry_after="3"), CAPACITY, 1, COOLING, 3),
    Row("13 unavailable", error(503), CAPACITY, 1, SHUNNED),
    Row("14 gateway timeout", error(504), TIMEOUT, 1, 1),
    Row("14 request timeout", error(408), TIMEOUT, 1, 1),
    Row("15 redirect", error(307, location="http://127.0.0.1:1/"), BROKEN, 1, OPEN),
    Row("16 html", up.answer(200, b"<html>", content_type="text/html"), BROKEN, 2, 2),
    Row("23 error in a 200", error(200), BROKEN, 2, 2),
    Row("23 overload in a 200", error(200, {"error": {"code": 429}}), OVERLOADED, 1, SHUNNED),
    Row("24 policy", error(400, POLICY), "CONTENT_POLICY_VIOLATION", 1, 0),
    Row("27 large header", up.oversized_header(200_000), BROKEN, 1, 1),
    Row("27 many headers", up.many_headers(90), BROKEN, 1, 1),
    Row("27 compressed", up.compressed(), BROKEN, 1, 1),
]

UNFINISHED = {"choices": [{"message": {"content": "x"}, "finish_reason": None}]}
WHOLE = [
    Row("16 cut with a length", up.truncated(b'{"choices":[', length=99), BROKEN, 2, 2),
    Row("16 cut cleanly", up.truncated(b'{"choices":['), BROKEN, 2, 2),
    Row("16 malformed", up.answer(200, b"{]"), BROKEN, 2, 2),
    Row("16 no completion", up.answer_json({"choices": []}), BROKEN, 2, 2),
    Row("19 not utf-8", up.answer(200, b'{"choices":"\xff"}'), BROKEN, 2, 2),
    Row("21 no finish reason", up.answer_json(UNFINISHED), BROKEN, 2, 2),
    Row("27 large body", up.oversized_body(33 << 20), BROKEN, 1, 1),
]

STREAMED = [
    Row("16 first event junk", up.stream([b"<oops>"]), BROKEN, 2, 2),
    Row("16 first event no object", up.stream([b"[1]"]), BROKEN, 2, 2),
    Row("19 first event not utf-8", up.raw_stream(b"data: \xff\n\n"), BROKEN, 2, 2),
    Row("20 bad chunk first", up.stream([], then=up.bad_chunk), BROKEN, 2, 2),
    Row("21 empty stream", up.stream([]), BROKEN, 2, 2),
    Row("21 only done", up.stream([up.DONE]), BROKEN, 2, 2),
    Row("22 no first event", up.stream([], then=up.hang), TIMEOUT, 1, 1),
    Row(
        "23 first event an error",
        up.stream([b'{"error":{"message":"x","code":503}}']),
        CAPACITY,
        1,
        SHUNNED,
    ),
    Row(
        "23 error event first",
        up.raw_stream(b'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n'),
        OVERLOADED,
        1,
        SHUNNED,
    ),
    Row(
        "24 policy first",
        up.stream([b'{"error":{"code":"content_filter"}}']),
        "CONTENT_POLICY_VIOLATION",
        1,
        0,
    ),
    Row("27 large line first", up.raw_stream(b"data: " + b"x" * (1 << 20)), BROKEN, 1, 1),
]


@dataclass(frozen=True)
class Break:
    """One fault of a stream whose first frames were delivered."""

    name: str
    act: Act
    code: str
    breaker: int | str

    @property
    def model(self) -> str:
        return slug(f"mid {self.name}")


START = up.usual_events()[:3]
"""The role, and two pieces of text."""
HELD_BACK = up.delta(finish="stop")
"""A finish reason is released only with a proper end."""


def after(act: Act) -> Act:
    """The usual start, and `act` once the gateway has surely read it."""

    async def act_later(exchange: up.Exchange) -> None:
        await asyncio.sleep(0.1)
        await act(exchange)

    return up.stream(START, then=act_later)


def broken(*then: bytes) -> Act:
    """The usual start, then these events in a read of their own, then a proper end of the body."""
    return after(up.later(b"".join(map(up.event, then))))


BREAKS = [
    Break("19 not utf-8", after(up.later(b"data: \xff\n\n")), BROKEN, 1),
    Break("19 no json", broken(b'{"choices":'), BROKEN, 1),
    Break("19 a list", broken(b"[1,2]"), BROKEN, 1),
    Break("19 delta no object", broken(b'{"choices":[{"index":0,"delta":"x"}]}'), BROKEN, 1),
    Break("20 reset", after(up.reset), BROKEN, 1),
    Break("20 fin", after(up.close), BROKEN, 1),
    Break("20 bad chunk", after(up.bad_chunk), BROKEN, 1),
    Break("20 half an event", after(up.later(b'data: {"cho')), BROKEN, 1),
    Break("21 clean end", up.stream(START), BROKEN, 1),
    Break("21 finish without done", up.stream([*START, HELD_BACK]), BROKEN, 1),
    Break("21 done without finish", up.stream([*START, up.DONE]), BROKEN, 1),
    Break("21 gave up", broken(up.delta(finish="abort"), up.DONE), BROKEN, 1),
    Break("22 stall", up.stream(START, then=up.hang), TIMEOUT, 1),
    Break("22 stall after finish", up.stream([*START, HELD_BACK], then=up.hang), TIMEOUT, 1),
    Break("23 error", broken(b'{"error":{"message":"CUDA out of memory"}}'), BROKEN, 1),
    Break("23 overload", broken(b'{"error":{"code":429}}'), OVERLOADED, SHUNNED),
    Break("23 no capacity", broken(b'{"error":{"code":503}}'), CAPACITY, SHUNNED),
    Break(
        "23 error event",
        after(up.later(b'event: error\ndata: {"error":"x"}\n\n')),
        BROKEN,
        1,
    ),
    Break(
        "24 policy",
        broken(b'{"error":{"code":"content_filter"}}'),
        "CONTENT_POLICY_VIOLATION",
        0,
    ),
    Break(
        "27 large line",
        after(up.later(b"data: " + b"x" * (1 << 20))),
        BROKEN,
        1,
    ),
]


def metered(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}


def told(usage: Any, *, streamed: bool) -> Act:
    """A good answer that reports this usage, or none."""
    if not streamed:
        return up.answer_json(up.completion(usage=usage))
    *events, _, done = up.usual_events()
    reported = [] if usage is None else [up.usage_chunk(usage)]
    return up.stream([*events, *reported, done])


UNBELIEVABLE = {
    "17 missing": None,
    "18 negative": metered(-1, 3),
    "18 huge": metered(11, 10**15),
    "18 not a number": metered(float("nan"), 3),
    "18 words": metered("many", 3),
    "18 longer than the prompt can be": metered(90_000, 3),
}


def with_usage(payload: bytes, completion_tokens: int) -> bytes:
    """An event that also carries usage, as servers with continuous usage send it."""
    return payload[:-1] + b"," + json.dumps({"usage": metered(11, completion_tokens)}).encode()[1:]


GOOD = {
    "good": up.answer_completion(),
    "good-slow": up.stream(up.usual_events(), seconds=0.15),
    "too-many-choices": up.answer_json(up.completion(n=3)),
    "too-long": up.answer_json(up.completion(usage=metered(11, 500))),
    "too-long-stream": up.stream(up.usual_events(*"abcdefgh"), seconds=0.02, then=up.hang),
    "empty": up.answer_json(up.completion("", usage=metered(11, 0))),
    "breaks-with-usage": up.stream(
        [with_usage(payload, count) for count, payload in enumerate(START)], then=up.later(b"oops")
    ),
    "breaks-overstated": up.stream([with_usage(START[1], 400)], then=up.later(b"oops")),
    "stale": up.answer_completion(),
    "closes": up.close,
    "resets": up.reset,
} | {
    slug(f"{way} {name}"): told(usage, streamed=way == "stream")
    for name, usage in UNBELIEVABLE.items()
    for way in ("whole", "stream")
}
