"""The clients against servers that are scripted byte by byte, and speak as venice.ai does.

They send no `x-error-code` and no `x-should-retry`, know no idempotency keys, and sit behind
proxies; connections to them break.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

import traghetto.client as ours
from client.fronts import MESSAGES, Front
from support.client import PUBLISHED
from support.upstream import (
    FaultUpstream,
    answer,
    answer_completion,
    answer_json,
    close,
    delta,
    event,
    raw_stream,
    reset,
    stream,
    upstream_in_thread,
    usual_events,
)
from support.waiting import wait_until

OVERLOADED = PUBLISHED["MODEL_OVERLOADED"].message


@pytest.fixture
def server() -> Iterator[FaultUpstream]:
    with upstream_in_thread() as running:
        yield running


def at(server: FaultUpstream, **options: Any) -> dict[str, Any]:
    """How a client reaches it."""
    return {"base_url": server.url, "api_key": "a key", **options}


def keys(server: FaultUpstream) -> list[str | None]:
    """The idempotency key of each request that came."""
    return [request.header("idempotency-key") for request in server.requests]


# --- what is sent -------------------------------------------------------------------------------


def test_a_request_is_what_the_contract_knows(server: FaultUpstream, front: Front) -> None:
    """Key, type, an idempotency key, and a body with nothing that the caller did not say."""
    front.chat("a", **at(server))
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.json == {"model": "a", "messages": MESSAGES}
    assert request.header("authorization") == "Bearer a key"
    assert request.header("content-type") == "application/json"
    assert len(keys(server)[0] or "") == 32


def test_settings_come_from_the_environment(
    server: FaultUpstream, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program need not name server and key; what it names counts more."""
    monkeypatch.setenv("TRAGHETTO_BASE_URL", f"{server.url}/")
    monkeypatch.setenv("TRAGHETTO_API_KEY", "from outside")
    front.chat()
    front.chat(api_key="from inside")
    sent = [request.header("authorization") for request in server.requests]
    assert sent == ["Bearer from outside", "Bearer from inside"]


def test_a_server_has_a_url(front: Front) -> None:
    """What is no URL is refused before anything is sent."""
    with pytest.raises(ValueError, match="no URL of a server"):
        front.chat(base_url="127.0.0.1:8420/api/v1")


# --- bare bodies --------------------------------------------------------------------------------


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=lambda row: row.code)
def test_a_bare_body_raises_the_class_of_its_code(
    server: FaultUpstream, row: Any, front: Front
) -> None:
    """Status and sentence are all that there is, whole or before a stream."""
    server.default = answer_json({"error": row.message}, row.status)
    with pytest.raises(ours.ApiStatusError) as raised:
        front.chat(**at(server, retries_max=0))
    streamed = front.stream(**at(server, retries_max=0))
    for error in (raised.value, streamed.error):
        assert isinstance(error, ours.ApiStatusError)
        assert (error.code, error.status, error.message) == (row.code, row.status, row.message)
        assert type(error).published is not None


# --- retries ------------------------------------------------------------------------------------


def test_a_refusal_that_costs_nothing_is_asked_again(server: FaultUpstream, front: Front) -> None:
    """Also without idempotency keys: an overloaded model did nothing that could be paid for."""
    server.then(answer_json({"error": OVERLOADED}, 429, {"retry-after": "0"}))
    assert front.chat(**at(server, idempotency_keys=False)).text == "Hello."
    assert keys(server) == [None, None]


def test_a_wait_is_waited(server: FaultUpstream, front: Front) -> None:
    """What the server asked for, and not less."""
    server.then(answer_json({"error": OVERLOADED}, 429, {"retry-after": "0.3"}))
    began = time.monotonic()
    front.chat(**at(server))
    assert time.monotonic() - began >= 0.3


def test_a_broken_connection_is_repeated_with_its_key(server: FaultUpstream, front: Front) -> None:
    """Every attempt has the same key, so that the server executes one."""
    server.then(close, reset)
    assert front.chat(**at(server)).text == "Hello."
    assert len(keys(server)) == 3
    assert len(set(keys(server))) == 1


def test_a_broken_connection_is_not_repeated_without_keys(
    server: FaultUpstream, front: Front
) -> None:
    """Nobody knows whether the first request was executed, and paid for."""
    server.then(reset)
    with pytest.raises(ours.ConnectionFailed) as raised:
        front.chat(**at(server, idempotency_keys=False))
    assert raised.value.charged is None
    assert len(server.requests) == 1


def test_an_answer_that_breaks_off_is_a_failed_connection(
    server: FaultUpstream, front: Front
) -> None:
    """Half an answer is none."""

    async def half(exchange: Any) -> None:
        await exchange.head(200, {"content-type": "application/json", "content-length": "999"})
        await exchange.write(b'{"choices":')
        exchange.fin()

    server.default = half
    with pytest.raises(ours.ConnectionFailed):
        front.chat(**at(server))
    assert len(server.requests) == 3


def test_a_server_that_refuses_connections(server: FaultUpstream, front: Front) -> None:
    """Nothing was sent, so nothing was charged."""
    server.go_away()
    with pytest.raises(ours.ConnectionFailed) as raised:
        front.chat(**at(server))
    assert raised.value.charged is False
    server.come_back()


def test_a_server_that_is_silent(server: FaultUpstream, front: Front) -> None:
    """A silence longer than `timeout_seconds` is an exception of its own."""

    async def silence(exchange: Any) -> None:
        await exchange.wait_closed_by_peer()

    server.default = silence
    with pytest.raises(ours.TimedOut):
        front.chat(**at(server, timeout_seconds=0.2, retries_max=0))


def test_a_page_of_a_proxy_is_repeated_only_with_a_key(server: FaultUpstream, front: Front) -> None:
    """What the server behind it did is unknown."""
    page = answer(502, b"<html>Bad Gateway</html>", content_type="text/html")
    server.then(page)
    assert front.chat(**at(server)).text == "Hello."
    server.then(page)
    with pytest.raises(ours.ServerError, match="502: Bad Gateway"):
        front.chat(**at(server, idempotency_keys=False))


@pytest.mark.parametrize("code", ["INSUFFICIENT_BALANCE", "AUTHENTICATION_FAILED", "UNAUTHORIZED"])
def test_no_patience_where_time_does_not_help(
    server: FaultUpstream, code: str, front: Front
) -> None:
    """Whatever a header promises."""
    row = PUBLISHED[code]
    promise = {"retry-after": "0", "x-should-retry": "true"}
    server.default = answer_json({"error": row.message}, row.status, promise)
    with pytest.raises(ours.ApiStatusError):
        front.chat(**at(server))
    assert len(server.requests) == 1


def test_patience_has_an_end(server: FaultUpstream, front: Front) -> None:
    """A wait that goes beyond the budget is not begun."""
    server.default = answer_json({"error": OVERLOADED}, 429, {"retry-after": "30"})
    with pytest.raises(ours.ModelOverloaded) as raised:
        front.chat(**at(server, retry_budget_seconds=20.0))
    assert raised.value.retry_after == 30.0
    assert len(server.requests) == 1


def test_the_recommended_model_is_asked_once(server: FaultUpstream, front: Front) -> None:
    """With `fallback=True`, and for another's work another key."""
    unknown = "Specified model not found: a. Did you mean: b?"
    server.by_model["a"] = answer_json({"error": unknown}, 404)
    with pytest.raises(ours.ModelNotFound) as raised:
        front.chat(**at(server))
    assert raised.value.recommended_model == "b"
    assert front.chat(**at(server, fallback=True)).text == "Hello."
    assert [request.model for request in server.requests] == ["a", "a", "b"]
    assert len(set(keys(server))) == 3
    server.by_model["b"] = answer_json({"error": "Specified model not found: b."}, 404)
    with pytest.raises(ours.ModelNotFound):
        front.chat(**at(server, fallback=True))


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_is_opened_again_before_its_first_byte(
    server: FaultUpstream, front: Front
) -> None:
    """As long as nothing has come, a stream is a request like others."""
    server.then(answer_json({"error": OVERLOADED}, 429, {"retry-after": "0"}), reset)
    got = front.stream(**at(server))
    assert (got.text, got.error) == ("Hello.", None)
    assert len(server.requests) == 3


@pytest.mark.parametrize("end", ["end", "fin", "reset"])
def test_a_stream_that_breaks_off_is_never_complete(
    server: FaultUpstream, end: str, front: Front
) -> None:
    """However its connection ends: without `[DONE]` it raises, and is not asked for again."""

    async def wait_and_reset(exchange: Any) -> None:
        await asyncio.sleep(0.05)  # what was written before would be lost with the connection
        await reset(exchange)

    pieces = [delta("Hel"), delta("lo"), delta(finish="stop")]
    then = {"end": None, "fin": close, "reset": wait_and_reset}[end]
    server.default = stream(pieces, then=then)
    got = front.stream(**at(server))
    assert type(got.error) is ours.StreamTruncated
    assert got.text == "Hello"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("member", "raised"),
    [
        ({"message": OVERLOADED, "code": None, "retry_after": 30}, ours.ModelOverloaded),
        ({"message": "x", "code": "model_overloaded", "retry_after": 30}, ours.ModelOverloaded),
        ({"message": "x", "code": "content_blocked_by_provider"}, ours.ContentPolicyViolation),
        ({"message": "x", "code": "upstream_error"}, ours.InferenceFailed),
        ("Nobody knows", ours.ServerError),
    ],
)
def test_an_error_frame_raises_its_class(
    server: FaultUpstream, member: Any, raised: type[ours.ApiStatusError], front: Front
) -> None:
    """By its sentence, or by the code that it has inside a stream."""
    frame = json.dumps({"error": member}).encode()
    server.default = stream([delta("Hel"), frame, b"[DONE]"])
    got = front.stream(**at(server))
    assert type(got.error) is raised
    assert got.text == "Hel"
    assert got.error.retry_after == (30.0 if raised is ours.ModelOverloaded else None)


def test_an_event_of_type_error_raises(server: FaultUpstream, front: Front) -> None:
    """Some servers name the error in the type of the event."""
    said = b'event: error\ndata: {"message":"' + OVERLOADED.encode() + b'"}\n\n'
    server.default = raw_stream(b"data: " + delta("Hel") + b"\n\n" + said, cut=7)
    got = front.stream(**at(server))
    assert type(got.error) is ours.ModelOverloaded
    assert got.text == "Hel"


@pytest.mark.parametrize("payload", [b"no JSON", b"[]", b"\xff\xfe"])
def test_a_stream_of_something_else_is_truncated(
    server: FaultUpstream, payload: bytes, front: Front
) -> None:
    """What cannot be read is not the rest of the answer."""
    server.default = stream([delta("Hel"), payload, b"[DONE]"])
    assert type(front.stream(**at(server)).error) is ours.StreamTruncated


def test_a_stream_that_is_left_is_closed(server: FaultUpstream, front: Front) -> None:
    """Whoever has enough leaves, and the server notices."""

    async def until_it_leaves(exchange: Any) -> None:
        await exchange.wait_closed_by_peer()

    events = b"".join(map(event, usual_events()[:3]))
    server.default = raw_stream(events, then=until_it_leaves)

    def first(client: Any) -> Any:
        opened = client.stream_chat("a", MESSAGES)
        return _first_async(opened) if hasattr(opened, "__aiter__") else _first(opened)

    assert front.ask(first, **at(server)) == ""
    wait_until(server.requests[0].closed.is_set)


def _first(opened: Any) -> str:
    with opened:
        return next(iter(opened)).text


async def _first_async(opened: Any) -> str:
    async with opened:
        async for first in opened:
            return first.text
    raise AssertionError("nothing came")


# --- answers that are none ----------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"no JSON", b"{}", b"[]", b'{"choices":[]}'])
def test_a_success_that_cannot_be_read(server: FaultUpstream, body: bytes, front: Front) -> None:
    """It raises, and does not look like an empty answer."""
    server.default = answer(200, body)
    server.models_act = answer(200, body)
    server.by_path["/v1/billing/balance"] = answer(200, body)
    server.by_path["/v1/image/generate"] = answer(200, body)
    with pytest.raises(ours.InvalidAnswer):
        front.chat(**at(server))
    for work in (
        lambda client: client.models(),
        lambda client: client.balance(),
        lambda client: client.images.generate("a", "a ferry"),
    ):
        with pytest.raises(ours.InvalidAnswer):
            front.ask(work, **at(server))


def test_a_redirection_is_not_followed(server: FaultUpstream, front: Front) -> None:
    """A key is sent to nobody but the server that was named."""
    server.default = answer(307, b"", headers={"location": "http://127.0.0.1:1/"})
    with pytest.raises(ours.ApiStatusError, match="307: Temporary Redirect"):
        front.chat(**at(server))


def test_text_of_an_answer_that_only_calls_tools(server: FaultUpstream, front: Front) -> None:
    """There is no content then, and the text is empty."""
    server.default = answer_completion(content=None, usage=None)
    completion = front.chat(**at(server))
    assert (completion.text, completion.usage) == ("", {})
