"""The simulator's tokens: what counts as one, and what a prompt costs.

A token is a run of at most twelve letters, digits and underscores, or one other visible
character, together with the white space before it; white space at the end is one token. The
tokens of a text joined are the text. A prompt costs the tokens of its texts, `MESSAGE_TOKENS` for
each message, `PRIMER_TOKENS` once, `MEDIA_TOKENS` for each image whatever its size, and the
tokens of its tools and response format as compact JSON. These rules are the whole tokenizer, so
its counts are exact.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

MESSAGE_TOKENS: Final = 4
PRIMER_TOKENS: Final = 3
MEDIA_TOKENS: Final = 256

_TOKEN: Final = re.compile(r"\s*(?:\w{1,12}|[^\w\s])|\s+")
_ENCODE: Final = msgspec.json.Encoder(order="deterministic").encode


def tokenize(text: str) -> list[str]:
    """The tokens of `text`, in order; joined they are `text` again."""
    return _TOKEN.findall(text)


def canonical(body: dict[str, Any]) -> bytes:
    """`body` as JSON with its members in order: equal bodies, equal bytes."""
    return _ENCODE(body)


def count_prompt(body: dict[str, Any]) -> int:
    """The prompt tokens of a chat body."""
    total = PRIMER_TOKENS
    for message in body["messages"]:
        total += MESSAGE_TOKENS + _count_content(message.get("content"))
        for name in ("name", "reasoning_content", "tool_call_id"):
            if isinstance(text := message.get(name), str):
                total += len(tokenize(text))
        if calls := message.get("tool_calls"):
            total += _count_json(calls)
    for name in ("tools", "response_format"):
        if value := body.get(name):
            total += _count_json(value)
    return total


def _count_content(content: Any) -> int:
    if isinstance(content, str):
        return len(tokenize(content))
    total = 0
    for part in content or ():
        text = part.get("text")
        total += len(tokenize(text)) if isinstance(text, str) else MEDIA_TOKENS
    return total


def _count_json(value: Any) -> int:
    return len(tokenize(_ENCODE(value).decode()))
