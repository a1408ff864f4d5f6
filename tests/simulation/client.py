"""A client and its connection, as an application behind ASGI meets them.

The connection behaves as the product's own (`http.cycle`): `send` returns at once while the
client reads, waits while its buffer is full, and does nothing once it is gone; `receive` gives the
body and then waits for the end. What `send` was given before the end is what the socket accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from simulation.history import ClientLog, History
from simulation.scenario import SECRETS, KeyPlan, RequestPlan
from traghetto.pipeline.exchange import DISCONNECT_EXTENSION, Message, Scope

BUFFER_BYTES_MAX = 600
"""Unread bytes above which a slow reader's connection takes no more."""


class Connection:
    """One request on one connection."""

    def __init__(self, log: ClientLog, history: History) -> None:
        self._log = log
        self._plan = log.plan
        self._history = history
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._body_ended = False
        self._unread = 0
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._timers: list[asyncio.TimerHandle] = []
        self._on_disconnect: Callable[[], None] | None = None
        self.closed = False

    def open(self) -> None:
        """The client connects and sends."""
        plan, body = self._plan, self._plan.body()
        if plan.body_pause:
            middle = len(body) // 2
            self._take(body[:middle], last=False)
            self._later(plan.body_pause, self._take, body[middle:])
        else:
            self._take(body)
        if plan.leaves_after is not None:
            self._later(plan.leaves_after, self.leave)
        if plan.reads_every is not None:
            self._later(plan.reads_every, self._read_slowly)

    def call_on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """The server's extension of ASGI: tells of a disconnect at once."""
        self._on_disconnect = callback
        if callback is not None and self.closed:
            callback()

    async def receive(self) -> Message:
        if not (self.closed or self._log.completed):
            await self._arrived.wait()
            self._arrived.clear()
        if self.closed or self._log.completed:
            return {"type": "http.disconnect"}
        body, self._pieces = b"".join(self._pieces), []
        return {"type": "http.request", "body": body, "more_body": not self._body_ended}

    async def send(self, message: Message) -> None:
        if not self._drained.is_set() and not self.closed:
            await self._drained.wait()
        if self.closed:
            return
        log = self._log
        if log.completed:
            self._history.trouble(f"{log.request_id} was sent more than its answer")
        if message["type"] == "http.response.start":
            self._accept_head(message)
        else:
            self._accept(message["body"])
            if not message.get("more_body", False):
                log.completed = self._history.note("completed", log.request_id)
                self._arrived.set()
                self._stop_timers()

    def leave(self) -> None:
        """The client closes its connection."""
        if not (self.closed or self._log.completed):
            self._log.left = self._history.note("left", self._log.request_id)
            self._close()

    def cut(self) -> None:
        """The gateway's end of the connection dies."""
        if not (self.closed or self._log.completed):
            self._log.cut = self._history.note("cut", self._log.request_id)
            self._close()

    def _take(self, piece: bytes, last: bool = True) -> None:
        self._pieces.append(piece)
        self._body_ended = last
        self._arrived.set()

    def _accept_head(self, message: Message) -> None:
        log = self._log
        log.answers += 1
        log.status = message["status"]
        log.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        code = log.headers.get("x-error-code", "")
        log.first_byte = self._history.note("head", log.request_id, log.status, code)

    def _accept(self, body: bytes) -> None:
        log, plan = self._log, self._plan
        log.body += body
        self._history.note("accepted", log.request_id, len(body))
        if plan.reads_every is not None:
            self._unread += len(body)
            if self._unread > BUFFER_BYTES_MAX:
                self._drained.clear()
        if plan.leaves_at_byte is not None and len(log.body) > plan.leaves_at_byte:
            self._later(0.0, self.leave)

    def _read_slowly(self) -> None:
        self._unread = 0
        self._drained.set()
        assert self._plan.reads_every is not None
        self._later(self._plan.reads_every, self._read_slowly)

    def _later(self, seconds: float, act: Any, *arguments: Any) -> None:
        self._timers.append(self._loop.call_later(seconds, act, *arguments))

    def _close(self) -> None:
        self.closed = True
        self._arrived.set()
        if self._on_disconnect is not None:
            self._on_disconnect()
        self._drained.set()
        self._stop_timers()

    def _stop_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()


def scope_of(plan: RequestPlan, keys: tuple[KeyPlan, ...], connection: Connection) -> Scope:
    """The ASGI scope of a request."""
    secret = (
        "VENICE_INFERENCE_KEY_wrong" if plan.defect == "key" else SECRETS[keys[plan.key].number]
    )
    content_type = b"text/plain" if plan.defect == "type" else b"application/json"
    headers = [
        (b"host", b"gateway"),
        (b"content-type", content_type),
        (b"authorization", b"Bearer " + secret.encode()),
    ]
    if plan.idempotency_key is not None:
        headers.append((b"idempotency-key", plan.idempotency_key.encode()))
    return {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
        "client": ("192.0.2.1", 4711),
        "extensions": {DISCONNECT_EXTENSION: connection.call_on_disconnect},
    }
