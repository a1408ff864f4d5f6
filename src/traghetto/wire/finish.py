"""Finish reasons: what backends say, and the four words that clients may see (contract B.1.5)."""

from __future__ import annotations

from typing import Any, Final

_PUBLIC: Final = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}


def public_finish_reason(reason: Any) -> str | None:
    """The public word for a backend's finish reason; None if it says the answer is not one.

    Engines that give up in the middle say so here (`abort`, `error`), and an unknown word is not
    evidence of a complete answer either.
    """
    return _PUBLIC.get(reason) if isinstance(reason, str) else None
