"""The fault matrix, end to end: a real backend that fails, a priced model, a real socket.

Each row says what one fault of a backend means for everybody: the client's bytes, the attempts the
backend saw, the money, the breaker, and the log. `docs/explanation/upstream-faults.md` tells why.
Clients that leave are in `test_disconnect`, a store that fails in `conformance/test_broken_store`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import upstream as up
from support.client import PUBLISHED, assert_published, chat_body, raw_chat
from support.configuration import model_toml, upstream_toml
from support.fault_stage import (
    OUTPUT_NANO_USD,
    PROMPT_NANO_USD,
    USUAL_CHARGE,
    Customer,
    Stage,
    breaker_of,
)
from support.fault_table import (
    BOTH_WAYS,
    BREAKS,
    BROKEN,
    CAPACITY,
    GOOD,
    OFFLINE,
    OPEN,
    OVERLOADED,
    START,
    STREAMED,
    UNBELIEVABLE,
    WHOLE,
    Break,
    Row,
    error,
    slug,
)
from support.gateway import RunningGateway, running_gateway
from support.upstream import DONE, upstream_in_thread
from support.waiting import wait_until
from traghetto.engines.member import Health
from traghetto.engines.replicas import _rendezvous

SHORT = {"first_event_seconds": "0.4", "between_events_seconds": "0.3", "total_seconds": "0.4"}
PATIENT = {"first_event_seconds": "20", "between_events_seconds": "20", "total_seconds": "20"}
IMPATIENT = re.compile("03-hang|03-slow-headers|22-")


def entry(model: str, *upstreams: str, **members: str) -> str:
    deadlines = SHORT if IMPATIENT.search(model) else PATIENT
    names = json.dumps(upstreams)
    return model_toml(model, upstreams=names, context_tokens="", **deadlines, **members)


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
            + upstream_toml(one, name="one")
            + upstream_toml(two, name="two")
            + "".join(entry(model, "one") for model in [*acts, "open-breaker", "amplified"])
            + "".join(entry(model, "one", "two") for model in [*twins, "both-busy"])
            + entry("capped", "one", concurrency_max="1", queue_max="0")
        )
        with running_gateway(tmp_path_factory.mktemp("faults"), toml) as gateway:
            yield Stage(gateway, one, two)


@pytest.fixture
def customer(stage: Stage) -> Customer:
    return new_customer(stage)


def new_customer(stage: Stage) -> Customer:
    key = stage.gateway.new_key()
    accounts = stage.gateway.perform("accounts.list")["accounts"]
    return Customer(stage, accounts[-1]["name"], key, io.StringIO())


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
    level = PUBLISHED[row.code].log_level
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
    assert reply.frames[-2:] == [PUBLISHED[row.code].stream_frame(), DONE]
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
    level = PUBLISHED[row.code].log_level
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
    assert reply.frames[-2:] == [PUBLISHED[BROKEN].stream_frame(), DONE]
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
    connection.sendall(raw_chat(chat_body(model, max_tokens=None, stream=True), customer.key))
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
    for number in range(10):
        assert customer.ask("amplified", seed=number + 1).status in {500, 503}
    assert stage.requests("amplified") <= 5 + 3
    assert customer.spent() == 0


# A backend that goes away


def test_a_backend_that_went_away_is_offline_and_comes_back_by_itself(tmp_path: Path) -> None:
    """Row 1: three attempts to connect, nothing charged; then the health check spares even them."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(upstream_in_thread())
        toml = upstream_toml(upstream, name="one") + entry("m", "one")
        gateway = stack.enter_context(running_gateway(tmp_path, toml, rate_limits="off"))
        stage = Stage(gateway, upstream, upstream)
        customer, another = new_customer(stage), new_customer(stage)
        member = stage.member("m")
        wait_until(lambda: member.health is Health.UP)
        upstream.go_away()
        for asking, stream in ((customer, False), (another, True)):
            assert_published(asking.ask("m", stream=stream), OFFLINE)
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
