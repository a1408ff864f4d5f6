"""One request and its answer, over the three ASGI callables.

The HTTP edge makes an `Exchange` per request; stages read from it, add headers that belong on the
answer whatever it turns out to be, and one of them sends the answer. It also knows what a client
has certainly not seen: `response_started` decides whether a failure is an HTTP answer or a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from types import TracebackType
from typing import Any, Final

from traghetto import CONTRACT_VERSION
from traghetto.clock import Clock, iso8601
from traghetto.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
CallOnDisconnect = Callable[[Callable[[], None] | None], None]

_VERSION: Final = (b"x-venice-version", CONTRACT_VERSION.encode())
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
DISCONNECT_EXTENSION: Final = "traghetto.disconnect"
"""Our server's ASGI extension: a function that registers a callback for the disconnect."""
STATUS_OK: Final = 200
SLICE_BYTES: Final = 1 << 18
JSON_CONTENT: Final = (b"content-type", b"application/json; charset=utf-8")


def common_headers(request_id: str, clock: Clock) -> tuple[Header, ...]:
    """The headers that every answer has, whatever it is (contract C.1)."""
    encoded_id = request_id.encode()
    return (
        (b"cf-ray", encoded_id),
        (b"x-request-id", encoded_id),
        _VERSION,
        (b"x-venice-timestamp", iso8601(clock.utc_ns()).encode()),
        _NOSNIFF,
    )


class ClientGone(Exception):
    """The client closed its connection; nobody is left to answer."""


class Exchange:
    """A request being answered.

    Attributes are set once, at the edge, except `answer_headers`, which stages append to, and
    those whose text says when they are set.
    """

    __slots__ = (
        "answer_headers",
        "call_on_disconnect",
        "client_address",
        "clock",
        "endpoint",
        "headers",
        "method",
        "model",
        "openai_errors",
        "path",
        "path_parameter",
        "query",
        "rate_headers",
        "receive",
        "received_monotonic",
        "request_id",
        "response_started",
        "send",
        "status",
        "stream_error",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, request_id: str, clock: Clock
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        self.headers: list[Header] = scope["headers"]
        """Lower-case names, in the order received."""
        client = scope.get("client")
        self.client_address: str = client[0] if client else ""
        extensions = scope.get("extensions") or {}
        self.call_on_disconnect: CallOnDisconnect | None = extensions.get(DISCONNECT_EXTENSION)
        self.receive = receive
        self.send = send
        self.request_id = request_id
        self.clock = clock
        self.received_monotonic = clock.monotonic()
        self.endpoint = ""
        """The name of the endpoint that answers; set by the edge once it is found."""
        self.path_parameter = ""
        """What stands in the place of the endpoint's path parameter, where it has one."""
        self.answer_headers: list[Header] = []
        self.rate_headers: Callable[[], list[Header]] = list
        """The rate limit headers as they are when the answer begins; set once admitted."""
        self.response_started = False
        self.model: str | None = None
        """The resolved model, for logs and metrics; set by the stage that resolves it."""
        self.openai_errors = False
        """Whether the caller's key asks for errors as OpenAI objects; set once authenticated."""
        self.status = 0
        """The status sent, for metrics and the access record; 0 before the answer."""
        self.stream_error: ApiError | None = None
        """An error that was answered inside a stream; the edge logs and counts it like others."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of a request header (`name` in lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send the status line and headers; the common ones and `answer_headers` are added."""
        self.response_started = True
        self.status = status
        await self.send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *headers,
                    *common_headers(self.request_id, self.clock),
                    *self.answer_headers,
                    *self.rate_headers(),
                ],
            }
        )

    async def write(self, body: bytes, *, more: bool) -> None:
        """Send a piece of the body; waits while the client reads too slowly."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, headers: Iterable[Header], body: bytes) -> None:
        """Send a whole answer.

        A large one goes in slices, each when the client has taken the ones before: so nothing of it
        waits twice, and who reads slowly is not taken for who does not read.
        """
        length = (b"content-length", b"%d" % len(body))
        await self.start(status, [length, *headers])
        if self.method == "HEAD":
            body = b""
        view, sent = memoryview(body), 0
        while len(body) - sent > SLICE_BYTES:
            await self.write(bytes(view[sent : sent + SLICE_BYTES]), more=True)
            sent += SLICE_BYTES
            await asyncio.sleep(0)  # others have a turn, and a lost connection is noticed
        await self.write(body if sent == 0 else bytes(view[sent:]), more=False)

    def watch_disconnect(self) -> DisconnectWatch:
        """A context in which the client's disconnect cancels the current task."""
        return DisconnectWatch(self.receive, self.call_on_disconnect)


class DisconnectWatch:
    """Cancels the task that entered it when the client disconnects, and says so.

    Entering it raises `ClientGone` if the client has gone already. Leaving it after such a
    cancellation raises `ClientGone` instead of `CancelledError`; any other cancellation passes
    through. Enter it only after the body has been read.
    """

    __slots__ = ("_call_on_disconnect", "_is_entered", "_receive", "_task", "_watcher", "gone")

    def __init__(self, receive: Receive, call_on_disconnect: CallOnDisconnect | None) -> None:
        """`call_on_disconnect` is used where the server has it; a task waits elsewhere."""
        self._receive = receive
        self._call_on_disconnect = call_on_disconnect
        self._watcher: asyncio.Task[None] | None = None
        self._is_entered = False
        self.gone = False

    def __enter__(self) -> DisconnectWatch:
        task = asyncio.current_task()
        assert task is not None, "a disconnect is watched from within a task"
        self._task = task
        if self._call_on_disconnect is not None:
            self._call_on_disconnect(self._leave)
            if self.gone:  # already: there is nothing to be cancelled yet
                self._call_on_disconnect(None)
                raise ClientGone
        else:
            self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._is_entered = True
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._call_on_disconnect is not None:
            self._call_on_disconnect(None)
        if self._watcher is not None:
            self._watcher.cancel()
        if self.gone and isinstance(exc, asyncio.CancelledError) and self._task.uncancel() == 0:
            raise ClientGone from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self.gone = True
        if self._is_entered:
            self._task.cancel()
