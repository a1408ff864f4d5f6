"""Other libraries' exceptions and answers become ours, without being imported by us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import requests

import traghetto.client as ours
from client.fronts import MESSAGES
from support.client import PUBLISHED
from support.configuration import model_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import FaultUpstream, answer_json, reset, upstream_in_thread
from traghetto.client import classify

TOML = (
    model_toml("ferry")
    + model_toml("away", offline="true")
    + model_toml("long", fault='"context-exceeded"')
    + model_toml("breaks", fault='"in-band-overload"')
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, TOML) as running:
        yield running


@pytest.fixture
def server() -> Iterator[FaultUpstream]:
    with upstream_in_thread() as running:
        yield running


def raised(work: Callable[[], Any]) -> Exception:
    """What another library raises."""
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


def openai_client(url: str, key: str = "a key") -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


@pytest.mark.parametrize("objects", [False, True], ids=["contract", "OpenAI objects"])
@pytest.mark.parametrize(
    ("request_members", "kind"),
    [
        ({"model": "away"}, ours.ModelOffline),
        ({"model": "long"}, ours.TooManyTokens),
        ({"model": "nobody-has-this"}, ours.ModelNotFound),
        ({"model": "ferry", "temperature": 9}, ours.InvalidRequest),
    ],
)
def test_what_the_openai_client_raises(
    gateway: RunningGateway,
    request_members: dict[str, Any],
    kind: type[ours.ApiStatusError],
    objects: bool,
) -> None:
    """An application that uses it sees which code it is, and everything else that was sent."""
    key = gateway.new_key(openai_errors=objects)
    with openai_client(f"{gateway.url}/api/v1", key) as client:
        failure = raised(
            lambda: client.chat.completions.create(messages=MESSAGES, **request_members)
        )
    error = classify(failure)
    assert type(error) is kind
    assert isinstance(failure, openai.APIStatusError)
    assert error.request_id == failure.request_id
    assert error.headers["x-error-code"] == error.code
    assert bool(error.issues) is (kind is ours.InvalidRequest)


def test_what_the_openai_client_raises_in_a_stream(gateway: RunningGateway) -> None:
    """There it has no answer to look at, only the member of the frame."""
    with openai_client(f"{gateway.url}/api/v1", gateway.new_key()) as client:
        stream = client.chat.completions.create(model="breaks", messages=MESSAGES, stream=True)
        error = classify(raised(lambda: list(stream)))
    assert type(error) is ours.ModelOverloaded
    assert error.in_stream
    assert error.retry_after is not None


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=lambda row: row.code)
def test_bare_bodies_through_the_openai_client(server: FaultUpstream, row: Any) -> None:
    """Of venice.ai it shows no more than a status; the code is found all the same."""
    server.default = answer_json({"error": row.message}, row.status)
    with openai_client(server.url) as client:
        failure = raised(lambda: client.chat.completions.create(model="a", messages=MESSAGES))
    assert classify(failure).code == row.code


def test_connections_of_the_openai_client(server: FaultUpstream) -> None:
    """Failures without an answer are ours as well."""
    server.default = reset
    with openai_client(server.url) as client:
        chat = client.chat.completions
        broken = raised(lambda: chat.create(model="a", messages=MESSAGES))
    assert type(classify(broken)) is ours.ConnectionFailed

    async def silence(exchange: Any) -> None:
        await exchange.wait_closed_by_peer()

    server.default = silence
    with openai_client(server.url) as client:
        chat = client.chat.completions
        late = raised(lambda: chat.create(model="a", messages=MESSAGES, timeout=0.2))
    assert type(classify(late)) is ours.TimedOut


@pytest.mark.parametrize("library", [httpx2, requests], ids=lambda library: library.__name__)
def test_answers_and_exceptions_of_http_clients(server: FaultUpstream, library: Any) -> None:
    """An answer, and what its `raise_for_status` raises, are the same error."""
    server.default = answer_json({"error": "Rate limit exceeded"}, 429, {"Retry-After": "7"})
    answer = library.post(f"{server.url}/chat/completions", json={})
    for failure in (answer, raised(answer.raise_for_status)):
        error = classify(failure)
        assert type(error) is ours.RateLimitExceeded
        assert error.retry_after == 7.0
    server.go_away()
    refused = classify(raised(lambda: library.get(server.url)))
    assert type(refused) is ours.ConnectionFailed
    server.come_back()


def test_a_body_that_was_not_read(server: FaultUpstream) -> None:
    """A streaming answer whose body is still on its way has its status and headers."""
    server.default = answer_json(
        {"error": "Not read"}, 503, {"x-error-code": "MODEL_AT_CAPACITY", "retry-after": "3"}
    )
    with httpx2.stream("POST", f"{server.url}/chat/completions", json={}) as answer:
        error = classify(answer)
    assert type(error) is ours.ModelAtCapacity
    assert error.retry_after == 3.0


def test_ours_stay_what_they_are() -> None:
    """Whoever classifies twice has lost nothing."""
    error = ours.error_of(429, {}, {"error": "Rate limit exceeded"})
    assert classify(error) is error


def test_what_is_no_error_is_refused(server: FaultUpstream) -> None:
    """A mistake of the caller's does not become an error of the server's."""
    with pytest.raises(ValueError, match="is no error"):
        classify(requests.get(f"{server.url}/models", timeout=5))
    with pytest.raises(TypeError):
        classify(KeyError("model"))
    with pytest.raises(TypeError):
        classify("an error")
