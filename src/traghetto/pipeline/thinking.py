"""Removal of a model's visible thinking: `<think>…</think>` in its text (contract B.1.2)."""

from __future__ import annotations

from typing import Final

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"


class ThinkingFilter:
    """Removes thinking from one choice's text, however the pieces of a stream cut the tags.

    A block that is never closed is thinking to its end. Text that might still turn out to be the
    start of a tag is held back until the next piece, or until `flush`.
    """

    __slots__ = ("_after_block", "_pending", "_thinking")

    def __init__(self) -> None:
        self._pending = ""
        self._thinking = False
        self._after_block = False

    def feed(self, piece: str) -> str:
        """The part of everything fed so far that is now known to be answer, not thinking."""
        text = self._pending + piece
        kept: list[str] = []
        while True:
            tag = _CLOSE if self._thinking else _OPEN
            before, found, after = text.partition(tag)
            if not found:
                break
            if not self._thinking:
                kept.append(self._trimmed(before))
            self._after_block = self._thinking
            self._thinking = not self._thinking
            text = after
        held = _overlap(text, tag)
        self._pending = text[len(text) - held :]
        if not self._thinking:
            kept.append(self._trimmed(text[: len(text) - held]))
        return "".join(kept)

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        rest = "" if self._thinking else self._trimmed(self._pending)
        self._pending = ""
        return rest

    def _trimmed(self, text: str) -> str:
        """`text` without the white space that separated it from a thinking block before it."""
        if self._after_block:
            text = text.lstrip()
            self._after_block = not text
        return text


def strip_thinking(text: str) -> str:
    """`text` without its thinking blocks."""
    stripper = ThinkingFilter()
    return stripper.feed(text) + stripper.flush()


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` could be the start of `tag`."""
    for length in range(min(len(tag) - 1, len(text)), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
