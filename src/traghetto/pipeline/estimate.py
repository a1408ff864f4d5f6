"""Tokens of text that nobody counted: a rule of thumb, marked as such in the books."""

from __future__ import annotations

from typing import Final

BYTES_PER_TOKEN: Final = 4


def estimated_tokens(utf8_bytes: int) -> int:
    """Tokens of a text of that size."""
    return -(-utf8_bytes // BYTES_PER_TOKEN)


def text_tokens(text: str) -> int:
    """Tokens of `text`, by its size in UTF-8."""
    return estimated_tokens(len(text.encode("utf-8", "surrogatepass")))
