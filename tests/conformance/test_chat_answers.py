"""What a good answer holds: everything that shipped clients require (contract B.1, B.3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from support.client import QUESTION_TOKENS, Answer, ask, chat, chat_body, get
from support.configuration import model_toml, relayed_toml
from support.gateway import RunningGateway, running_gateway
from support.repository import ROOT
from support.upstream import (
    DONE,
    FaultUpstream,
    answer_json,
    completion,
    delta,
    stream,
    usage_chunk,
)

SPEC = json.loads((ROOT / "spec" / "openapi.json").read_text())
TOLERATED = json.loads((ROOT / "spec" / "tolerated_fields.json").read_text())
EVERYTHING = (
    "{ supportsFunctionCalling = true, supportsResponseSchema = true, supportsLogProbs = true, "
    "supportsReasoning = true, supportsReasoningEffort = true }"
)
VENICE_DEFAULTS = {
    "enable_e2ee": True,
    "enable_web_search": "off",
    "enable_web_citations": False,
    "enable_web_scraping": False,
    "include_venice_system_prompt": True,
    "include_search_results_in_stream": False,
    "return_search_results_as_documents": False,
    "strip_thinking_response": False,
    "disable_thinking": False,
}
STREAMED = pytest.mark.parametrize("stream_wanted", [False, True], ids=["whole", "stream"])
SCHEMA = {
    "type": "object",
    "properties": {"port": {"type": "string"}, "berths": {"type": "integer", "minimum": 3}},
    "required": ["port", "berths"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "moor", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    toml = (
        model_toml(
            "llama-3.3-70b",
            name='"Llama 3.3 70B"',
            capabilities=EVERYTHING,
            traits='["default", "function_calling_default"]',
            aliases='["gpt-4o"]',
            description='"A simulator."',
        )
        + model_toml("plain")
        + model_toml("hidden", privacy='"anonymized"', traits='["fastest"]')
        + model_toml(
            "painter",
            type='"image"',
            engine="",
            context_tokens="",
            pricing='{ generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }',
            constraints="{ promptCharacterLimit = 1500, steps = { default = 8, max = 16 }, "
            "widthHeightDivisor = 8 }",
        )
        + model_toml(
            "old",
            deprecation='{ date = "2026-01-01T00:00:00Z", removes_at = "2027-01-01T00:00:00Z", '
            'replacement = "plain" }',
        )
    )
    with running_gateway(tmp_path_factory.mktemp("answers"), toml, rate_limits="off") as running:
        yield running
        assert running.differences() == []


@pytest.fixture(scope="module")
def key(gateway: RunningGateway) -> str:
    return gateway.new_key()


def last(answer: Answer) -> Any:
    """The body, or the last chunk of a stream."""
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    return answer.chunks[-1] if is_stream else answer.json


def finish_reasons(answer: Answer) -> dict[int, str]:
    """By choice; each has exactly one."""
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    found: dict[int, str] = {}
    for part in answer.chunks if is_stream else [answer.json]:
        for choice in part["choices"]:
            if choice["finish_reason"] is not None:
                assert choice["index"] not in found
                found[choice["index"]] = choice["finish_reason"]
    return found


# --- required members ---------------------------------------------------------------------------


def test_a_whole_answer_has_every_required_member(gateway: RunningGateway, key: str) -> None:
    """The members of the published schema, in their types, and those that clients insist on."""
    answer = chat(gateway, key, "plain")
    body = answer.json
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert list(body) == [
        "id", "object", "created", "model", "choices", "usage", "cost", "prompt_logprobs",
        "venice_parameters",
    ]  # fmt: skip
    assert body["id"] == f"chatcmpl-{answer.request_id}"
    assert (body["object"], body["model"], body["prompt_logprobs"]) == (
        "chat.completion",
        "plain",
        None,
    )
    assert type(body["created"]) is int
    (choice,) = body["choices"]
    text = "This is a simulated answer from Traghetto: no model was run, and the words"
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": text,
            "reasoning_content": None,
            "tool_calls": [],
        },
        "finish_reason": "length",
        "stop_reason": "length",
        "logprobs": None,
    }
    assert body["usage"] == {
        "prompt_tokens": QUESTION_TOKENS,
        "completion_tokens": 16,
        "total_tokens": QUESTION_TOKENS + 16,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert body["cost"] == {"usd": 0.000044, "diem": 0}
    assert body["venice_parameters"] == {**VENICE_DEFAULTS, "web_search_citations": []}
    assert answer.headers["x-venice-model-id"] == "plain"
    _validator("/chat/completions", "post").validate(body)


def test_a_stream_has_every_required_member(gateway: RunningGateway, key: str) -> None:
    """Role first, then text, one finish reason, one usage chunk with `choices: []`, `[DONE]`."""
    answer = chat(gateway, key, "plain", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-venice-model-id"] == "plain"
    assert "content-encoding" not in answer.headers
    chunks = answer.chunks
    for chunk in chunks:
        assert list(chunk)[:5] == ["id", "object", "created", "model", "choices"]
        assert chunk["id"] == f"chatcmpl-{answer.request_id}"
        assert (chunk["object"], chunk["model"]) == ("chat.completion.chunk", "plain")
        assert type(chunk["created"]) is int
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 16
    assert chunks[-1]["cost"] == {"usd": 0.000044, "diem": 0}
    assert not any("usage" in chunk for chunk in chunks[:-1])
    assert answer.text == chat(gateway, key, "plain").text


@pytest.mark.parametrize("include", [True, False, None])
def test_usage_is_streamed_whether_asked_for_or_not(
    gateway: RunningGateway, key: str, include: bool | None
) -> None:
    """`stream_options.include_usage` changes nothing: exactly one usage chunk comes."""
    members = {} if include is None else {"stream_options": {"include_usage": include}}
    answer = chat(gateway, key, "plain", stream=True, **members)
    assert [bool(chunk.get("usage")) for chunk in answer.chunks].count(True) == 1


@pytest.mark.parametrize("path", ["/api/v1/chat/completions", "/v1/chat/completions"])
def test_both_bases_answer(gateway: RunningGateway, key: str, path: str) -> None:
    """OpenAI clients are configured with either."""
    assert ask(gateway, key, chat_body("plain"), path=path).status == 200


def test_a_deprecated_model_says_so(gateway: RunningGateway, key: str) -> None:
    """The four headers of a model with an announced end."""
    headers = chat(gateway, key, "old").headers
    assert headers["x-venice-model-deprecation-warning"]
    assert headers["x-venice-model-deprecation-date"] == "2027-01-01T00:00:00Z"
    assert headers["x-venice-deprecated"] == "true"
    assert headers["x-venice-deprecated-replacement"] == "plain"


# --- names of models ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "llama-3.3-70b", "default", "function_calling_default", "gpt-4o", "Llama-3.3-70B",
        "llama_3_3_70b", "llama 3.3 70b", "llama-3-3-70b", "venice-llama-3.3-70b", "GPT-4o",
        "venice/llama-3.3-70b",
    ],
)  # fmt: skip
@STREAMED
def test_a_model_has_many_names(
    gateway: RunningGateway, key: str, name: str, stream_wanted: bool
) -> None:
    """Ids, traits, foreign names, and all of them in the spellings that clients send."""
    answer = chat(gateway, key, name, stream=stream_wanted)
    assert answer.status == 200
    assert last(answer)["model"] == "llama-3.3-70b"
    assert answer.headers["x-venice-model-id"] == "llama-3.3-70b"
    assert answer.headers["x-venice-model-name"] == "Llama 3.3 70B"


def test_a_suffix_overrides_the_body(gateway: RunningGateway, key: str) -> None:
    """Options in the model's name win over `venice_parameters`; unknown ones are ignored."""
    name = (
        "gpt-4o:include_venice_system_prompt=false&strip_thinking_response=true"
        "&enable_web_search=auto&enable_e2ee=false&nothing=1"
    )
    answer = chat(
        gateway,
        key,
        name,
        venice_parameters={"include_venice_system_prompt": True, "disable_thinking": True},
    )
    assert answer.json["venice_parameters"] == {
        **VENICE_DEFAULTS,
        "include_venice_system_prompt": False,
        "strip_thinking_response": True,
        "enable_web_search": "auto",
        "disable_thinking": True,
        "web_search_citations": [],
    }


def test_a_wrong_suffix_is_refused_like_a_wrong_member(gateway: RunningGateway, key: str) -> None:
    """The issue names the member that the suffix set."""
    answer = chat(gateway, key, "plain:enable_web_search=perhaps")
    assert answer.status == 400
    (issue,) = answer.json["issues"]
    assert issue["path"] == ["venice_parameters", "enable_web_search"]
    assert issue["message"] == (
        "Invalid enum value. Expected 'auto' | 'off' | 'on', received 'perhaps'"
    )


def test_every_venice_parameter_is_echoed(gateway: RunningGateway, key: str) -> None:
    """The effective values of all nine, whatever was sent; unknown ones are dropped."""
    sent = {name: not value for name, value in VENICE_DEFAULTS.items() if value != "off"}
    sent |= {"enable_web_search": "auto", "enable_web_scraping": False}
    answer = chat(gateway, key, "plain", venice_parameters={**sent, "unheard_of": 1})
    assert answer.status == 200
    echoed = answer.json["venice_parameters"]
    assert {name: echoed[name] for name in VENICE_DEFAULTS} == sent
    assert "unheard_of" not in echoed


# --- members of a request -----------------------------------------------------------------------


@STREAMED
def test_several_choices(gateway: RunningGateway, key: str, stream_wanted: bool) -> None:
    """`n` choices come with their indexes, each with its finish reason, under one usage."""
    answer = chat(gateway, key, "plain", n=3, stream=stream_wanted)
    assert finish_reasons(answer) == {0: "length", 1: "length", 2: "length"}
    assert last(answer)["usage"]["completion_tokens"] == 48


@pytest.mark.parametrize("stop", ["simulated", ["never said", "simulated"]])
@STREAMED
def test_stop_ends_the_answer_before_it(
    gateway: RunningGateway, key: str, stop: Any, stream_wanted: bool
) -> None:
    """The stop string is not part of the answer; the reason is `stop`."""
    answer = chat(gateway, key, "plain", stop=stop, stream=stream_wanted)
    assert answer.text.strip() == "This is a"
    assert finish_reasons(answer) == {0: "stop"}
    if not stream_wanted:
        assert answer.json["choices"][0]["stop_reason"] == "stop"


@STREAMED
def test_log_probabilities(gateway: RunningGateway, key: str, stream_wanted: bool) -> None:
    """One entry per token, with as many alternatives as were asked for."""
    answer = chat(
        gateway, key, "gpt-4o", logprobs=True, top_logprobs=2, max_tokens=4, stream=stream_wanted
    )
    parts = answer.chunks if stream_wanted else [answer.json]
    entries = [
        entry
        for part in parts
        for choice in part["choices"]
        for entry in (choice.get("logprobs") or {"content": []})["content"]
    ]
    assert "".join(entry["token"] for entry in entries) == answer.text
    assert all(type(entry["logprob"]) is float for entry in entries)
    assert [len(entry["top_logprobs"]) for entry in entries] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "moor"}}]
)
@STREAMED
def test_tools_are_called(
    gateway: RunningGateway, key: str, choice: Any, stream_wanted: bool
) -> None:
    """A call has an id, the type `function`, a name, and arguments as text that is valid JSON."""
    answer = chat(
        gateway,
        key,
        "gpt-4o",
        tools=TOOLS,
        tool_choice=choice,
        max_tokens=200,
        stream=stream_wanted,
    )
    assert finish_reasons(answer) == {0: "tool_calls"}
    if stream_wanted:
        pieces = [
            piece
            for chunk in answer.chunks
            for each in chunk["choices"]
            for piece in each["delta"].get("tool_calls", [])
        ]
        assert {piece["index"] for piece in pieces} == {0}
        call = {**pieces[0]}
        arguments = "".join(piece["function"]["arguments"] for piece in pieces)
    else:
        message = answer.json["choices"][0]["message"]
        (call,) = message["tool_calls"]
        assert message["content"] is None
        assert answer.json["choices"][0]["stop_reason"] is None
        arguments = call["function"]["arguments"]
    assert call["id"].startswith("call_")
    assert (call["type"], call["function"]["name"]) == ("function", "moor")
    jsonschema_rs.validator_for(SCHEMA).validate(json.loads(arguments))


def test_tools_are_not_called_where_none_is_wanted(gateway: RunningGateway, key: str) -> None:
    """`tool_choice: "none"` makes a text of it."""
    answer = chat(gateway, key, "gpt-4o", tools=TOOLS, tool_choice="none")
    assert answer.json["choices"][0]["message"]["tool_calls"] == []
    assert answer.text.startswith("This is")


def test_a_conversation_with_a_tool_goes_on(gateway: RunningGateway, key: str) -> None:
    """A call and its result in the history lead to a text."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "moor", "arguments": '{"port":"a","berths":3}'},
    }
    messages = [
        {"role": "user", "content": "Moor!"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "moored"},
    ]
    answer = chat(gateway, key, "gpt-4o", tools=TOOLS, messages=messages)
    assert answer.status == 200
    assert finish_reasons(answer) == {0: "length"}


@STREAMED
def test_structured_output(gateway: RunningGateway, key: str, stream_wanted: bool) -> None:
    """The text is JSON that the schema accepts; `json_object` is JSON."""
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}}
    answer = chat(
        gateway, key, "gpt-4o", response_format=wanted, max_tokens=200, stream=stream_wanted
    )
    jsonschema_rs.validator_for(SCHEMA).validate(json.loads(answer.text))
    assert finish_reasons(answer) == {0: "stop"}
    free = {"type": "json_object"}
    answer = chat(
        gateway, key, "gpt-4o", response_format=free, max_tokens=200, stream=stream_wanted
    )
    assert isinstance(json.loads(answer.text), dict)


@pytest.mark.parametrize("parameter", ["strip_thinking_response", "disable_thinking"])
@STREAMED
def test_reasoning_is_delivered_or_stripped(
    gateway: RunningGateway, key: str, parameter: str, stream_wanted: bool
) -> None:
    """`reasoning_content` comes with its tokens counted, unless it is to be left out."""
    members = {"reasoning_effort": "low", "max_tokens": 60, "stream": stream_wanted}
    shown = chat(gateway, key, "gpt-4o", **members)
    assert b'"reasoning_content":"Simulated' in shown.body
    assert last(shown)["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    stripped = chat(gateway, key, "gpt-4o", **members, venice_parameters={parameter: True})
    assert stripped.status == 200
    assert b"Simulated reasoning" not in stripped.body
    assert not any(
        choice["delta"].get("reasoning_content")
        for chunk in (stripped.chunks if stream_wanted else [])
        for choice in chunk["choices"]
    )
    assert stripped.text.startswith("This is a simulated answer")
    assert finish_reasons(stripped).keys() == {0}


@STREAMED
@pytest.mark.parametrize("cut", [1, 3, 100])
def test_thinking_in_the_text_is_stripped(
    tmp_path: Path, upstream: FaultUpstream, stream_wanted: bool, cut: int
) -> None:
    """`<think>...</think>` is taken out, however a stream cuts it; it is paid all the same."""
    text = "<think>first, I thi</nk> of</think>\n\nA ferry < a bridge."
    pieces = [text[at : at + cut] for at in range(0, len(text), cut)]
    events = [delta("", role="assistant"), *map(delta, pieces), delta(finish="stop")]
    usage = {"prompt_tokens": 11, "completion_tokens": 20, "total_tokens": 31}
    upstream.default = (
        stream([*events, usage_chunk(usage), DONE])
        if stream_wanted
        else answer_json(completion(text, usage=usage))
    )
    with running_gateway(tmp_path, relayed_toml(upstream)) as relaying:
        caller = relaying.new_key()
        members = {"max_tokens": 100, "stream": stream_wanted}
        assert chat(relaying, caller, "relayed", **members).text == text
        strip = {"strip_thinking_response": True}
        answer = chat(relaying, caller, "relayed", **members, venice_parameters=strip)
    assert answer.text == "A ferry < a bridge."
    assert finish_reasons(answer) == {0: "stop"}
    assert last(answer)["usage"]["completion_tokens"] == 20


def test_an_unknown_member_is_refused(gateway: RunningGateway, key: str) -> None:
    """The top level is strict; the issue sits on the root, in the published words."""
    answer = chat(gateway, key, "plain", thinking={"type": "enabled"})
    assert answer.status == 400
    text = "Unrecognized key(s) in object: 'thinking'"
    assert answer.json == {
        "error": "Invalid request parameters",
        "details": {"_errors": [text]},
        "issues": [
            {"code": "unrecognized_keys", "keys": ["thinking"], "path": [], "message": text}
        ],
    }


@pytest.mark.parametrize("name", TOLERATED["ChatCompletionRequest"])
def test_a_tolerated_member_is_accepted(gateway: RunningGateway, key: str, name: str) -> None:
    """What real clients send beside the schema is accepted and ignored, whatever it holds."""
    for value in ({"any": "thing"}, "text", [1], None, True):
        assert chat(gateway, key, "plain", **{name: value}).status == 200, (name, value)


@pytest.mark.parametrize(
    "members",
    [
        {"user": "u", "store": False, "metadata": {"a": "b"}, "include": []},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"max_completion_tokens": 5, "temperature": 2, "top_p": 1, "min_p": 0, "top_k": 1},
        {"max_tokens": -1},
        {"frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 0, "seed": 1},
        {"tools": [{"type": "web_search"}, {"type": "x_search"}]},
        {"web_search": False},
        {"fallbacks": [{"model": "x"}]},
        {"messages": [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}]},
    ],
    ids=",".join,
)
def test_a_member_of_the_schema_is_accepted(
    gateway: RunningGateway, key: str, members: dict[str, Any]
) -> None:
    """Fields of the contract at their bounds, as shipped clients send them."""
    answer = chat(gateway, key, "plain", **members)
    assert answer.status == 200, answer.body


# --- listings -----------------------------------------------------------------------------------


def ids(answer: Answer) -> list[str]:
    return [model["id"] for model in answer.json["data"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["llama-3.3-70b", "plain", "hidden", "old"]),
        ("?type=text", ["llama-3.3-70b", "plain", "hidden", "old"]),
        ("?type=image", ["painter"]),
        ("?type=all", ["llama-3.3-70b", "plain", "hidden", "painter", "old"]),
        ("?type=code", []),
    ],
)
def test_models_are_listed(gateway: RunningGateway, query: str, expected: list[str]) -> None:
    """Public, by type, text when none is asked for; the answer fits the published schema."""
    answer = get(gateway, f"/api/v1/models{query}")
    assert answer.status == 200
    assert ids(answer) == expected
    assert answer.json["object"] == "list"
    assert answer.json["type"] == query.removeprefix("?type=") or "text"
    _validator("/models", "get").validate(answer.json)


def test_a_model_has_what_clients_require(gateway: RunningGateway) -> None:
    """The members without which the strictest client refuses the listing."""
    model = get(gateway, "/v1/models").json["data"][0]
    assert model["id"] == "llama-3.3-70b"
    assert (model["object"], model["owned_by"], model["type"]) == ("model", "venice.ai", "text")
    assert type(model["created"]) is int
    assert model["context_length"] == 4096
    spec = model["model_spec"]
    assert spec["traits"] == ["default", "function_calling_default"]
    for name in (
        "optimizedForCode", "quantization", "supportsFunctionCalling", "supportsReasoning",
        "supportsResponseSchema", "supportsVision", "supportsWebSearch", "supportsLogProbs",
    ):  # fmt: skip
        assert name in spec["capabilities"]
    assert not spec["capabilities"]["supportsE2EE"]
    assert not spec["capabilities"]["supportsTeeAttestation"]
    assert "default" in spec["constraints"]["temperature"]
    assert "default" in spec["constraints"]["top_p"]
    assert spec["pricing"] == {"input": {"usd": 1, "diem": 1}, "output": {"usd": 2, "diem": 2}}


def test_a_key_narrows_the_listing_and_a_bad_one_does_not(gateway: RunningGateway) -> None:
    """Models that a key may not use are not shown to it; a wrong key sees what anybody does."""
    private = gateway.new_key(privacy="PRIVATE_ONLY")
    assert ids(get(gateway, "/v1/models", private)) == ["llama-3.3-70b", "plain", "old"]
    assert "hidden" in ids(get(gateway, "/v1/models", "VENICE_INFERENCE_KEY_wrong"))
    assert get(gateway, "/v1/models/hidden", private).status == 404
    assert get(gateway, "/v1/models/hidden").json["id"] == "hidden"
    traits = get(gateway, "/v1/models/traits", private).json["data"]
    assert "fastest" not in traits


def test_traits_and_foreign_names_are_listed(gateway: RunningGateway) -> None:
    """Maps from a trait or a foreign name to the id."""
    assert get(gateway, "/v1/models/traits").json == {
        "object": "list",
        "type": "text",
        "data": {
            "default": "llama-3.3-70b",
            "function_calling_default": "llama-3.3-70b",
            "fastest": "hidden",
        },
    }
    assert get(gateway, "/v1/models/compatibility_mapping").json == {
        "object": "list",
        "type": "text",
        "data": {"gpt-4o": "llama-3.3-70b"},
    }


def test_one_model_is_shown_or_not_found(gateway: RunningGateway) -> None:
    """`/models/{id}` has one object; an unknown id has the text of MODEL_NOT_FOUND."""
    assert get(gateway, "/v1/models/gpt-4o").json["id"] == "llama-3.3-70b"
    missing = get(gateway, "/v1/models/nothing")
    assert (missing.status, missing.body) == (404, b'{"error":"Specified model not found"}')


def test_a_wrong_type_of_model_is_refused(gateway: RunningGateway) -> None:
    """A bogus type fails a union of two enumerations, as in the published sample."""
    answer = get(gateway, "/v1/models?type=bogus")
    assert answer.status == 400
    assert list(answer.json) == ["error", "details", "issues"]
    assert answer.json["issues"][0]["code"] == "invalid_union"
    assert answer.json["issues"][0]["message"] == "Invalid input"


def _validator(path: str, method: str) -> Any:
    """The published schema of a 200 answer, as JSON Schema."""
    content = SPEC["paths"][path][method]["responses"]["200"]["content"]
    schema = _json_schema(content["application/json"]["schema"])
    components = {name: _json_schema(s) for name, s in SPEC["components"]["schemas"].items()}
    # OpenAPI 3.0 writes exclusive bounds as draft 4 does.
    return jsonschema_rs.Draft4Validator({**schema, "components": {"schemas": components}})


def _json_schema(node: Any) -> Any:
    """OpenAPI 3.0 says `nullable` where JSON Schema has a type more."""
    if isinstance(node, list):
        return [_json_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    schema = {name: _json_schema(value) for name, value in node.items() if name != "nullable"}
    return {"anyOf": [schema, {"type": "null"}]} if node.get("nullable") is True else schema
