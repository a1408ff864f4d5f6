"""One request on a connection, as the application sees it: the ASGI `receive` and `send`.

It replaces the writing half of uvicorn's cycle, because a failed application must end in a
cut connection and never in an answer of another shape, and because an answer that comes before
the end of its request's body decides what becomes of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from traghetto.pipeline.exchange import DISCONNECT_EXTENSION
from traghetto.telemetry import log_failure

_BODILESS_STATUSES: Final = frozenset({204, 304})


class Line(Protocol):
    """What a cycle needs of its connection."""

    def may_keep(self, cycle: Cycle) -> bool:
        """Whether the connection can go on after an answer before the end of the body."""
        ...

    def cut(self, cycle: Cycle) -> None:
        """Close the connection in the middle of an answer that cannot be completed."""
        ...


class Cycle(RequestResponseCycle):
    """A request being answered on one connection."""

    def __init__(
        self,
        line: Line,
        loop: asyncio.AbstractEventLoop,
        declared_bytes: int | None,
        **of_uvicorn: Any,
    ) -> None:
        """`declared_bytes` is the body's declared length; None says that it is chunked."""
        super().__init__(**of_uvicorn)
        self.line = line
        self.declared_bytes = declared_bytes
        self.pieces: list[bytes] = []
        self.pieces_bytes = 0
        self._loop = loop
        self._head = b""
        self._on_disconnect: Callable[[], None] | None = None
        extensions: dict[str, Any] = {DISCONNECT_EXTENSION: self.call_on_disconnect}
        self.scope["extensions"] = extensions

    @property
    def waits_for_continue(self) -> bool:
        """Whether the client holds its body back until it is asked for it."""
        return self.waiting_for_100_continue

    def disconnect(self) -> None:
        """The client is gone, or is treated as gone: wake the application with the news."""
        self.disconnected = True
        self.message_event.set()
        if self._on_disconnect is not None:
            self._on_disconnect()

    def call_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called when the client is gone, at once if it is; None forgets it.

        The extension `traghetto.disconnect` of the ASGI scope: it spares a waiting task per
        request.
        """
        self._on_disconnect = callback
        if callback is None:
            return
        if not self.more_body and not self.pieces:
            # Reading may have been paused for the end of a long body; who does not read, does not
            # see a client leave.
            self.flow.resume_reading()
        if self.disconnected:
            callback()

    def take(self, piece: bytes) -> int:
        """Keep a piece of the body for the application; the bytes it has not read."""
        self.pieces.append(piece)
        self.pieces_bytes += len(piece)
        self.message_event.set()
        return self.pieces_bytes

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Run the application on this request; it must complete an answer or lose the line."""
        try:
            await app(self.scope, self.receive, cast(Any, self.send))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (the last boundary: log it, cut the line)
            log_failure("error", code="UNKNOWN_ERROR", request_id="", error=error)
        finally:
            if not self.response_complete and not self.disconnected:
                self.line.cut(self)
            self.on_response = _nothing

    async def receive(self) -> ASGIReceiveEvent:
        """The next piece of the body, all that has arrived; then the client's disconnect."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        pieces, self.pieces, self.pieces_bytes = self.pieces, [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: ASGISendEvent) -> None:
        """Write a part of the answer; waits first while the client reads too slowly.

        Does nothing once the client is gone: whoever needs to know listens with `receive`.
        Raises RuntimeError for a message out of order, a header that would break the answer's
        head, and a body of another length than declared.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._write_head(message["status"], list(message.get("headers", ())))
        elif message["type"] == "http.response.body" and self.response_started:
            if self.response_complete:
                raise RuntimeError("the answer is already complete")
            self._write_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"message out of order: {message['type']}")

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self.more_body and self.keep_alive:
            self.keep_alive = self.line.may_keep(self)
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        for name, value in [*self.default_headers, *headers]:
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection":
                if b"close" in value.lower():
                    self.keep_alive = False
                continue
            lines.append(b"%s: %s\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None:
            bodiless = self.scope["method"] == "HEAD" or status in _BODILESS_STATUSES
            if self.scope["http_version"] == "1.0":
                # Without chunks the end of the body is the end of the connection.
                self.keep_alive = False
            elif not bodiless:
                self.chunked_encoding = True
                lines.append(b"transfer-encoding: chunked\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        line_ends = len(lines)
        if head.count(b"\n") != line_ends or head.count(b"\r") != line_ends or b"\0" in head:
            raise RuntimeError("a header holds a line break or NUL")
        self.response_started = True
        # The head leaves together with the first piece of the body, in one packet and one system
        # call, unless that piece is not there by the next turn of the loop.
        self._head = head
        self._loop.call_soon(self._flush_head)

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self.disconnected:
            self.transport.write(head)

    def _write_body(self, body: bytes, more_body: bool) -> None:
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more_body:
                body += b"0\r\n\r\n"
        elif self.chunked_encoding is False:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the body is longer than its declared length")
        if head or body:
            self.transport.write(head + body)
        if more_body:
            return
        if self.expected_content_length:
            raise RuntimeError("the body is shorter than its declared length")
        self.response_complete = True
        self.message_event.set()
        self.on_response()


def _nothing() -> None:
    """What is called at the end of an answer once the application has returned."""
