"""A stream, from bytes to what a caller wants to know of it, without reading a socket.

Invariant: a stream that did not end with `[DONE]` never looks complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from traghetto.client.classification import error_in_stream
from traghetto.client.exceptions import StreamTruncated
from traghetto.wire.sse import DONE, SseDecoder, SseNotUtf8, SseTooLarge


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """One event of a stream."""

    data: dict[str, Any]
    """The whole `chat.completion.chunk` object."""

    @property
    def text(self) -> str:
        """What it adds to the content of the first choice."""
        return self._delta.get("content") or ""

    @property
    def reasoning(self) -> str:
        """What it adds to the reasoning of the first choice."""
        return self._delta.get("reasoning_content") or ""

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """What it adds to the tool calls of the first choice."""
        return self._delta.get("tool_calls") or []

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended, in the event that ends it."""
        return self._choice.get("finish_reason")

    @property
    def usage(self) -> dict[str, Any] | None:
        """Tokens, in the last event."""
        return self.data.get("usage")

    @property
    def _choice(self) -> dict[str, Any]:
        choices = self.data.get("choices") or ()
        return next((choice for choice in choices if choice.get("index", 0) == 0), {})

    @property
    def _delta(self) -> dict[str, Any]:
        return self._choice.get("delta") or {}


class StreamReader:
    """Reads one stream."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.done = False
        """Whether the stream said that it is complete."""
        self._headers = headers
        self._decoder = SseDecoder()

    def events(self, chunk: bytes) -> Iterator[ChatEvent]:
        """The events that `chunk` completes.

        Raises the exception of an error frame, once what came before it has been taken, and
        `StreamTruncated` for bytes that are no stream of events.
        """
        try:
            payloads = self._decoder.feed(chunk)
        except (SseNotUtf8, SseTooLarge) as error:
            raise StreamTruncated(f"the stream cannot be read: {error}") from error
        for payload in payloads:
            if payload == DONE:
                self.done = True
                return
            data = _decoded(payload)
            if data.get("error"):
                raise error_in_stream(self._headers, data)
            yield ChatEvent(data)
        if self._decoder.error is not None:
            raise error_in_stream(self._headers, _decoded(self._decoder.error))

    def finish(self) -> None:
        """The stream has ended; raises `StreamTruncated` if it was not complete."""
        if not self.done:
            raise StreamTruncated("the stream ended before it was complete")


def _decoded(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StreamTruncated("the stream holds something else than JSON objects") from error
