"""What llama.cpp is asked: our chat body in its words.

Only members named here reach llama.cpp, which would otherwise accept many parameters of its own
(grammars, slots, files) that are not the caller's to set.
"""

from __future__ import annotations

from typing import Any, Final

from traghetto.engines.failures import EngineFailure, FailureKind

_PASSED: Final = (
    "temperature",
    "top_p",
    "min_p",
    "top_k",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tool_choice",
    "parallel_tool_calls",
)
"""Members that llama.cpp names and understands as we do."""


def llama_body(body: dict[str, Any], modalities: frozenset[str]) -> dict[str, Any]:
    """`body` as a streaming request of one choice for llama.cpp.

    Raises `EngineFailure` (REJECTED_INPUT) for what llama.cpp cannot do: refusing is honest,
    leaving it out silently is not.
    """
    if body.get("stop_token_ids"):
        raise _rejected("stop_token_ids")
    tools = [tool for tool in body.get("tools") or () if tool.get("type") == "function"]
    if tools and body.get("logprobs"):
        raise _rejected("logprobs", "tools")
    asked = {name: body[name] for name in _PASSED if body.get(name) is not None}
    asked["messages"] = [_message(message, modalities) for message in body["messages"]]
    if tools:
        asked["tools"] = tools
    else:
        asked.pop("tool_choice", None)
    for name in ("max_completion_tokens", "max_tokens"):
        if (body.get(name) or 0) > 0:
            asked["max_tokens"] = body[name]
            break
    if body.get("repetition_penalty") is not None:
        asked["repeat_penalty"] = body["repetition_penalty"]
    low, high = body.get("min_temp"), body.get("max_temp")
    if low is not None and high is not None:
        asked["temperature"] = (low + high) / 2
        asked["dynatemp_range"] = abs(high - low) / 2
    if (effort := body.get("reasoning_effort")) is not None:
        asked["chat_template_kwargs"] = {
            "enable_thinking": effort != "none",
            "reasoning_effort": effort,
        }
    return {
        **asked,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Progress chunks come once per batch of the prompt: without them a call that nobody
        # waits for any more could not be stopped before its whole prompt was read.
        "return_progress": True,
    }


def _message(message: dict[str, Any], modalities: frozenset[str]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, list) and not modalities:
        for part in content:
            if part.get("type", "text") != "text":
                raise _rejected("messages")
    if message.get("role") == "developer":
        # Chat templates of open models know this role only by its older name.
        return {**message, "role": "system"}
    return message


def _rejected(*fields: str) -> EngineFailure:
    return EngineFailure(
        FailureKind.REJECTED_INPUT, f"llama.cpp cannot honour {', '.join(fields)}", fields=fields
    )
