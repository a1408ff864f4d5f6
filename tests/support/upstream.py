"""A backend that misbehaves to order: a raw socket server that scripts every byte of its answers.

An *act* is what the server does with one request, written as a coroutine over an `Exchange`. Acts are queued (one per request, for any model), or set for a model name, or as the
default; the queue goes first. Every request is recorded, with the time at which its connection was
closed by the gateway while the act was running.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

DONE = b"[DONE]"
CHUNKED = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}


@dataclass
class Request:
    """A request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    """The number of its connection: equal for requests that share one."""
    closed_by_peer_at: float | None = None
    """The event loop's time at which the gateway closed the connection during the act."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)

    @property
    def model(self) -> str | None:
        try:
            return self.json.get("model")
        except ValueError:
            return None

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)


class Exchange:
    """A request and the connection on which an act answers it."""

    def __init__(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer
        self.keeps_connection = True

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, headers: dict[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        await self.write("\r\n".join(lines).encode("latin-1"))

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.write(b"0\r\n\r\n")

    def fin(self) -> None:
        """Close the connection in the ordinary way after what was written."""
        self.keeps_connection = False
        self._writer.close()

    def reset(self) -> None:
        """Close the connection with RST; what was written may be lost."""
        self.keeps_connection = False
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def wait_closed_by_peer(self) -> None:
        await self.request.closed.wait()


Act = Callable[[Exchange], Awaitable[None]]


class FaultUpstream:
    """The server; `async with FaultUpstream() as upstream:`, then configure `upstream.url`."""

    def __init__(self, default: Act | None = None) -> None:
        self.default: Act = default or answer_completion()
        self.models_act: Act = answer_json({"object": "list", "data": [{"id": "m"}]})
        self.by_model: dict[str, Act] = {}
        self.queue: deque[Act] = deque()
        self.requests: list[Request] = []
        """Chat requests, in order."""
        self.other_requests: list[Request] = []
        """Requests for anything else."""
        self.by_path: dict[str, Act] = {}
        self.accept_act: Callable[[asyncio.StreamWriter], None] | None = None
        """What happens to a connection as it is accepted, instead of being served."""
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultUpstream:
        self.loop = asyncio.get_running_loop()
        await self._listen(0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def go_away(self) -> None:
        """Refuse connections and close those there are; called from another thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result(10)

    def come_back(self) -> None:
        """Listen again on the same port; called from another thread."""
        asyncio.run_coroutine_threadsafe(self._listen(self.port), self.loop).result(10)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, limit=64 << 20)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def then(self, *acts: Act) -> None:
        """Queue one act for each of the next requests."""
        self.queue.extend(acts)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        try:
            if self.accept_act is not None:
                self.accept_act(writer)
                return
            while (request := await _read_request(reader, number)) is not None:
                exchange = Exchange(request, reader, writer)
                await self._perform(exchange, self._act_for(request))
                if not exchange.keeps_connection:
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()

    def _act_for(self, request: Request) -> Act:
        path = request.path.partition("?")[0]
        if path in self.by_path:
            self.other_requests.append(request)
            return self.by_path[path]
        if path.endswith("/chat/completions"):
            self.requests.append(request)
            if self.queue:
                return self.queue.popleft()
            return self.by_model.get(request.model or "", self.default)
        self.other_requests.append(request)
        return self.models_act if path.endswith("/models") else answer(404, b"{}")

    async def _perform(self, exchange: Exchange, act: Act) -> None:
        """Run `act`, and notice the gateway's close while it runs."""
        watcher = asyncio.ensure_future(_watch_close(exchange))
        try:
            await act(exchange)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        if exchange.request.closed_by_peer_at is not None:
            exchange.keeps_connection = False


async def _watch_close(exchange: Exchange) -> None:
    # One request at a time comes on a connection, so that nothing but its end can arrive now.
    reader, request = exchange._reader, exchange.request
    while not reader.at_eof() and reader.exception() is None:
        if reader._buffer:
            return
        with contextlib.suppress(ConnectionError, RuntimeError):
            await reader._wait_for_data("watch")
    request.closed_by_peer_at = asyncio.get_running_loop().time()
    request.closed.set()


async def _read_request(reader: asyncio.StreamReader, number: int) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, path, _ = start.split(" ")
    headers = [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]
    length = next((int(v) for k, v in headers if k.lower() == "content-length"), 0)
    body = await reader.readexactly(length)
    return Request(method, path, headers, body, number)


@contextlib.contextmanager
def upstream_in_thread(default: Act | None = None) -> Iterator[FaultUpstream]:
    """An upstream with a thread and an event loop of its own, for tests that block as clients do."""
    upstream = FaultUpstream(default)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(upstream.__aenter__(), loop).result(10)
        yield upstream
    finally:
        asyncio.run_coroutine_threadsafe(upstream.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.asynccontextmanager
async def refusing_url() -> AsyncIterator[str]:
    """The URL of a port that refuses connections as long as the context lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


# --- good answers -----------------------------------------------------------------------------


def completion(
    content: str | None = "Hello.",
    *,
    model: str = "m",
    usage: Any = "usual",
    n: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """A `chat.completion` object; `usage=None` leaves it out; `more` goes to the top level."""
    body: dict[str, Any] = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "stop",
            }
            for i in range(n)
        ],
        **more,
    }
    if usage == "usual":
        usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    if usage is not None:
        body["usage"] = usage
    return body


def delta(
    content: str | None = None, *, finish: str | None = None, index: int = 0, **members: Any
) -> bytes:
    """The payload of one `chat.completion.chunk`."""
    inner: dict[str, Any] = dict(members)
    if content is not None:
        inner["content"] = content
    return json.dumps(
        {
            "id": "chatcmpl-upstream",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000,
            "model": "m",
            "choices": [{"index": index, "delta": inner, "finish_reason": finish}],
        },
        separators=(",", ":"),
    ).encode()


def usage_chunk(usage: Any = None) -> bytes:
    """The payload of the last chunk, with `choices: []`."""
    usage = usage or {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return json.dumps({"object": "chat.completion.chunk", "choices": [], "usage": usage}).encode()


def usual_events(*texts: str) -> list[bytes]:
    """Role, texts, finish reason, usage and `[DONE]`."""
    words = texts or ("Hel", "lo", ".")
    return [
        delta("", role="assistant"),
        *(delta(word) for word in words),
        delta(finish="stop"),
        usage_chunk(),
        DONE,
    ]


def answer(
    status: int,
    body: bytes = b"",
    *,
    content_type: str = "application/json",
    headers: dict[str, str] | None = None,
) -> Act:
    """One whole answer with a length."""

    async def act(exchange: Exchange) -> None:
        lengths = {"content-type": content_type, "content-length": str(len(body))}
        await exchange.head(status, lengths | (headers or {}))
        await exchange.write(body)

    return act


def answer_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Act:
    """One whole JSON answer; NaN and Infinity are written as Python does."""
    return answer(status, json.dumps(value).encode(), headers=headers)


def answer_completion(**arguments: Any) -> Act:
    """A good answer, as a stream if the request wants one."""

    async def act(exchange: Exchange) -> None:
        if exchange.request.json.get("stream"):
            await stream(usual_events())(exchange)
        else:
            await answer_json(completion(**arguments))(exchange)

    return act


def event(payload: bytes) -> bytes:
    """The bytes of one event."""
    return b"data: " + payload + b"\n\n"


def stream(
    payloads: Iterable[bytes], *, seconds: float = 0.0, then: Act | None = None, end: bool = True
) -> Act:
    """A chunked event stream, one chunk per event, `seconds` apart; `then` instead of the end."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, CHUNKED)
        for payload in payloads:
            if seconds:
                await asyncio.sleep(seconds)
            await exchange.chunk(event(payload))
        if then is not None:
            await then(exchange)
        elif end:
            await exchange.end()

    return act


def raw_stream(data: bytes, *, cut: int = 0, then: Act | None = None) -> Act:
    """An event stream of exactly these bytes, in chunks of `cut` bytes (0: one chunk)."""

    async def act(exchange: Exchange) -> None:
        await exchange.head(200, CHUNKED)
        step = cut or len(data)
        for start in range(0, len(data), step):
            await exchange.chunk(data[start : start + step])
            await asyncio.sleep(0)
        await (then(exchange) if then else exchange.end())

    return act


# --- faults -----------------------------------------------------------------------------------


async def close(exchange: Exchange) -> None:
    """FIN, here and now."""
    exchange.fin()


async def reset(exchange: Exchange) -> None:
    """RST, here and now."""
    # What was written before must have left, or the reset would overtake it.
    await asyncio.sleep(0.02)
    exchange.reset()


async def hang(exchange: Exchange) -> None:
    """Nothing, until the gateway gives up."""
    await exchange.wait_closed_by_peer()


async def bad_chunk(exchange: Exchange) -> None:
    """A chunk whose length is no number."""
    await asyncio.sleep(0.02)
    await exchange.write(b"zz\r\nxx\r\n")
    exchange.fin()


def later(data: bytes) -> Act:
    """These bytes as one chunk in a read of their own, then the proper end of the body."""

    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(0.02)
        await exchange.chunk(data)
        await exchange.end()

    return act


def slow_headers(seconds: float) -> Act:
    """A good answer whose header comes one byte at a time."""

    async def act(exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n":
                await exchange.write(bytes([byte]))
                await asyncio.sleep(seconds)
                if exchange.request.closed.is_set():
                    return

    return act


def truncated(body: bytes, *, length: int | None = None) -> Act:
    """JSON that stops early: with a `length` that promises more, or cleanly without one."""

    async def act(exchange: Exchange) -> None:
        headers = {"content-type": "application/json"}
        headers |= {"connection": "close"} if length is None else {"content-length": str(length)}
        await exchange.head(200, headers)
        await exchange.write(body)
        exchange.fin()

    return act


def oversized_header(size: int) -> Act:
    """A good answer with one header of `size` bytes."""
    return answer_json(completion(), headers={"x-large": "x" * size})


def many_headers(count: int) -> Act:
    """A good answer with `count` headers."""
    return answer_json(completion(), headers={f"x-{i}": "x" * 900 for i in range(count)})


def oversized_body(size: int) -> Act:
    """Chunked JSON of `size` bytes."""

    async def act(exchange: Exchange) -> None:
        headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
        await exchange.head(200, headers)
        with contextlib.suppress(ConnectionError):
            for _ in range(size // 65536 + 1):
                await exchange.chunk(b" " * 65536)
            await exchange.end()

    return act


def compressed() -> Act:
    """A gzip body although nobody accepts one."""
    return answer(200, b"\x1f\x8b\x08\x00", headers={"content-encoding": "gzip"})
