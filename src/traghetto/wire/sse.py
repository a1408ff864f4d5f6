"""Server-sent events as they come from a backend: an incremental decoder.

It follows the event-stream rules of the WHATWG HTML standard (lines end in LF, CR or CRLF; a byte
order mark at the start is dropped; comments, `id` and `retry` are ignored; several `data` lines
are joined by LF; an event without its blank line is never dispatched), with two additions: text
that is not UTF-8 is an error instead of a replacement character, and sizes are bounded.

Invariant: the payloads returned do not depend on how the network cut the bytes.
"""

from __future__ import annotations

import codecs
from typing import Final

LINE_BYTES_MAX: Final = 1 << 20
EVENT_BYTES_MAX: Final = 4 << 20
DONE: Final = b"[DONE]"
"""The payload with which an OpenAI-style stream says that it is complete."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class SseTooLarge(ValueError):
    """A line or an event exceeds its limit."""


class SseNotUtf8(ValueError):
    """The stream is not UTF-8."""


class SseDecoder:
    """Turns the bytes of one stream into the payloads of its events.

    `error` is None until an event of type `error` arrives; then it holds that event's payload and
    everything after it is ignored.
    """

    __slots__ = ("_after_cr", "_line_bytes", "_started", "_tail", "_utf8", "_utf8_pending", "error")

    def __init__(self) -> None:
        self.error: bytes | None = None
        self._tail = bytearray()
        """What came after the last complete event, its line ends already LF."""
        self._line_bytes = 0
        """How much of the last, unfinished line is already in the tail."""
        self._after_cr = False
        self._started = False
        self._utf8 = _new_utf8_decoder("strict")
        self._utf8_pending = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the events that `chunk` completed, in order; often none or one.

        Raises `SseNotUtf8` and `SseTooLarge`; the decoder is of no use afterwards.
        """
        if not chunk:
            return []
        if self._utf8_pending or not chunk.isascii():
            self._check_utf8(chunk)
        if self._after_cr or b"\r" in chunk:
            chunk = self._normalise_line_ends(chunk)
        tail = self._tail
        # The usual read is whole events and nothing else; it needs no copy.
        if not tail and self._started and chunk.endswith(b"\n\n") and len(chunk) <= LINE_BYTES_MAX:
            self._line_bytes = 0
            return self._payloads(chunk[:-2])
        self._bound_lines(chunk)
        searched = max(len(tail) - 1, 0)
        tail += chunk
        if not self._started and not self._drop_byte_order_mark():
            return []
        end = tail.rfind(b"\n\n", searched)
        if end < 0:
            if len(tail) > EVENT_BYTES_MAX:
                raise SseTooLarge("an event is too large")
            return []
        complete = bytes(tail[:end])
        del tail[: end + 2]
        return self._payloads(complete)

    def finish(self) -> bool:
        """Whether the stream ended inside an event (or a character), which is then lost."""
        return self._utf8_pending or bool(self._tail.strip(b"\n"))

    def _check_utf8(self, chunk: bytes) -> None:
        try:
            self._utf8.decode(chunk)
        except UnicodeDecodeError:
            raise SseNotUtf8("the stream is not UTF-8") from None
        self._utf8_pending = bool(self._utf8.getstate()[0])

    def _normalise_line_ends(self, chunk: bytes) -> bytes:
        # A CR ends its line at once; the LF of a CRLF cut in two is dropped when it comes.
        ends_in_cr = chunk.endswith(b"\r")
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = ends_in_cr
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _bound_lines(self, chunk: bytes) -> None:
        if self._line_bytes + len(chunk) > LINE_BYTES_MAX:
            lines = chunk.split(b"\n")
            if self._line_bytes + len(lines[0]) > LINE_BYTES_MAX or any(
                len(line) > LINE_BYTES_MAX for line in lines
            ):
                raise SseTooLarge("a line is too long")
        newline = chunk.rfind(b"\n")
        if newline < 0:
            self._line_bytes += len(chunk)
        else:
            self._line_bytes = len(chunk) - newline - 1

    def _drop_byte_order_mark(self) -> bool:
        """Whether enough has arrived to know that no byte order mark is left."""
        tail = self._tail
        if len(tail) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(tail):
            return False
        if tail.startswith(_BYTE_ORDER_MARK):
            del tail[: len(_BYTE_ORDER_MARK)]
        self._started = True
        return True

    def _payloads(self, complete: bytes) -> list[bytes]:
        if self.error is not None:
            return []
        payloads: list[bytes] = []
        for block in complete.split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block:
                payloads.append(block[6:])
                continue
            if len(block) > EVENT_BYTES_MAX:
                raise SseTooLarge("an event is too large")
            payload, is_error = _parse_block(block)
            if payload is not None:
                if is_error:
                    self.error = payload
                    break
                payloads.append(payload)
        return payloads


def _parse_block(block: bytes) -> tuple[bytes | None, bool]:
    """The payload of one event (None if it has no data) and whether its type is `error`."""
    data: list[bytes] = []
    event = b""
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
        elif name == b"event":
            event = value[1:] if value.startswith(b" ") else value
    return (b"\n".join(data) if data else None), event == b"error"
