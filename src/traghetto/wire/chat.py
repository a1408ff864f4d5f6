"""A chat request as a value: parsed once, then trusted (contract B.1.1-B.1.4).

`requested_model` -> `split_suffix` -> `rewrite` -> `parse_chat` -> `check_capabilities` and
`check_max_tokens` -> `images_of` -> `engine_body_for`. Invariants: the body, its messages and their
parts hold only members of the allow-lists below, so that no parameter a caller invents reaches a
backend; `prompt_bytes` is never less than the UTF-8 bytes of the text that reaches the template;
no body for an engine has the URL of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from traghetto.errors import Adjunct, ApiError, sentences
from traghetto.wire.capabilities import Capabilities
from traghetto.wire.features import IMAGES_MAX, NO_PARTS, Feature, Parts, count_parts, too_many
from traghetto.wire.images import SourceAt
from traghetto.wire.rewrite import rewrite
from traghetto.wire.schema import validator_for
from traghetto.wire.zod import Issue, Path, custom_issue, refusal, require_valid

__all__ = [
    "ChatRequest",
    "Reasoning",
    "VeniceParameters",
    "check_capabilities",
    "check_max_tokens",
    "engine_body_for",
    "images_of",
    "parse_chat",
    "requested_model",
    "rewrite",
]

TEMPLATE_BYTES: Final = 256
"""Allowance for what a chat template adds on its own, such as a default system prompt."""
TOOLS_TEMPLATE_BYTES: Final = 1024
"""Allowance for the instructions with which a template introduces tools."""

_ENGINE_MEMBERS: Final = frozenset(
    {
        "frequency_penalty",
        "logprobs",
        "max_temp",
        "min_p",
        "min_temp",
        "n",
        "presence_penalty",
        "repetition_penalty",
        "seed",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_k",
        "top_logprobs",
        "top_p",
    }
)
"""Members that a backend is given as they came; the others are built below or not given."""
_INTEGERS: Final = ("n", "seed", "top_k", "top_logprobs")
_MESSAGE_MEMBERS: Final = frozenset(
    {
        "content",
        "name",
        "reasoning_content",
        "reasoning_details",
        "role",
        "thought_signature",
        "tool_call_id",
        "tool_calls",
    }
)


class VeniceParameters(msgspec.Struct, frozen=True, kw_only=True):
    """The effective `venice_parameters`: the body's, overridden by the model's suffix."""

    character_slug: str | None = None
    enable_x_search: bool = False
    enable_e2ee: bool = True
    enable_web_search: str = "off"
    enable_web_citations: bool = False
    enable_web_scraping: bool = False
    include_venice_system_prompt: bool = True
    include_search_results_in_stream: bool = False
    return_search_results_as_documents: bool = False
    strip_thinking_response: bool = False
    disable_thinking: bool = False

    @property
    def strips_thinking(self) -> bool:
        """Whether reasoning is taken out of the answer; switching it off implies that."""
        return self.strip_thinking_response or self.disable_thinking

    def echo(self) -> dict[str, Any]:
        """The nine members that an answer repeats (contract B.1.5), and a slug if there is one."""
        members: dict[str, Any] = {name: getattr(self, name) for name in _ECHOED}
        if self.character_slug is not None:
            members["character_slug"] = self.character_slug
        return members


_VENICE_MEMBERS: Final = frozenset(VeniceParameters.__struct_fields__)
_ECHOED: Final = tuple(
    name
    for name in VeniceParameters.__struct_fields__
    if name not in {"character_slug", "enable_x_search"}
)
_NO_PARAMETERS: Final = VeniceParameters()


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller wants of a model that reasons."""

    effort: str | None = None
    """`reasoning_effort`, else `reasoning.effort`."""
    effort_path: tuple[str, ...] = ("reasoning_effort",)
    disabled: bool = False
    """`disable_thinking`, or `reasoning.enabled: false` without an effort."""


_NO_REASONING: Final = Reasoning()


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid chat request."""

    model: str
    """As sent, suffix included."""
    body: dict[str, Any]
    """Members for an engine, without model and stream. Never changed: engines get copies."""
    stream: bool
    n: int
    max_tokens: int | None
    """The most completion tokens per choice, reasoning included; None leaves it to the model."""
    max_tokens_member: str
    venice: VeniceParameters
    reasoning: Reasoning
    uses: dict[Feature, Path]
    """What the model must be able to do, and where in the body that shows first."""
    text_bytes: int
    """The caller's text as compact JSON, which is never shorter than the text. Estimates of what a
    prompt had are made from it."""
    prompt_bytes: int
    """Upper bound of the prompt's tokens, media parts apart: no token is less than a byte.

    It is `text_bytes` and an allowance for the template. It sizes holds and admissions; only an
    exact count may refuse a prompt.
    """
    parts: Parts
    prompt_cache_key: str | None


def requested_model(body: dict[str, Any]) -> str:
    """The member `model`, which is checked before all others (contract A.3).

    Raises `ApiError(MODEL_REQUIRED)` where it is missing, null or empty, and
    `ApiError(MODEL_NOT_A_STRING)` where it has another type.
    """
    model = body.get("model")
    if model is None or model == "":
        raise ApiError(Adjunct.MODEL_REQUIRED)
    if type(model) is not str:
        raise ApiError(Adjunct.MODEL_NOT_A_STRING)
    return model


def parse_chat(body: dict[str, Any], suffix: dict[str, Any]) -> ChatRequest:
    """`body` (rewritten) with the parameters of the model's suffix, as a `ChatRequest`.

    Raises `ApiError(INVALID_REQUEST)` with every violation of the published schema, or of the
    numbers of media parts that a message and a request may carry.
    """
    parameters = body.get("venice_parameters", {})
    if suffix and type(parameters) is dict:
        parameters = {**parameters, **suffix}
        body = {**body, "venice_parameters": parameters}
    require_valid(validator_for("ChatCompletionRequest"), body)
    uses: dict[Feature, Path] = {}
    engine_body = {
        name: value for name, value in body.items() if name in _ENGINE_MEMBERS and value is not None
    }
    for name in _INTEGERS:
        if name in engine_body:
            engine_body[name] = int(engine_body[name])  # JSON has 16.0 for 16
    _check_tool_choice(body)
    engine_body["messages"], texts, parts = _parse_messages(body["messages"], uses)
    text_bytes, template_bytes = len(msgspec.json.encode(texts)), TEMPLATE_BYTES
    if body.get("tools"):
        text_bytes += _parse_tools(body, engine_body, uses)
        template_bytes += TOOLS_TEMPLATE_BYTES
    response_format = body.get("response_format")
    if response_format is not None and response_format["type"] != "text":
        uses[Feature.RESPONSE_SCHEMA] = ("response_format",)
        engine_body["response_format"] = response_format
        text_bytes += len(msgspec.json.encode(response_format))
    if body.get("logprobs") or body.get("top_logprobs"):
        uses[Feature.LOGPROBS] = ("logprobs" if body.get("logprobs") else "top_logprobs",)
    member = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    max_tokens = body.get(member)
    if max_tokens is not None:
        max_tokens = engine_body["max_tokens"] = int(max_tokens)
    venice = _parse_venice(parameters, uses)
    return ChatRequest(
        model=body["model"],
        body=engine_body,
        stream=body.get("stream", False),
        n=engine_body.get("n", 1),
        max_tokens=max_tokens,
        max_tokens_member=member,
        venice=venice,
        reasoning=_parse_reasoning(body, engine_body, uses, disabled=venice.disable_thinking),
        uses=uses,
        text_bytes=text_bytes,
        prompt_bytes=text_bytes + template_bytes,
        parts=parts,
        prompt_cache_key=body.get("prompt_cache_key"),
    )


def check_capabilities(request: ChatRequest, capabilities: Capabilities) -> None:
    """Raise INVALID_REQUEST if the model cannot do what `request` asks for.

    Each refusal is a `custom` issue at the place that asks; it counts as an unsupported feature,
    not as a failed request.
    """
    if not request.uses:
        return
    issues = [
        custom_issue(path, feature.sentence)
        for feature, path in request.uses.items()
        if not feature.is_supported(capabilities)
    ]
    options = capabilities.reasoningEffortOptions
    if (
        Feature.REASONING_EFFORT in request.uses
        and capabilities.supportsReasoningEffort
        and options is not None
        and request.reasoning.effort not in options
    ):
        issues.append(custom_issue(request.reasoning.effort_path, sentences.EFFORT_NOT_SUPPORTED))
    issues.extend(_too_many_parts(request, capabilities))
    if issues:
        raise refusal(issues, unsupported_feature=True)


def check_max_tokens(request: ChatRequest, max_completion_tokens: int | None) -> None:
    """Raise INVALID_REQUEST if more completion tokens are asked for than the model ever gives."""
    if (
        max_completion_tokens is None
        or request.max_tokens is None
        or request.max_tokens <= max_completion_tokens
    ):
        return
    issue: Issue = {
        "code": "too_big",
        "type": "number",
        "maximum": max_completion_tokens,
        "inclusive": True,
        "exact": False,
        "path": [request.max_tokens_member],
        "message": sentences.NUMBER_TOO_BIG.format(bound=max_completion_tokens),
    }
    raise refusal([issue])


def images_of(request: ChatRequest, capabilities: Capabilities) -> list[SourceAt]:
    """The images that reach a model with `capabilities`, in the order of the messages.

    A model that takes the images of one message only is given those of the last that has some
    (contract B.1.4).
    """
    return [
        SourceAt(
            part["image_url"]["url"], ("messages", index, "content", place, "image_url", "url")
        )
        for index in _shown_messages(request, capabilities)
        for place, part in enumerate(request.body["messages"][index]["content"])
        if part["type"] == "image_url"
    ]


def engine_body_for(
    request: ChatRequest, capabilities: Capabilities, pictures: Sequence[object] = ()
) -> dict[str, Any]:
    """A body of its own for one call of an engine, fitted to the model.

    `pictures` are what was read from `images_of`, one for each, and stand where the URLs were; the
    images that do not reach the model are left out. A model with efforts is told `none` where the
    caller switched thinking off; one without them is not told of `none`, which it obeys anyway.
    """
    body = dict(request.body)
    if not capabilities.supportsReasoningEffort:
        body.pop("reasoning_effort", None)
    elif request.reasoning.disabled and "reasoning_effort" not in body:
        body["reasoning_effort"] = "none"
    if request.parts.images:
        shown = _shown_messages(request, capabilities)
        remaining = iter(pictures)
        messages = body["messages"] = list(body["messages"])
        for index in request.parts.image_messages:
            messages[index] = (
                _with_pictures(messages[index], remaining)
                if index in shown
                else _without_images(messages[index])
            )
    return body


def _shown_messages(request: ChatRequest, capabilities: Capabilities) -> tuple[int, ...]:
    """The places of the messages whose images reach the model."""
    found = request.parts.image_messages
    return found if capabilities.supportsMultipleImages else found[-1:]


def _parse_messages(
    messages: list[dict[str, Any]], uses: dict[Feature, Path]
) -> tuple[list[Any], list[Any], Parts]:
    """The messages for an engine, the same without their media, and the count of the media."""
    parsed: list[Any] = []
    texts: list[Any] = []
    has_media = False
    for sent in messages:
        message = sent
        if not sent.keys() <= _MESSAGE_MEMBERS or not sent.get("tool_calls", True):
            message = _reduced(sent)
        text = message
        content = message.get("content")
        if type(content) is list:
            content = [_without_marker(part) for part in content]
            message = text = {**message, "content": content}
            if any(part["type"] != "text" for part in content):
                has_media = True
                text = {**message, "content": [p for p in content if p["type"] == "text"]}
        parsed.append(message)
        texts.append(text)
    return parsed, texts, count_parts(parsed, uses) if has_media else NO_PARTS


def _reduced(message: dict[str, Any]) -> dict[str, Any]:
    """The members of a message that engines know, without an empty list of calls."""
    return {
        key: value
        for key, value in message.items()
        if key in _MESSAGE_MEMBERS and (value or key != "tool_calls")
    }


def _without_marker(part: dict[str, Any]) -> dict[str, Any]:
    """A content part reduced to its type and its payload: cache markers stay with us."""
    kind = part["type"]
    return part if len(part) == 2 else {"type": kind, kind: part[kind]}


def _with_pictures(message: dict[str, Any], pictures: Iterator[object]) -> dict[str, Any]:
    """`message` with the next of `pictures` in each image part, and nothing else of the part."""
    content = [
        {"type": "image_url", "image_url": {"url": next(pictures)}}
        if part["type"] == "image_url"
        else part
        for part in message["content"]
    ]
    return {**message, "content": content}


def _without_images(message: dict[str, Any]) -> dict[str, Any]:
    left = [part for part in message["content"] if part["type"] != "image_url"]
    return {**message, "content": left or ""}


def _check_tool_choice(body: dict[str, Any]) -> None:
    """Raise INVALID_REQUEST if `tool_choice` asks for a tool that was not offered."""
    choice = body.get("tool_choice", "none")
    if choice == "none" or (choice == "auto" and "tools" not in body):
        return
    tools = body.get("tools")
    if not tools:
        raise refusal([custom_issue(("tool_choice",), sentences.TOOL_CHOICE_WITHOUT_TOOLS)])
    if isinstance(choice, dict):
        offered = {tool["function"]["name"] for tool in tools if "function" in tool}
        if choice["function"]["name"] not in offered:
            path = ("tool_choice", "function", "name")
            raise refusal([custom_issue(path, sentences.TOOL_CHOICE_UNKNOWN)])


def _parse_tools(
    body: dict[str, Any], engine_body: dict[str, Any], uses: dict[Feature, Path]
) -> int:
    """Put the function tools into `engine_body`; their bytes. Search entries do nothing."""
    tools = [
        {"type": "function", "function": tool["function"]}
        for tool in body["tools"]
        if "function" in tool
    ]
    if not tools:
        return 0
    uses[Feature.TOOLS] = ("tools",)
    engine_body["tools"] = tools
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body:
            engine_body[name] = body[name]
    return len(msgspec.json.encode(tools))


def _parse_venice(parameters: dict[str, Any], uses: dict[Feature, Path]) -> VeniceParameters:
    if not parameters:
        return _NO_PARAMETERS
    venice = VeniceParameters(
        **{name: value for name, value in parameters.items() if name in _VENICE_MEMBERS}
    )
    if venice.character_slug is not None:
        uses[Feature.CHARACTER] = ("venice_parameters", "character_slug")
    if venice.enable_web_search == "on":
        uses[Feature.WEB_SEARCH] = ("venice_parameters", "enable_web_search")
    if venice.enable_web_scraping:
        uses[Feature.WEB_SCRAPING] = ("venice_parameters", "enable_web_scraping")
    return venice


def _parse_reasoning(
    body: dict[str, Any],
    engine_body: dict[str, Any],
    uses: dict[Feature, Path],
    *,
    disabled: bool,
) -> Reasoning:
    nested = body.get("reasoning", {})
    verbosity = body.get("verbosity") or body.get("text", {}).get("verbosity", "auto")
    if verbosity != "auto":
        engine_body["verbosity"] = verbosity
    effort = body.get("reasoning_effort")
    path: tuple[str, ...] = ("reasoning_effort",)
    if effort is None and "effort" in nested:
        effort, path = nested["effort"], ("reasoning", "effort")
    if effort is None and not nested and not disabled:
        return _NO_REASONING
    if effort is not None:
        engine_body["reasoning_effort"] = effort
        if effort != "none":
            uses[Feature.REASONING_EFFORT] = path
    return Reasoning(
        effort=effort,
        effort_path=path,
        disabled=disabled or (effort is None and nested.get("enabled") is False),
    )


def _too_many_parts(request: ChatRequest, capabilities: Capabilities) -> list[Issue]:
    """Issues for more images or videos than reach the model in one request."""
    parts = request.parts
    images = len(images_of(request, capabilities)) if parts.images else 0
    images_max = capabilities.maxImages
    counted = (
        ("image_url", Feature.VISION, images, IMAGES_MAX if images_max is None else images_max),
        ("video_url", Feature.VIDEO, parts.videos, capabilities.maxVideos),
    )
    return [
        too_many(kind, most, request.uses[feature])
        for kind, feature, count, most in counted
        if most is not None and count > most
    ]
