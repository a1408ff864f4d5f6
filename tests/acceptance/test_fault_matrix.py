"""The fault matrix, end to end: a real backend that fails, a priced model, a real socket.

Each row says what one fault of a backend means for everybody: the client's bytes, the attempts the
backend saw, the money, the breaker, and the log. `docs/explanation/upstream-faults.md` tells why.
Clients that leave are in `test_disconnect`, a store that fails in `conformance/test_broken_store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import client
from support import upstream as up
from support.client import DONE, Reply, assert_published, chat_body, published
from support.gateway import RunningGateway, running_gateway
from support.upstream import Act, FaultUpstream, upstream_in_thread
from traghetto.engines.breaker import BreakerState
from traghetto.engines.member import Health, Member
from traghetto.engines.pool import ModelPool, _rendezvous
from traghetto.storage.facts import UsageRecorded
from traghetto.storage.sqlite import open_read_only

OPEN, COOLING, SHUNNED = "open", "cooling", "shunned"
PROMPT_NANO_USD, OUTPUT_NANO_USD = 1_000, 2_000
"""Prices of one token: 1 and 2 USD per million."""
USUAL_CHARGE = 11 * PROMPT_NANO_USD + 3 * OUTPUT_NANO_USD
FUNDS = 10_000_000_000


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

SHORT = "first_event_seconds = 0.4\nbetween_events_seconds = 0.3\ntotal_seconds = 0.4"
PATIENT = "first_event_seconds = 20\nbetween_events_seconds = 20\ntotal_seconds = 20"
PRICE = 'pricing = { input = "1", output = "2" }'
IMPATIENT = re.compile("03-hang|03-slow-headers|22-")


def entry(model: str, *upstreams: str, more: str = "") -> str:
    deadlines = SHORT if IMPATIENT.search(model) else PATIENT
    return f'[[models]]\nid = "{model}"\nupstreams = {json.dumps(upstreams)}\n{PRICE}\n{deadlines}\n{more}\n'


def server(name: str, url: str) -> str:
    return f'[[upstreams]]\nname = "{name}"\nurl = "{url}"\n'


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


@dataclass
class Stage:
    """The gateway, its two backends, and what a test asks of them."""

    gateway: RunningGateway
    one: FaultUpstream
    two: FaultUpstream

    def pool(self, model: str) -> ModelPool:
        return self.gateway.gateway.services.fleet.pools[model]

    def member(self, model: str) -> Member:
        return self.pool(model).members[0]

    def requests(self, model: str, upstream: FaultUpstream | None = None) -> int:
        return sum(1 for r in (upstream or self.one).requests if r.model == model)

    def usages(self, account: str) -> list[UsageRecorded]:
        """The usage records of an account, once everything decided is on disk."""
        assert self.gateway.differences() == []
        shown = self.gateway.perform("accounts.show", account=account)
        with open_read_only(self.gateway.data_dir) as books:
            assert [h for h in books.holds() if h.account_id == shown["id"]] == [], "a hold is left"
            return [u for u in books.usages() if u.account_id == shown["id"]]


@dataclass
class Customer:
    """A fresh account with 10 USD; everything it asks is checked in the books."""

    stage: Stage
    name: str
    key: str
    log: io.StringIO

    def ask(self, model: str, *, stream: bool = False, **members: Any) -> Reply:
        with contextlib.redirect_stderr(self.log):
            body = chat_body(model, stream=stream, **members)
            reply = client.send(self.stage.gateway.address, body, self.key)
            # A stream's record is written when its exchange is over, just after its last byte.
            wait_until(lambda: not is_logged(reply) or self.levels(reply))
        return reply

    def levels(self, reply: Reply) -> list[str]:
        """The levels of the records that carry the request's id."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line["level"] for line in lines if line.get("request_id") == reply.request_id]

    def events(self, name: str) -> list[tuple[str, str]]:
        """Level and model of the records of a change of state; none of them names a request."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        found = [line for line in lines if line["event"] == name]
        assert not any("request_id" in line for line in found)
        return [(line["level"], line["model"]) for line in found]

    def spent(self) -> int:
        """Nano USD that left the account; the usage records must say the same."""
        usages = self.stage.usages(self.name)
        balance = self.stage.gateway.usd(self.name)
        whole, _, fraction = balance.partition(".")
        spent = FUNDS - int(whole) * 10**9 - int(fraction.ljust(9, "0") or 0)
        assert spent == sum(usage.charged for usage in usages)
        return spent


def is_logged(reply: Reply) -> bool:
    """Whether the error at the end of a stream is one that is logged."""
    return published()[BROKEN].message.encode() in reply.body


def wait_until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    acts = {row.model(False): row.act for row in [*BOTH_WAYS, *WHOLE]}
    acts |= {row.model(True): row.act for row in [*BOTH_WAYS, *STREAMED]}
    acts |= {row.model: row.act for row in BREAKS} | GOOD
    twins = {f"twin-{row.model(stream)}": row.act for row in BOTH_WAYS for stream in (False, True)}
    with upstream_in_thread() as one, upstream_in_thread() as two:
        one.by_model |= acts | twins
        one.by_model["both-busy"] = error(429, retry_after="7")
        two.by_model["both-busy"] = error(429, retry_after="4")
        one.by_model["capped"] = up.stream(up.usual_events(), seconds=0.2)
        one.by_model["open-breaker"] = error(401)
        one.by_model["amplified"] = error(500)
        names = [*acts, *twins, "both-busy", "capped", "open-breaker", "amplified"]
        for upstream in (one, two):
            listing = {"object": "list", "data": [{"id": name} for name in names]}
            upstream.models_act = up.answer_json(listing)
        toml = (
            'rate_limits = "off"\nstream_ping_seconds = 0.1\n'
            + server("one", one.url)
            + server("two", two.url)
            + "".join(entry(model, "one") for model in [*acts, "open-breaker", "amplified"])
            + "".join(entry(model, "one", "two") for model in [*twins, "both-busy"])
            + entry("capped", "one", more="concurrency_max = 1\nqueue_max = 0")
        )
        with running_gateway(tmp_path_factory.mktemp("faults"), toml) as gateway:
            yield Stage(gateway, one, two)


@pytest.fixture
def customer(stage: Stage) -> Customer:
    key = stage.gateway.new_key()
    accounts = stage.gateway.perform("accounts.list")["accounts"]
    return Customer(stage, accounts[-1]["name"], key, io.StringIO())


def breaker_of(member: Member) -> int | str:
    breaker = member.breaker
    if breaker.state is not BreakerState.CLOSED:
        return OPEN
    if breaker.is_cooling:
        return COOLING
    return SHUNNED if breaker.is_shunned else breaker._consecutive


def check_before_first_byte(customer: Customer, row: Row, *, stream: bool) -> None:
    stage, model = customer.stage, row.model(stream)
    reply = customer.ask(model, stream=stream)
    assert_published(reply, row.code)
    assert b"SECRET" not in reply.body
    if reply.status in {429, 503}:
        assert reply.headers["retry-after"] == str(row.retry_after or 30)
    assert stage.requests(model) == row.attempts
    assert breaker_of(stage.member(model)) == row.breaker
    assert stage.member(model).outstanding == 0
    assert customer.spent() == 0
    assert stage.usages(customer.name) == []
    level = published()[row.code].log_level
    assert customer.levels(reply) == ([level] if level else [])
    if row.code == OFFLINE:
        assert customer.events("backend_misconfigured") == [("error", model)]


@pytest.mark.parametrize("row", BOTH_WAYS + WHOLE, ids=lambda row: row.name)
def test_a_fault_of_a_whole_answer_is_its_code_and_costs_nothing(
    customer: Customer, row: Row
) -> None:
    """Without a stream: the exact answer, the attempts, no money, the breaker, one log record."""
    check_before_first_byte(customer, row, stream=False)


@pytest.mark.parametrize("row", BOTH_WAYS + STREAMED, ids=lambda row: row.name)
def test_a_fault_before_the_first_event_is_an_http_error(customer: Customer, row: Row) -> None:
    """A stream that has not begun fails exactly as a whole answer does."""
    check_before_first_byte(customer, row, stream=True)


@pytest.mark.parametrize("row", BREAKS, ids=lambda row: row.name)
def test_a_broken_stream_ends_with_the_error_frame(customer: Customer, row: Break) -> None:
    """What was good is delivered, then the exact error and `[DONE]`; nothing says "complete"."""
    stage = customer.stage
    reply = customer.ask(row.model, stream=True)
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.frames[-2:] == [published()[row.code].stream_frame(), DONE]
    delivered = reply.chunks[:-1]
    sent = [json.loads(payload)["choices"] for payload in START]
    assert [chunk["choices"] for chunk in delivered] == sent
    for chunk in delivered:
        assert chunk.keys() == {"id", "object", "created", "model", "choices"}
        assert (chunk["id"], chunk["model"]) == (f"chatcmpl-{reply.request_id}", row.model)
    assert stage.requests(row.model) == 1, "nothing is retried after the first byte"
    assert customer.spent() == 0, "no usage was reported, so nothing is charged"
    assert breaker_of(stage.member(row.model)) == row.breaker
    assert stage.member(row.model).outstanding == 0
    level = published()[row.code].log_level
    assert customer.levels(reply) == ([level] if level else [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["closes", "resets"])
def test_a_connection_that_dies_unanswered_is_tried_again(
    customer: Customer, model: str, stream: bool
) -> None:
    """Row 2: one retry, and free ones for kept-alive connections that may have been stale."""
    before = customer.stage.requests(model)
    reply = customer.ask(model, stream=stream)
    assert_published(reply, BROKEN)
    assert 2 <= customer.stage.requests(model) - before <= 4
    assert customer.levels(reply) == ["error"]
    assert customer.spent() == 0


def test_a_stale_connection_costs_neither_attempt_nor_failure(customer: Customer) -> None:
    """Row 2: a server that closed an idle connection is asked again, and nobody notices."""
    stage = customer.stage
    assert customer.ask("stale").status == 200
    stage.one.then(up.close)
    assert customer.ask("stale").status == 200
    assert stage.requests("stale") == 3
    assert breaker_of(stage.member("stale")) == 0
    assert customer.spent() == 2 * USUAL_CHARGE


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", UNBELIEVABLE)
def test_usage_that_is_missing_or_unbelievable_is_counted_here(
    customer: Customer, name: str, stream: bool
) -> None:
    """Rows 17 and 18: the answer is good; our own count is charged, and marked as such."""
    reply = customer.ask(slug(f"{'stream' if stream else 'whole'} {name}"), stream=stream)
    assert reply.status == 200
    (usage,) = customer.stage.usages(customer.name)
    assert usage.basis == "counted"
    assert usage.streamed == stream
    assert usage.completion_tokens == (3 if stream else 2)
    assert 0 < usage.prompt_tokens < 50
    shown = (reply.chunks[-1] if stream else reply.json)["usage"]
    assert shown["prompt_tokens"] == usage.prompt_tokens
    assert shown["completion_tokens"] == usage.completion_tokens
    charged = usage.prompt_tokens * PROMPT_NANO_USD + usage.completion_tokens * OUTPUT_NANO_USD
    assert customer.spent() == charged


@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_is_charged_by_the_usage_its_backend_reports(
    customer: Customer, stream: bool
) -> None:
    """The rule that all the exceptions are measured against."""
    reply = customer.ask("good", stream=stream)
    assert reply.status == 200
    (usage,) = customer.stage.usages(customer.name)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.basis) == (11, 3, "backend")
    assert customer.spent() == USUAL_CHARGE
    last = reply.chunks[-1] if stream else reply.json
    assert last["cost"] == {"usd": USUAL_CHARGE / 10**9, "diem": 0}


def test_an_answer_without_output_is_free(customer: Customer) -> None:
    """Zero output tokens cost nothing, not even the prompt (contract A.4)."""
    assert customer.ask("empty").status == 200
    assert customer.spent() == 0


@pytest.mark.parametrize(("model", "output"), [("breaks-with-usage", 2), ("breaks-overstated", 1)])
def test_a_broken_stream_is_charged_by_usage_capped_by_what_was_delivered(
    customer: Customer, model: str, output: int
) -> None:
    """Row 20: a backend that reports usage as it goes is believed up to what the client has."""
    reply = customer.ask(model, stream=True)
    assert reply.frames[-2:] == [published()[BROKEN].stream_frame(), DONE]
    assert customer.spent() == 11 * PROMPT_NANO_USD + output * OUTPUT_NANO_USD
    (usage,) = customer.stage.usages(customer.name)
    assert (usage.completion_tokens, usage.basis) == (output, "backend")


def test_a_slow_stream_gets_comments_and_is_otherwise_usual(customer: Customer) -> None:
    """Row 25: comments keep the connection alive, after the first event only."""
    reply = customer.ask("good-slow", stream=True)
    assert reply.body.startswith(b"data: ")
    assert b"\n\n: ping\n\n" in reply.body
    assert [c["choices"][0]["delta"].get("content") for c in reply.chunks[:4]] == [
        "",
        "Hel",
        "lo",
        ".",
    ]
    assert customer.spent() == USUAL_CHARGE


def test_more_choices_or_tokens_than_asked_for_are_cut_off(customer: Customer) -> None:
    """Row 26: the answer is what was asked for, and so is its price."""
    assert len(customer.ask("too-many-choices").json["choices"]) == 1
    spent = customer.spent()
    assert spent == USUAL_CHARGE
    answer = customer.ask("too-long", max_tokens=2).json
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2
    assert customer.spent() - spent == 11 * PROMPT_NANO_USD + 2 * OUTPUT_NANO_USD


def test_a_stream_past_its_bound_is_ended_with_length(customer: Customer) -> None:
    """Row 26: the backend is stopped, the client gets a complete answer of the asked length."""
    stage = customer.stage
    reply = customer.ask("too-long-stream", stream=True, max_tokens=2)
    texts = [c["choices"][0]["delta"].get("content") for c in reply.chunks[:-1]]
    assert texts == ["", "a", "b", None]
    assert reply.chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert reply.chunks[-1]["usage"]["completion_tokens"] == 2
    (usage,) = stage.usages(customer.name)
    assert (usage.completion_tokens, usage.basis) == (2, "counted")
    (request,) = [r for r in stage.one.requests if r.model == "too-long-stream"]
    wait_until(request.closed.is_set, 0.25)


def test_a_request_beyond_our_own_capacity_is_shed_at_once(customer: Customer) -> None:
    """Row 28: no hold, no charge, and the backend never hears of it."""
    stage = customer.stage
    with contextlib.closing(open_stream(customer, "capped")):
        started = time.monotonic()
        reply = customer.ask("capped", stream=True)
        assert time.monotonic() - started < 0.5
        assert_published(reply, CAPACITY)
        assert int(reply.headers["retry-after"]) >= 1
        assert stage.requests("capped") == 1
    wait_until(lambda: stage.gateway.gateway.services.fleet.gates["capped"].active == 0)
    assert stage.gateway.differences() == []


def open_stream(customer: Customer, model: str) -> socket.socket:
    """A connection on which a stream has begun."""
    connection = socket.create_connection(customer.stage.gateway.address, timeout=10)
    connection.sendall(client.raw_chat(chat_body(model, stream=True), customer.key))
    assert connection.recv(12).startswith(b"HTTP/1.1 200")
    return connection


def test_an_open_breaker_refuses_without_asking_the_backend(customer: Customer) -> None:
    """Row 29: the model is offline until the breaker may be probed."""
    stage, row = customer.stage, "open-breaker"
    assert_published(customer.ask(row), OFFLINE)
    assert breaker_of(stage.member(row)) == OPEN
    for stream in (False, True):
        reply = customer.ask(row, stream=stream)
        assert_published(reply, OFFLINE)
        assert 1 <= int(reply.headers["retry-after"]) <= 6
        assert customer.levels(reply) == []
    assert stage.requests(row) == 1
    assert customer.events("breaker_opened") == [("warn", row)]
    assert customer.events("backend_misconfigured") == [("error", row)]
    assert customer.spent() == 0


# Two replicas


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("row", BOTH_WAYS, ids=lambda row: row.name)
def test_a_second_replica_answers_what_the_first_failed(
    customer: Customer, row: Row, stream: bool
) -> None:
    """A failure that may be retried costs the client nothing but time; any other is its answer."""
    stage, model = customer.stage, f"twin-{row.model(stream)}"
    reply = customer.ask(model, stream=stream, prompt_cache_key=prefers_one())
    assert stage.requests(model) == 1
    if row.code in RETRIED and row.name not in NEVER_RETRIED:
        assert reply.status == 200
        assert stage.requests(model, stage.two) == 1
        assert customer.spent() == USUAL_CHARGE
        assert len(stage.usages(customer.name)) == 1
        assert customer.levels(reply) == []
    else:
        assert_published(reply, row.code)
        assert stage.requests(model, stage.two) == 0
        assert customer.spent() == 0
    one = next(m for m in stage.pool(model).members if m.name == "one")
    assert breaker_of(one) == (1 if row.breaker == 2 else row.breaker)


RETRIED = frozenset({BROKEN, OFFLINE, OVERLOADED, CAPACITY})
NEVER_RETRIED = frozenset({"15 redirect", "27 large header", "27 many headers", "27 compressed"})


def prefers_one() -> str:
    """A cache key whose requests go to replica `one` first."""
    return next(
        key for key in map(str, range(100)) if _rendezvous(key, "one") > _rendezvous(key, "two")
    )


def test_when_every_replica_is_busy_the_client_waits_for_the_soonest(customer: Customer) -> None:
    """Row 10: `Retry-After` is the least of the backends', and nobody is asked before it."""
    stage = customer.stage
    reply = customer.ask("both-busy")
    assert_published(reply, OVERLOADED)
    assert reply.headers["retry-after"] == "4"
    again = customer.ask("both-busy")
    assert_published(again, OVERLOADED)
    assert 1 <= int(again.headers["retry-after"]) <= 4
    assert stage.requests("both-busy") == stage.requests("both-busy", stage.two) == 1
    assert customer.spent() == 0


def test_a_failing_backend_is_not_hit_much_harder_than_a_working_one(customer: Customer) -> None:
    """Ten failing requests bring at most three retries in ten seconds, and then the breaker."""
    stage = customer.stage
    for _ in range(10):
        assert customer.ask("amplified").status in {500, 503}
    assert stage.requests("amplified") <= 5 + 3
    assert customer.spent() == 0


# A backend that goes away


def test_a_backend_that_went_away_is_offline_and_comes_back_by_itself(tmp_path: Path) -> None:
    """Row 1: three attempts to connect, nothing charged; then the health check spares even them."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(upstream_in_thread())
        toml = server("one", upstream.url) + entry("m", "one")
        gateway = stack.enter_context(running_gateway(tmp_path, toml, rate_limits="off"))
        stage = Stage(gateway, upstream, upstream)
        key = gateway.new_key()
        name = gateway.perform("accounts.list")["accounts"][-1]["name"]
        customer = Customer(stage, name, key, io.StringIO())
        member = stage.member("m")
        wait_until(lambda: member.health is Health.UP)
        upstream.go_away()
        for stream in (False, True):
            assert_published(customer.ask("m", stream=stream), OFFLINE)
        assert attempts(gateway) == {"unreachable": 5}, "three, then two more open the breaker"
        assert breaker_of(member) == OPEN
        for _ in range(2):
            gateway.run(member.check())
        assert member.health is Health.DOWN
        reply = customer.ask("m")
        assert_published(reply, OFFLINE)
        assert int(reply.headers["retry-after"]) >= 5
        assert customer.spent() == 0
        assert [r["level"] for r in gateway.records() if r["event"] == "backend_down"] == ["warn"]
        upstream.come_back()
        gateway.run(member.check())
        assert [r["level"] for r in gateway.records() if r["event"] == "backend_up"] == ["info"]
        wait_until(lambda: customer.ask("m").status == 200, 10)


def attempts(gateway: RunningGateway) -> dict[str, int]:
    """Attempts on backends by outcome, as the metrics count them."""
    samples = next(iter(gateway.gateway.metrics.backend_attempts.collect())).samples
    return {
        sample.labels["outcome"]: int(sample.value)
        for sample in samples
        if sample.name.endswith("_total")
    }
