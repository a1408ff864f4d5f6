"""A chat body becomes a typed request, or one refusal that names everything wrong with it."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.wire.capabilities import Capabilities
from traghetto.wire.chat import (
    TEMPLATE_BYTES,
    ChatRequest,
    VeniceParameters,
    check_capabilities,
    check_max_tokens,
    engine_body_for,
    images_of,
    parse_chat,
    requested_model,
    rewrite,
)
from traghetto.wire.features import Feature
from traghetto.wire.schema import validator_for

USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}
FILE = {"type": "file", "file": {"file_data": "data:text/plain;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
EVERYTHING = Capabilities(
    supportsFunctionCalling=True,
    supportsAudioInput=True,
    supportsReasoning=True,
    supportsReasoningEffort=True,
    supportsResponseSchema=True,
    supportsMultipleImages=True,
    supportsVision=True,
    supportsVideoInput=True,
    supportsWebSearch=True,
    supportsLogProbs=True,
)


def parse(suffix: dict[str, Any] | None = None, **members: Any) -> ChatRequest:
    return parse_chat(rewrite({"model": "m", "messages": [USER], **members}), suffix or {})


def issues_of(error: ApiError) -> list[tuple[list[Any], str]]:
    assert error.code is ErrorCode.INVALID_REQUEST
    assert error.issues is not None
    return [(issue["path"], issue["message"]) for issue in error.issues]


def refused(**members: Any) -> list[tuple[list[Any], str]]:
    with pytest.raises(ApiError) as caught:
        parse(**members)
    return issues_of(caught.value)


def unsupported(request: ChatRequest, capabilities: Capabilities) -> list[tuple[list[Any], str]]:
    with pytest.raises(ApiError) as caught:
        check_capabilities(request, capabilities)
    assert caught.value.unsupported_feature
    assert {issue["code"] for issue in caught.value.issues or ()} == {"custom"}
    return issues_of(caught.value)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, Adjunct.MODEL_REQUIRED),
        ({"model": None}, Adjunct.MODEL_REQUIRED),
        ({"model": ""}, Adjunct.MODEL_REQUIRED),
        ({"model": 0}, Adjunct.MODEL_NOT_A_STRING),
        ({"model": ["m"]}, Adjunct.MODEL_NOT_A_STRING),
    ],
)
def test_the_model_is_checked_by_itself(body: dict[str, Any], code: Adjunct) -> None:
    """A missing model and one of another type have texts of their own."""
    with pytest.raises(ApiError) as caught:
        requested_model(body)
    assert caught.value.code is code
    assert requested_model({"model": "m"}) == "m"


def test_the_smallest_request_invents_nothing() -> None:
    """Defaults stay the backend's: the engine is given the messages and no more."""
    request = parse()
    assert request.body == {"messages": [USER]}
    assert (request.model, request.stream, request.n, request.max_tokens) == ("m", False, 1, None)
    assert request.prompt_cache_key is None
    assert request.uses == {}
    assert request.venice == VeniceParameters()


def test_an_engine_gets_only_what_the_list_allows() -> None:
    """Members of ours, tolerated members and identities stay behind; sampling goes on."""
    sampling = {
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.1,
        "top_k": 40,
        "min_temp": 0.1,
        "max_temp": 1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "presence_penalty": -0.1,
        "seed": 7,
        "stop": ["a", "b"],
        "stop_token_ids": [1],
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
    }
    request = parse(
        **sampling,
        stream=True,
        stream_options={"include_usage": True},
        user="u",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        metadata={"a": "b"},
        store=False,
        include=["reasoning.encrypted_content"],
        fallbacks=[{"model": "x"}],
        venice_parameters={"enable_x_search": True, "unknown": {}},
        logit_bias={"1": 2},
        service_tier="auto",
        client_metadata={"x": 1},
        verbosity="low",
        response_format={"type": "text"},
    )
    assert request.body == {**sampling, "messages": [USER], "verbosity": "low"}
    assert (request.stream, request.n, request.body["stop"]) == (True, 2, ["a", "b"])
    assert request.prompt_cache_key == "k"
    assert request.venice.enable_x_search


def test_members_of_messages_and_parts_are_listed_too() -> None:
    """Unknown members of a message or a part, and cache markers, do not reach an engine."""
    request = parse(
        messages=[
            {**USER, "chat_template": "x"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
                    {**IMAGE, "mm_processor_kwargs": {}},
                ],
            },
        ]
    )
    assert request.body["messages"] == [
        USER,
        {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]},
    ]


def test_the_history_of_an_assistant_round_trips() -> None:
    """Reasoning, signatures and calls of earlier turns come back unchanged."""
    turn = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "r",
        "reasoning_details": [{"type": "t", "data": "d"}],
        "thought_signature": "s",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "x": 1}
        ],
    }
    answer = {"role": "tool", "tool_call_id": "1", "content": "ok"}
    assert parse(messages=[USER, turn, answer]).body["messages"] == [USER, turn, answer]


def test_an_empty_list_of_calls_is_left_out() -> None:
    """Backends refuse an assistant with no calls in its list of calls."""
    sent = [{"role": "assistant", "content": "x", "tool_calls": []}, USER]
    assert parse(messages=sent).body["messages"][0] == {"role": "assistant", "content": "x"}


def test_the_limit_of_tokens() -> None:
    """`max_completion_tokens` wins over `max_tokens`; 16.0 is 16."""
    request = parse(max_tokens=5, max_completion_tokens=16.0)
    assert (request.max_tokens, request.body["max_tokens"]) == (16, 16)
    assert isinstance(request.max_tokens, int)
    check_max_tokens(request, 16)
    check_max_tokens(request, None)
    check_max_tokens(parse(), 1)
    with pytest.raises(ApiError) as caught:
        check_max_tokens(request, 15)
    assert issues_of(caught.value) == [
        (["max_completion_tokens"], "Number must be less than or equal to 15")
    ]


def test_the_suffix_overrides_the_body() -> None:
    """What the model's suffix sets is effective, and a wrong value is named like any other."""
    request = parse({"enable_web_search": "on"}, venice_parameters={"enable_web_search": "off"})
    assert request.venice.enable_web_search == "on"
    with pytest.raises(ApiError) as caught:
        parse({"disable_thinking": "yes"})
    assert issues_of(caught.value) == [
        (["venice_parameters", "disable_thinking"], "Expected boolean, received string")
    ]


def test_venice_parameters_echo_all_nine() -> None:
    """An answer repeats nine effective values, and the character if there is one."""
    echo = VeniceParameters().echo()
    assert echo == {
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
    assert VeniceParameters(character_slug="a").echo() == {**echo, "character_slug": "a"}
    assert VeniceParameters(disable_thinking=True).strips_thinking


@pytest.mark.parametrize(
    ("members", "effort", "disabled"),
    [
        ({}, None, False),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "low", False),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, "high", False),
        ({"reasoning": {"enabled": False}}, None, True),
        ({"reasoning": {"enabled": False, "effort": "low"}}, "low", False),
        ({"reasoning": {"enabled": "no"}}, None, False),
        ({"venice_parameters": {"disable_thinking": True}}, None, True),
    ],
)
def test_reasoning(members: dict[str, Any], effort: str | None, disabled: bool) -> None:
    """The top-level effort wins; the off switch counts only without an effort."""
    request = parse(**members)
    assert (request.reasoning.effort, request.reasoning.disabled) == (effort, disabled)
    assert request.body.get("reasoning_effort") == effort


def test_tools_go_on_and_search_entries_do_not() -> None:
    """Search entries validate and do nothing; a choice without tools is left out."""
    request = parse(tools=[TOOL, {"type": "web_search"}], tool_choice="auto")
    assert request.body["tools"] == [TOOL]
    assert request.body["tool_choice"] == "auto"
    request = parse(tools=[{"type": "x_search"}], tool_choice="auto", parallel_tool_calls=True)
    assert request.body == {"messages": [USER]}
    assert request.uses == {}


NEEDS: list[tuple[dict[str, Any], str, list[Any], str]] = [
    (
        {"messages": [USER, {"role": "user", "content": [IMAGE]}]},
        "supportsVision",
        ["messages", 1, "content", 0],
        "Image content is not supported by this model. Please use a model that supports it.",
    ),
    (
        {"messages": [{"role": "user", "content": [AUDIO]}]},
        "supportsAudioInput",
        ["messages", 0, "content", 0],
        "Audio content is not supported by this model. Please use a model that supports it.",
    ),
    (
        {"messages": [{"role": "user", "content": [VIDEO]}]},
        "supportsVideoInput",
        ["messages", 0, "content", 0],
        "Video content is not supported by this model. Please use a model that supports it.",
    ),
    (
        {"tools": [TOOL]},
        "supportsFunctionCalling",
        ["tools"],
        "tools is not supported by this model",
    ),
    (
        {"response_format": {"type": "json_object"}},
        "supportsResponseSchema",
        ["response_format"],
        "response_format is not supported by this model",
    ),
    (
        {"logprobs": True},
        "supportsLogProbs",
        ["logprobs"],
        "logprobs is not supported by this model",
    ),
    (
        {"top_logprobs": 1},
        "supportsLogProbs",
        ["top_logprobs"],
        "logprobs is not supported by this model",
    ),
    (
        {"reasoning_effort": "low"},
        "supportsReasoningEffort",
        ["reasoning_effort"],
        "reasoning_effort is not supported by this model",
    ),
    (
        {"reasoning": {"effort": "low"}},
        "supportsReasoningEffort",
        ["reasoning", "effort"],
        "reasoning_effort is not supported by this model",
    ),
    (
        {"venice_parameters": {"enable_web_search": "on"}},
        "supportsWebSearch",
        ["venice_parameters", "enable_web_search"],
        "enable_web_search is not supported by this model",
    ),
    (
        {"venice_parameters": {"enable_web_scraping": True}},
        "supportsWebSearch",
        ["venice_parameters", "enable_web_scraping"],
        "enable_web_scraping is not supported by this model",
    ),
]


@pytest.mark.parametrize(("members", "capability", "path", "sentence"), NEEDS)
def test_a_model_is_asked_only_for_what_it_can_do(
    members: dict[str, Any], capability: str, path: list[Any], sentence: str
) -> None:
    """One row per capability: refused without it at the place that asks, accepted with it."""
    request = parse(**members)
    check_capabilities(request, EVERYTHING)
    lacking = msgspec.structs.replace(EVERYTHING, **{capability: False})
    assert unsupported(request, lacking) == [(path, sentence)]


def test_every_feature_is_covered() -> None:
    """Each feature either names a capability that exists or is refused to every model."""
    for feature in Feature:
        refused = feature in {Feature.FILE, Feature.CHARACTER}
        assert feature.is_supported(EVERYTHING) is not refused
        assert not feature.is_supported(Capabilities())


def test_all_lacking_capabilities_are_told_at_once() -> None:
    """A caller mends everything after one answer."""
    request = parse(tools=[TOOL], logprobs=True, response_format={"type": "json_object"})
    assert len(unsupported(request, Capabilities())) == 3


def test_files_are_refused() -> None:
    """Nothing here turns a file into text, so no model takes one."""
    request = parse(messages=[{"role": "user", "content": [FILE]}])
    ((path, _),) = unsupported(request, EVERYTHING)
    assert path == ["messages", 0, "content", 0]


def test_what_needs_nothing_is_accepted_by_every_model() -> None:
    """Values that mean `off` ask for no capability."""
    request = parse(
        logprobs=False,
        tools=[],
        response_format={"type": "text"},
        reasoning_effort="none",
        venice_parameters={"enable_web_search": "auto", "enable_x_search": True},
    )
    check_capabilities(request, Capabilities())
    assert engine_body_for(request, Capabilities()) == {"messages": [USER], "logprobs": False}
    assert engine_body_for(request, EVERYTHING)["reasoning_effort"] == "none"


def test_an_effort_the_model_does_not_have() -> None:
    """Where the model lists its efforts, others are refused."""
    some = msgspec.structs.replace(EVERYTHING, reasoningEffortOptions=("low", "high"))
    check_capabilities(parse(reasoning_effort="low"), some)
    assert unsupported(parse(reasoning_effort="max"), some) == [
        (["reasoning_effort"], "reasoning_effort is not supported by this model")
    ]


def test_media_parts_are_counted() -> None:
    """The contract's numbers per message and per request, and the model's own."""
    assert refused(messages=[{"role": "user", "content": [IMAGE] * 11}]) == [
        (["messages", 0, "content"], "At most 10 image_url parts are allowed per message")
    ]
    assert refused(messages=[{"role": "user", "content": [VIDEO] * 2}] * 2) == [
        (["messages"], "At most 3 video_url parts are allowed per request")
    ]
    request = parse(messages=[{"role": "user", "content": [IMAGE, VIDEO, AUDIO]}] * 2)
    assert (request.parts.images, request.parts.videos, request.parts.audios) == (2, 2, 2)
    few = msgspec.structs.replace(EVERYTHING, maxImages=1, maxVideos=1)
    assert [sentence for _, sentence in unsupported(request, few)] == [
        "At most 1 image_url parts are allowed per request",
        "At most 1 video_url parts are allowed per request",
    ]


TEXT = {"type": "text", "text": "a"}
WITH_IMAGES = [
    {"role": "user", "content": [TEXT, IMAGE]},
    {"role": "user", "content": [IMAGE]},
    {"role": "user", "content": [IMAGE, TEXT, IMAGE]},
    USER,
]


def shown(picture: object) -> dict[str, Any]:
    """An image part as an engine gets it."""
    return {"type": "image_url", "image_url": {"url": picture}}


def test_only_the_last_images_reach_a_model_that_takes_one_message_of_them() -> None:
    """Earlier images are not read and left out of the call; the request itself is not changed."""
    request = parse(messages=WITH_IMAGES)
    one = msgspec.structs.replace(EVERYTHING, supportsMultipleImages=False, maxImages=2)
    check_capabilities(request, one)
    assert [image.path[1:4] for image in images_of(request, one)] == [
        (2, "content", 0),
        (2, "content", 2),
    ]
    assert engine_body_for(request, one, [1, 2])["messages"] == [
        {"role": "user", "content": [TEXT]},
        {"role": "user", "content": ""},
        {"role": "user", "content": [shown(1), TEXT, shown(2)]},
        USER,
    ]
    assert request.body["messages"] == WITH_IMAGES


def test_what_was_read_stands_where_the_urls_were() -> None:
    """A model that takes several messages of images is given all, in order, and never a URL."""
    request = parse(messages=WITH_IMAGES)
    images = images_of(request, EVERYTHING)
    assert {image.source for image in images} == {"https://example.com/a.png"}
    assert images[0].path == ("messages", 0, "content", 1, "image_url", "url")
    messages = engine_body_for(request, EVERYTHING, [1, 2, 3, 4])["messages"]
    assert messages[:3] == [
        {"role": "user", "content": [TEXT, shown(1)]},
        {"role": "user", "content": [shown(2)]},
        {"role": "user", "content": [shown(3), TEXT, shown(4)]},
    ]


def test_nothing_that_was_sent_beside_a_url_reaches_an_engine() -> None:
    """The schema knows no other member of an image, such as `detail`: it is accepted and dropped."""
    image = {
        "type": "image_url",
        "image_url": {"url": "https://a.example", "detail": "low", "x": 1},
    }
    request = parse(messages=[{"role": "user", "content": [image]}])
    assert engine_body_for(request, EVERYTHING, [1])["messages"][0]["content"] == [shown(1)]


@pytest.mark.parametrize(("multiple", "counted"), [(True, 4), (False, 2)])
def test_images_that_reach_the_model_are_counted(multiple: bool, counted: int) -> None:
    """A model's own number bounds what it is given, not what the conversation once had."""
    request = parse(messages=WITH_IMAGES)
    able = msgspec.structs.replace(EVERYTHING, supportsMultipleImages=multiple, maxImages=counted)
    check_capabilities(request, able)
    few = msgspec.structs.replace(able, maxImages=counted - 1)
    assert unsupported(request, few) == [
        (
            ["messages", 0, "content", 1],
            f"At most {counted - 1} image_url parts are allowed per request",
        )
    ]


def test_no_request_has_images_without_a_bound() -> None:
    """Where the model's entry names no number, there is one all the same."""
    messages = [{"role": "user", "content": [IMAGE] * 10}] * 10
    check_capabilities(parse(messages=messages), EVERYTHING)
    messages.append({"role": "user", "content": [IMAGE]})
    ((_, sentence),) = unsupported(parse(messages=messages), EVERYTHING)
    assert sentence == "At most 100 image_url parts are allowed per request"


def test_a_body_of_a_call_is_a_copy() -> None:
    """What is done to one call's body is not done to the request."""
    request = parse()
    engine_body_for(request, EVERYTHING)["max_tokens"] = 1
    assert "max_tokens" not in request.body


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5), st.text(max_size=30))
def test_prompt_bytes_cover_all_text(texts: list[str], description: str) -> None:
    """The bound is at least the UTF-8 bytes of messages, names, tools and schema together."""
    everything = [text.encode(errors="replace").decode() for text in [*texts, description]]
    request = parse(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": text}]}
            for text in everything[:-1]
        ],
        tools=[{"function": {"name": "f", "description": everything[-1]}}],
        response_format={"type": "json_schema", "json_schema": {"name": everything[0]}},
    )
    sent = sum(len(text.encode()) for text in [*everything, everything[0]])
    assert request.prompt_bytes >= sent + TEMPLATE_BYTES


def test_media_are_not_text() -> None:
    """The bytes of an image are no bound of its tokens, so they are not counted as text."""
    small = parse(messages=[{"role": "user", "content": [IMAGE]}])
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    assert parse(messages=[{"role": "user", "content": [image]}]).prompt_bytes == small.prompt_bytes


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "tool",
        "text",
        "image",
        "image_url",
        "file",
        "function",
        "tool_use",
        "tool_result",
        "auto",
        "web_search",
        "namespace",
    ]
)
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "url",
        "image_url",
        "image",
        "source",
        "function",
        "name",
        "input_schema",
        "tool_calls",
        "input",
        "tool_use_id",
        "id",
    ]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
MEMBERS = st.sampled_from(
    [
        *validator_for("ChatCompletionRequest").document["properties"],
        "input",
        "web_search",
        "max_output_tokens",
        "promptCacheKey",
    ]
)
PARTS = st.sampled_from(
    [IMAGE, AUDIO, VIDEO, FILE, {"type": "text", "text": "a"}, {"type": "image", "image": "data:x"}]
)
TURNS = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool"]),
        "content": VALUES | st.lists(PARTS | VALUES, max_size=3),
    },
    optional={"tool_calls": VALUES, "tool_call_id": st.text(max_size=2), "name": VALUES},
)


@given(
    st.dictionaries(MEMBERS, VALUES, max_size=3),
    st.lists(TURNS | st.just(USER), max_size=3) | VALUES,
    st.sampled_from([{}, {"enable_web_search": "on"}, {"disable_thinking": "x"}]),
)
def test_any_body_is_a_request_or_a_refusal(
    members: dict[str, Any], messages: Any, suffix: dict[str, Any]
) -> None:
    """Whatever JSON is sent, nothing else than a request or INVALID_REQUEST comes out."""
    body = {"model": "m", "messages": messages, **members}
    before = copy.deepcopy(body)
    try:
        request = parse_chat(rewrite(body), suffix)
        check_max_tokens(request, 10**6)
        check_capabilities(request, EVERYTHING)
        msgspec.json.encode(engine_body_for(request, Capabilities(), ["a"] * request.parts.images))
        code = None
    except ApiError as error:
        code = error.code
        msgspec.json.encode([error.details, error.issues])
    assert code in {None, ErrorCode.INVALID_REQUEST}
    assert body == before


@pytest.mark.parametrize(
    ("members", "path", "sentence"),
    [
        (
            {"tool_choice": "required"},
            ["tool_choice"],
            "tool_choice is only allowed when tools are specified",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "another"}},
            },
            ["tool_choice", "function", "name"],
            "tool_choice names a function that is not in tools",
        ),
    ],
)
def test_a_choice_among_tools_that_are_not_there_is_refused(
    members: dict[str, Any], path: list[str], sentence: str
) -> None:
    """A model could not obey it, and the caller would wait for a call that never comes."""
    assert refused(**members) == [(path, sentence)]


def test_a_choice_that_asks_for_nothing_needs_no_tools() -> None:
    """Clients send `auto` or `none` always."""
    for choice in ("auto", "none"):
        assert parse(tool_choice=choice).body["messages"]
