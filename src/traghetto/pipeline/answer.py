"""The public form of answers: ids, choices, usage and cost (contract B.1.5, B.1.6)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from traghetto.money import Currency, format_usd
from traghetto.pipeline.stages.settle import Settled
from traghetto.pipeline.thinking import strip_thinking
from traghetto.wire.chat import ChatRequest
from traghetto.wire.completion import BackendUsage, Completion
from traghetto.wire.finish import public_finish_reason

_LISTED_MESSAGE: Final = (
    "content",
    "reasoning_content",
    "tool_calls",
    "refusal",
    "reasoning_details",
    "thought_signature",
)
_STOP_REASONS: Final = {"stop": "stop", "length": "length"}


def completion_id(request_id: str) -> str:
    """The public id of a request's completion."""
    return f"chatcmpl-{request_id}"


def usage_member(tokens: BackendUsage) -> dict[str, Any]:
    """`usage` as clients know it; `prompt_tokens` includes the cached ones."""
    return {
        "prompt_tokens": tokens.prompt_tokens,
        "completion_tokens": tokens.completion_tokens,
        "total_tokens": tokens.prompt_tokens + tokens.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cached_tokens,
            "cache_creation_input_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
    }


def cost_member(settled: Settled) -> dict[str, Any]:
    """`cost`: exact decimal numbers, in the currency that paid."""
    amount = msgspec.Raw(format_usd(settled.nano_usd).encode())
    if settled.currency is Currency.DIEM:
        return {"usd": 0, "diem": amount}
    return {"usd": amount, "diem": 0}


def public_choices(
    completion: Completion, request: ChatRequest, *, over_limit: bool
) -> list[dict[str, Any]]:
    """The choices of a whole answer, at most `n` of them, with listed members only.

    `over_limit` marks an answer that is longer than was asked for.
    """
    choices: list[dict[str, Any]] = []
    for choice in completion.choices[: request.n]:
        reason = "length" if over_limit else public_finish_reason(choice["finish_reason"])
        assert reason is not None, "a completion was checked for it"
        public = {
            "index": choice.get("index", len(choices)),
            "message": _public_message(choice["message"], request),
            "finish_reason": reason,
            "stop_reason": _STOP_REASONS.get(reason),
            "logprobs": choice.get("logprobs"),
        }
        choices.append(public)
    return choices


def whole_answer(
    *,
    request_id: str,
    created: int,
    model: str,
    request: ChatRequest,
    choices: list[dict[str, Any]],
    settled: Settled,
) -> bytes:
    """The body of a non-streaming answer."""
    return msgspec.json.encode(
        {
            "id": completion_id(request_id),
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": choices,
            "usage": usage_member(settled.tokens),
            "cost": cost_member(settled),
            "prompt_logprobs": None,
            "venice_parameters": {**request.venice.echo(), "web_search_citations": []},
        }
    )


def _public_message(message: dict[str, Any], request: ChatRequest) -> dict[str, Any]:
    public: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "reasoning_content": None,
        "tool_calls": [],
    }
    for key in _LISTED_MESSAGE:
        if message.get(key) is not None:
            public[key] = message[key]
    if public["reasoning_content"] is None and isinstance(message.get("reasoning"), str):
        public["reasoning_content"] = message["reasoning"]
    if request.venice.strips_thinking:
        public["reasoning_content"] = None
        if isinstance(public["content"], str):
            public["content"] = strip_thinking(public["content"])
    return public
