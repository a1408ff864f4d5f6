"""The official `openai` client against the gateway: answers, exception classes, retries.

The client decides what applications see of an error: the class by the status, `body` by the
member `error`, `str()` by a message inside it. `tests/conformance` holds the bytes; here is what
becomes of them.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from support.client import BUDGET_USED_UP, PUBLISHED, UPSTREAM_REJECTED
from support.configuration import CAPABILITIES, model_toml
from support.gateway import RunningGateway, running_gateway

BASES = ("/api/v1", "/v1")
MESSAGES: list[Any] = [{"role": "user", "content": "Say something about ferries."}]
BODY_BYTES_MAX = 8192


def model(name: str, **members: str) -> str:
    usual = {"context_tokens": "", "capabilities": CAPABILITIES, "size_class": '"none"'}
    return model_toml(name, **(usual | members))


FAULTS = ("overloaded", "at-capacity", "content-policy", "context-exceeded", "rejected-input")
STREAM_FAULTS = ("broken", "in-band-error", "in-band-overload", "cut-after", "no-done")
TOML = (
    "[rate_limits.l]\nrequests_per_minute = 1\n"
    + model("ferry", aliases='["gpt-4o"]')
    + model("pro", pro_only="true")
    + model("gated", feature='"beta"')
    + model("embedder", type='"embedding"', engine="")
    + model("away", offline="true")
    + model("seldom", size_class='"l"')
    + model("hang", fault='"hang"', total_seconds="0.2", first_event_seconds="0.2")
    + model("never-begins", fault='"broken"')
    + model("stalls", fault='"stall-after"', between_events_seconds="0.2")
    + "".join(model(name, fault=f'"{name}"') for name in (*FAULTS, *STREAM_FAULTS))
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("clients")
    with running_gateway(folder, TOML, body_bytes_max=BODY_BYTES_MAX) as running:
        yield running


@dataclass(frozen=True)
class Case:
    """How a code is reached through the client, and the class it must raise."""

    code: str
    raised: type[openai.APIStatusError]
    model: str = "ferry"
    account: dict[str, Any] | None = None
    key: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    secret: str | None = None
    """Another key than the account's."""
    text: str | None = None
    """The message, where it is not the published one."""
    before: int = 0
    """Requests made before the one that is looked at."""

    @property
    def name(self) -> str:
        return f"{self.code} {self.text or ''}"

    def message(self, request_id: str) -> str:
        return (self.text or PUBLISHED[self.code].message).format(request_id=request_id)


LARGE: list[Any] = [{"role": "user", "content": "x" * BODY_BYTES_MAX}]
CASES = [
    Case("AUTHENTICATION_FAILED", openai.AuthenticationError, secret="sk-of-somebody-else"),
    Case(
        "AUTHENTICATION_FAILED_INACTIVE_KEY",
        openai.AuthenticationError,
        account={"usd": "10", "subscription": "inactive"},
    ),
    Case("PRO_ONLY_MODEL", openai.AuthenticationError, "pro"),
    Case("INSUFFICIENT_BALANCE", openai.APIStatusError, account={}),
    Case("API_KEY_USD_SPEND_LIMIT_EXCEEDED", openai.APIStatusError, key={"limit_usd": "0"}),
    Case(
        "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED",
        openai.APIStatusError,
        account={"diem": "1"},
        key={"limit_diem": "0"},
    ),
    Case("UNAUTHORIZED", openai.PermissionDeniedError, "gated"),
    Case(
        "API_ACCESS_DISABLED",
        openai.PermissionDeniedError,
        account={"usd": "10", "disabled": True},
    ),
    Case("INVALID_REQUEST", openai.BadRequestError, request={"temperature": 9}),
    Case("INVALID_REQUEST", openai.BadRequestError, "rejected-input", text=UPSTREAM_REJECTED),
    Case("INVALID_REQUEST", openai.BadRequestError, "", text="model is required"),
    Case("INVALID_MODEL", openai.BadRequestError, "embedder"),
    Case("TOO_MANY_TOKENS", openai.BadRequestError, "context-exceeded"),
    Case("MODEL_NOT_FOUND", openai.NotFoundError, "nobody-has-this"),
    Case("PAYLOAD_TOO_LARGE", openai.APIStatusError, request={"messages": LARGE}),
    Case(
        "INVALID_CONTENT_TYPE",
        openai.APIStatusError,
        request={"extra_headers": {"content-type": "text/plain"}},
    ),
    Case("CONTENT_POLICY_VIOLATION", openai.UnprocessableEntityError, "content-policy"),
    Case("RATE_LIMIT_EXCEEDED", openai.RateLimitError, "seldom", before=1),
    Case(
        "FAILED_REQUEST_BUDGET",
        openai.RateLimitError,
        "nobody-has-this",
        text=BUDGET_USED_UP,
        before=21,
    ),
    Case("MODEL_OVERLOADED", openai.RateLimitError, "overloaded"),
    Case("INFERENCE_FAILED", openai.InternalServerError, "broken"),
    Case("MODEL_OFFLINE", openai.InternalServerError, "away"),
    Case("MODEL_AT_CAPACITY", openai.InternalServerError, "at-capacity"),
    Case("REQUEST_TIMEOUT", openai.InternalServerError, "hang"),
]
"""Every code that a chat request can meet; UNKNOWN_ERROR is a 500 like INFERENCE_FAILED."""


def client_for(gateway: RunningGateway, case: Case, *, objects: bool) -> openai.OpenAI:
    key = gateway.new_key(account=case.account, openai_errors=objects, **case.key)
    return openai.OpenAI(
        api_key=case.secret or key, base_url=f"{gateway.url}/api/v1", max_retries=0
    )


def ask_sync(client: openai.OpenAI, request: dict[str, Any]) -> Any:
    with client:
        return client.chat.completions.create(**request)


def ask_async(client: openai.OpenAI, request: dict[str, Any]) -> Any:
    async def asked() -> Any:
        async with openai.AsyncOpenAI(
            api_key=client.api_key, base_url=client.base_url, max_retries=0
        ) as asynchronous:
            return await asynchronous.chat.completions.create(**request)

    client.close()
    return asyncio.run(asked())


def provoke(
    gateway: RunningGateway, case: Case, ask: Callable[..., Any], *, objects: bool = False
) -> openai.APIStatusError:
    """The exception that the client raises in the end."""
    request = {"model": case.model, "messages": MESSAGES} | case.request
    client = client_for(gateway, case, objects=objects)
    for _ in range(case.before):
        try:
            client.chat.completions.create(**request)
        except openai.APIStatusError:
            continue
    with pytest.raises(openai.APIStatusError) as raised:
        ask(client, request)
    return raised.value


@pytest.mark.parametrize("ask", [ask_sync, ask_async], ids=["sync", "async"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_code_raises_its_class_with_the_body_of_the_contract(
    gateway: RunningGateway, case: Case, ask: Callable[..., Any]
) -> None:
    """The class by status, `body` the contract's `error`, and the request id for support."""
    error = provoke(gateway, case, ask)
    assert type(error) is case.raised
    assert error.status_code == error.response.status_code
    assert error.response.headers["x-error-code"] == case.code
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.request_id is not None
    sent = error.response.json()
    assert error.body == sent["error"]
    message = case.message(error.request_id)
    if case.code == "TOO_MANY_TOKENS":
        assert error.code == "context_length_exceeded"
        assert error.param == "messages"
        assert error.type == "invalid_request_error"
        assert message in str(error)
    else:
        assert error.body == message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_object_mode_also_shows_the_message(gateway: RunningGateway, case: Case) -> None:
    """With a key that asks for OpenAI objects, `str(e)` ends with the exact message.

    What is refused before the key is known keeps the plain form.
    """
    error = provoke(gateway, case, ask_sync, objects=True)
    assert type(error) is case.raised
    assert error.body == error.response.json()["error"]
    message = case.message(error.request_id or "")
    if case.code in {"AUTHENTICATION_FAILED", "PAYLOAD_TOO_LARGE", "INVALID_CONTENT_TYPE"}:
        assert error.body == message
        return
    assert str(error) == f"Error code: {error.status_code} - {message}"
    assert isinstance(error.body, dict)
    assert error.body["message"] == message
    if case.code != "TOO_MANY_TOKENS":
        assert error.code == case.code


# Retries


@pytest.mark.parametrize(
    ("code", "name", "tries", "waits"),
    [
        ("INFERENCE_FAILED", "broken", 3, [None, None]),
        ("MODEL_AT_CAPACITY", "at-capacity", 3, [2.0, 2.0]),
        ("MODEL_OVERLOADED", "overloaded", 3, [2.0, 2.0]),
        ("MODEL_OFFLINE", "away", 3, [30.0, 30.0]),
        ("REQUEST_TIMEOUT", "hang", 1, []),
        ("TOO_MANY_TOKENS", "context-exceeded", 1, []),
        ("CONTENT_POLICY_VIOLATION", "content-policy", 1, []),
        ("MODEL_NOT_FOUND", "nobody-has-this", 1, []),
    ],
)
def test_the_client_retries_what_can_succeed_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    name: str,
    tries: int,
    waits: list[float | None],
) -> None:
    """`x-should-retry` decides whether, and `Retry-After` when: counted by the server's own log."""
    slept: list[float] = []
    # Real waits would take a minute; what the client asked for is the fact of interest.
    monkeypatch.setattr("time.sleep", slept.append)
    with running_gateway(tmp_path, TOML, access_log=True) as gateway:
        key = gateway.new_key()
        with (
            openai.OpenAI(api_key=key, base_url=f"{gateway.url}/v1") as client,
            pytest.raises(openai.APIStatusError) as raised,
        ):
            client.chat.completions.create(model=name, messages=MESSAGES)
        assert raised.value.response.headers["x-error-code"] == code
        assert codes_answered(gateway, tries) == [code] * tries
    slept = [seconds for seconds in slept if seconds > 0.2]
    assert len(slept) == len(waits)
    for seconds, expected in zip(slept, waits, strict=True):
        assert seconds <= 8.0 if expected is None else math.isclose(seconds, expected)


def codes_answered(gateway: RunningGateway, count: int) -> list[str]:
    """The codes in the access records, of which `count` are on their way."""
    patience = threading.Event()
    for _ in range(200):
        codes = [r["code"] for r in gateway.records() if r["event"] == "request"]
        if len(codes) >= count:
            break
        patience.wait(0.01)
    return codes


# Streams


@pytest.mark.parametrize(
    ("name", "code", "kind"),
    [
        ("in-band-error", "INFERENCE_FAILED", "upstream_error"),
        ("cut-after", "INFERENCE_FAILED", "upstream_error"),
        ("no-done", "INFERENCE_FAILED", "upstream_error"),
        ("stalls", "REQUEST_TIMEOUT", "upstream_error"),
        ("in-band-overload", "MODEL_OVERLOADED", "model_overloaded"),
    ],
)
def test_a_broken_stream_raises_after_what_was_good(
    gateway: RunningGateway, name: str, code: str, kind: str
) -> None:
    """The client sees the pieces, then `APIError` with the contract's object and message."""
    key = gateway.new_key()
    with openai.OpenAI(api_key=key, base_url=f"{gateway.url}/api/v1", max_retries=0) as client:
        stream = client.chat.completions.create(model=name, messages=MESSAGES, stream=True)
        pieces: list[Any] = []
        with pytest.raises(openai.APIError) as raised:
            pieces.extend(stream)
    assert len(pieces) >= 2
    assert all(piece.choices[0].finish_reason is None for piece in pieces)
    assert all(piece.usage is None for piece in pieces)
    assert type(raised.value) is openai.APIError
    assert raised.value.message == PUBLISHED[code].message
    assert raised.value.code == kind
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["message"] == PUBLISHED[code].message


def test_a_stream_that_never_begins_raises_a_status_error(gateway: RunningGateway) -> None:
    """Before the first event a failure is an HTTP answer with its class."""
    key = gateway.new_key()
    with (
        openai.OpenAI(api_key=key, base_url=f"{gateway.url}/api/v1", max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        client.chat.completions.create(model="never-begins", messages=MESSAGES, stream=True)
    assert raised.value.body == PUBLISHED["INFERENCE_FAILED"].message


# Answers


@pytest.fixture(params=BASES)
def client(gateway: RunningGateway, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    key = gateway.new_key()
    base_url = gateway.url + request.param
    with openai.OpenAI(api_key=key, base_url=base_url, max_retries=0) as made:
        yield made


def test_a_whole_answer_is_one_that_the_client_understands(client: openai.OpenAI) -> None:
    """Ids, reasons, usage and the members of the contract beyond OpenAI's."""
    raw = client.chat.completions.with_raw_response.create(model="ferry", messages=MESSAGES)
    answer = raw.parse()
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}"
    assert answer.object == "chat.completion"
    assert answer.model == "ferry"
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model_extra is not None
    assert len(answer.model_extra["venice_parameters"]) >= 9
    assert answer.model_extra["cost"]["usd"] > 0


def test_a_stream_tells_the_same_as_a_whole_answer(client: openai.OpenAI) -> None:
    """Its pieces are the text; the last chunk has the usage and no choices."""
    whole = client.chat.completions.create(model="ferry", messages=MESSAGES, seed=7)
    chunks = list(
        client.chat.completions.create(model="ferry", messages=MESSAGES, seed=7, stream=True)
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_async_client_streams_too(gateway: RunningGateway) -> None:
    """Whole and streamed, on one asynchronous client."""
    key = gateway.new_key()

    async def asked() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(api_key=key, base_url=f"{gateway.url}/v1") as client:
            whole = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, seed=7)
            pieces = []
            async for chunk in await client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, seed=7, stream=True
            ):
                pieces += [choice.delta.content or "" for choice in chunk.choices]
            return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(asked())
    assert whole == streamed


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "The tide at a port.",
        "parameters": {
            "type": "object",
            "properties": {"port": {"type": "string"}, "day": {"type": "integer"}},
            "required": ["port", "day"],
            "additionalProperties": False,
        },
    },
}


class Tide(pydantic.BaseModel):
    """Arguments of the tool."""

    port: str
    day: int


def test_tools_are_called_whole_and_streamed(client: openai.OpenAI) -> None:
    """Arguments fit the tool's schema; a result that is sent back is answered with text."""
    answer = client.chat.completions.create(model="ferry", messages=MESSAGES, tools=[WEATHER])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call: Any = choice.message.tool_calls[0]
    assert call.function.name == "tide"
    Tide.model_validate_json(call.function.arguments)
    with client.chat.completions.stream(
        model="ferry", messages=MESSAGES, tools=[WEATHER]
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls is not None
    Tide.model_validate_json(final.choices[0].message.tool_calls[0].function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "high"}
    history: list[Any] = [*MESSAGES, choice.message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(model="ferry", messages=history, tools=[WEATHER])
    assert after.choices[0].finish_reason == "stop"
    assert after.choices[0].message.content


def test_structured_output_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    """`parse` sends a strict schema and gets an instance of the model back."""
    parsed = client.chat.completions.parse(model="ferry", messages=MESSAGES, response_format=Tide)
    assert isinstance(parsed.choices[0].message.parsed, Tide)


def test_several_choices_and_log_probabilities(client: openai.OpenAI) -> None:
    """`n` choices, each with log probabilities of its tokens, whole and streamed."""
    asked: dict[str, Any] = {"n": 3, "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(model="ferry", messages=MESSAGES, **asked)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content
        assert len(choice.logprobs.content[0].top_logprobs) == 2
    chunks = client.chat.completions.create(model="ferry", messages=MESSAGES, stream=True, **asked)
    ended = [c.choices[0].index for c in chunks if c.choices and c.choices[0].finish_reason]
    assert sorted(ended) == [0, 1, 2]


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    """The listing is what the client pages through; one model is found by any of its names."""
    listed = [listed.id for listed in client.models.list()]
    assert "ferry" in listed
    assert "embedder" not in listed, "text models alone, unless another type is asked for"
    found = client.models.retrieve("ferry")
    assert (found.id, found.object) == ("ferry", "model")
    assert client.models.retrieve("gpt-4o").id == "ferry"
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("nobody-has-this")
    assert raised.value.body == PUBLISHED["MODEL_NOT_FOUND"].message
