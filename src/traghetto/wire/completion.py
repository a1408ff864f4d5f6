"""What a backend answers to a chat request, made trustworthy before anything depends on it.

Here: decoding, the check of a whole `chat.completion` object, and the token counts that a backend
claims, of a whole answer or of a stream's last event. A `Completion` has the structure that
clients rely on; a `BackendUsage` holds plausible integers, but may still exceed a request's hold,
which is for the settlement to judge.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from traghetto.wire.finish import public_finish_reason

TOKENS_MAX: Final = 100_000_000
"""No request can have used more tokens than this; a larger count is not believed."""

_NOT_A_JSON_NUMBER: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|(-?\bInfinity\b|\bNaN\b)', re.DOTALL)


class BackendUsage(msgspec.Struct, frozen=True):
    """Token counts that a backend claims; `prompt_tokens` includes the cached ones."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Completion(msgspec.Struct, frozen=True):
    """A whole answer whose structure has been checked."""

    answer: dict[str, Any]
    """The backend's object as decoded; its `id`, `model` and unlisted members are untrusted."""
    usage: BackendUsage | None
    """None where the backend gave none that can be believed."""

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The backend's choices, each with a `message` and a `finish_reason`."""
        choices: list[dict[str, Any]] = self.answer["choices"]
        return choices

    def output_bytes(self, choices_max: int) -> int:
        """UTF-8 bytes of what the model wrote (contents, reasoning, tool calls) in the first
        choices: a choice that nobody asked for is not shown, and so not counted.
        """
        return sum(_text_bytes(choice["message"]) for choice in self.choices[:choices_max])


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str = "assistant"
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _Answer(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder().decode


def decode_answer(body: bytes) -> Any:
    """The JSON value in `body`; raises ValueError if it is none or not UTF-8.

    `NaN` and `Infinity`, which Python servers write although JSON has no such numbers, become
    null: one bad log probability or token count must not cost the user the answer.
    """
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if b"NaN" not in body and b"Infinity" not in body:
            raise ValueError("the answer is not JSON") from None
    try:
        return _decode(_NOT_A_JSON_NUMBER.sub(_null_for_bare_word, body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("the answer is not JSON") from None


def parse_completion(answer: Any) -> Completion:
    """`answer` as a `Completion`; raises ValueError if it is not a finished chat completion.

    Every choice must have a message (content a string or null, tool calls with a name and string
    arguments) and say why it ended, in a word that means an end.
    """
    try:
        checked = msgspec.convert(answer, _Answer)
    except msgspec.ValidationError:
        raise ValueError("the answer is not a chat completion") from None
    if not checked.choices:
        raise ValueError("the answer has no choices")
    if any(public_finish_reason(choice.finish_reason) is None for choice in checked.choices):
        raise ValueError("the finish reason says that the backend gave up")
    claimed = answer.get("usage")
    usage = parse_usage(claimed, answer.get("timings"))
    return Completion(answer, usage)


def parse_usage(claimed: Any, timings: Any = None) -> BackendUsage | None:
    """The token counts in a `usage` member, or None if there are none to be believed.

    `timings` is llama.cpp's member of that name, whose `cache_n` counts cached prompt tokens.
    Details can never exceed their total.
    """
    if not isinstance(claimed, dict):
        return None
    prompt = _tokens(claimed.get("prompt_tokens"))
    completion = _tokens(claimed.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    cached = _detail(claimed.get("prompt_tokens_details"), "cached_tokens")
    if cached is None:
        cached = _tokens(claimed.get("prompt_cache_hit_tokens"))
    if cached is None:
        cached = _detail(timings, "cache_n")
    reasoning = _detail(claimed.get("completion_tokens_details"), "reasoning_tokens")
    return BackendUsage(
        prompt, completion, min(cached or 0, prompt), min(reasoning or 0, completion)
    )


def _text_bytes(message: dict[str, Any]) -> int:
    texts = [message.get("content"), message.get("reasoning_content")]
    for call in message.get("tool_calls") or ():
        texts += (call["function"]["name"], call["function"]["arguments"])
    return sum(len(text.encode()) for text in texts if text)


def _detail(member: Any, name: str) -> int | None:
    return _tokens(member.get(name)) if isinstance(member, dict) else None


def _tokens(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and 0 <= value <= TOKENS_MAX:
        return value
    return None


def _null_for_bare_word(match: re.Match[bytes]) -> bytes:
    return b"null" if match.group(1) else match.group(0)
