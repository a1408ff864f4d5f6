"""What the front door does with hostile, slow and broken connections, over raw sockets.

Every test runs the real server on a free loopback port with limits short enough to reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest

from traghetto.clock import SystemClock
from traghetto.endpoints.spec import Endpoint
from traghetto.http.dispatch import Dispatch, EdgeServices
from traghetto.http.front_door import FrontDoor, FrontDoorLimits
from traghetto.http.server import ServerOptions, running
from traghetto.pipeline.exchange import JSON_CONTENT, ClientGone, Exchange
from traghetto.pipeline.stages.receive import BodiesInFlight, Share, read_body

LIMITS = FrontDoorLimits(
    headers_seconds_max=0.25,
    body_grace_seconds=0.25,
    body_bytes_per_second_min=1_000_000,
    body_seconds_max=0.6,
    write_stall_seconds_max=0.3,
    keep_alive_seconds_max=0.4,
    linger_seconds_max=0.5,
)
BODY_BYTES_MAX = 1_000_000
LARGE_BYTES = 24 << 20
"""More than the buffers of any socket."""
GET = b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /v1/size HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@dataclass
class Seen:
    """What the test endpoints saw."""

    sizes: list[int] = field(default_factory=list)
    calls: int = 0
    gone: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Of the last call of `hello`."""


def dispatch_of(seen: Seen) -> Dispatch:
    bodies = BodiesInFlight(10_000_000)

    async def hello(exchange: Exchange, _: str) -> None:
        seen.calls += 1
        seen.headers = exchange.headers
        await exchange.answer(200, [JSON_CONTENT], b'{"hello":"%s"}' % exchange.query)

    async def size(exchange: Exchange, _: str) -> None:
        try:
            body = await read_body(exchange, BODY_BYTES_MAX, bodies, Share())
        except ClientGone:
            seen.gone += 1
            raise
        seen.sizes.append(len(body))
        await exchange.answer(200, [JSON_CONTENT], b"%d" % len(body))

    async def flood(exchange: Exchange, _: str) -> None:
        await exchange.start(200, [JSON_CONTENT])
        for _n in range(100_000):
            await exchange.write(b"x" * 65536, more=True)

    async def large(exchange: Exchange, _: str) -> None:
        await exchange.answer(200, [JSON_CONTENT], bytes(LARGE_BYTES))

    return Dispatch(
        [
            Endpoint("large", "GET", "/large", large),
            Endpoint("hello", "GET", "/hello", hello),
            Endpoint("size", "POST", "/size", size),
            Endpoint("flood", "GET", "/flood", flood),
        ],
        EdgeServices(SystemClock()),
    )


@dataclass
class Door:
    """A running server and how to reach it."""

    port: int
    seen: Seen

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, *parts: bytes) -> bytes:
        """Send `parts` and read until the server closes."""
        reader, writer = await self.connect()
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            return await asyncio.wait_for(reader.read(), 5)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def opened(
    limits: FrontDoorLimits = LIMITS, trusted_proxies: tuple[str, ...] = ()
) -> AsyncIterator[Door]:
    seen = Seen()
    options = ServerOptions(
        port=0, limits=limits, trusted_proxies=trusted_proxies, drain_seconds_max=1
    )
    async with running(dispatch_of(seen), options) as url:
        yield Door(int(url.rpartition(":")[2]), seen)


def run(test: Callable[[Door], Awaitable[None]], limits: FrontDoorLimits = LIMITS) -> None:
    async def main() -> None:
        async with opened(limits) as door:
            await test(door)

    asyncio.run(main())


def assert_refused(answer: bytes) -> None:
    """One answer, 400, in the shape of the contract, and the connection was closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert body == b'{"error":"Invalid request parameters"}'
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"connection"] == b"close"
    assert headers[b"content-type"] == b"application/json; charset=utf-8"
    assert headers[b"x-error-code"] == b"MALFORMED_HTTP"
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert headers[b"cf-ray"] == headers[b"x-request-id"] != b""
    assert b"date" in headers


SMUGGLED = b"GET /v1/hello?smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

PROBES = {
    "content-length and chunks": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "chunks and content-length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    + SMUGGLED,
    "bare line feeds": b"GET /v1/hello HTTP/1.1\nHost: a\n\n",
    "folded header": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nX: 1\r\n  2\r\n\r\n",
    "no host": b"GET /v1/hello HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two credentials": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n"
    b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "host with a path": b"GET /v1/hello HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "200 KB header": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "200 KB header without end": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000,
    "5,000 headers": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 5000 + b"\r\n",
    "long request line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "two content-lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "list of content-lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "signed content-length": POST + b"Content-Length: +2\r\n\r\n{}",
    "empty content-length": POST + b"Content-Length:\r\n\r\n{}",
    "unknown transfer coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two transfer codings": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two transfer-encodings": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/size HTTP/1.0\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "NUL in a header": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "lone CR in a header": b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "space before the colon": b"GET /v1/hello HTTP/1.1\r\nHost : a\r\n\r\n",
    "bad chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunk size with a prefix": POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "endless chunk extension": POST + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 400_000,
    "HTTP/0.9": b"GET /v1/hello\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0 in the request line": b"GET /v1/hello HTTP/2.0\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "space in the target": b"GET /v1/he llo HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
}


@pytest.mark.parametrize("probe", PROBES)
def test_an_ambiguous_request_is_refused_and_the_connection_closed(probe: str) -> None:
    """Two parsers could read it differently: 400, close, and nothing behind it is answered."""

    async def test(door: Door) -> None:
        assert_refused(await door.exchange(PROBES[probe]))
        assert door.seen.calls == 0
        assert door.seen.sizes == []

    run(test)


@pytest.mark.parametrize("probe", ["two hosts", "folded header", "200 KB header", "bad chunk size"])
def test_a_refusal_comes_after_the_answers_before_it(probe: str) -> None:
    """A malformed request behind a good one is refused in its turn."""

    async def test(door: Door) -> None:
        answer = await door.exchange(GET + PROBES[probe])
        first, _, second = answer.partition(b'{"hello":""}')
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert_refused(second)

    run(test)


def test_an_idle_connection_is_closed() -> None:
    """A client that connects and says nothing is cut at the header deadline, without an answer."""

    async def test(door: Door) -> None:
        began = time.monotonic()
        assert await door.exchange() == b""
        assert 0.2 < time.monotonic() - began < 2

    run(test)


def test_an_idle_kept_connection_is_closed() -> None:
    """After an answer the keep-alive deadline applies, not the header deadline."""

    async def test(door: Door) -> None:
        began = time.monotonic()
        assert (await door.exchange(GET)).count(b"HTTP/1.1 200") == 1
        assert 0.35 < time.monotonic() - began < 2

    run(test)


def test_a_header_that_trickles_is_refused() -> None:
    """The header deadline is absolute: bytes that keep coming do not extend it."""

    async def test(door: Door) -> None:
        reader, writer = await door.connect()
        began = time.monotonic()
        writer.write(b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n")
        read = asyncio.ensure_future(reader.read())
        while not read.done() and time.monotonic() - began < 3:
            with contextlib.suppress(OSError):
                writer.write(b"X: 1\r\n")
            await asyncio.wait({read}, timeout=0.05)
        assert_refused(await read)
        assert time.monotonic() - began < 2
        writer.close()

    run(test)


def test_a_second_request_that_trickles_is_refused() -> None:
    """The header deadline of a later request starts with its first byte."""

    async def test(door: Door) -> None:
        answer = await door.exchange(GET, b"GET /v1/hel")
        first, _, second = answer.partition(b'{"hello":""}')
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert_refused(second)

    run(test)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"]
)
def test_a_stalled_body_is_refused(framing: bytes) -> None:
    """A body below the floor rate after its grace ends in 400, and its handler learns of it."""

    async def test(door: Door) -> None:
        began = time.monotonic()
        assert_refused(await door.exchange(POST + framing))
        assert 0.2 < time.monotonic() - began < 2
        assert door.seen.gone == 1

    run(test)


def test_a_body_that_trickles_is_refused() -> None:
    """A body slower than the floor rate is cut although it never stops."""

    async def test(door: Door) -> None:
        reader, writer = await door.connect()
        began = time.monotonic()
        writer.write(POST + b"Content-Length: 100000\r\n\r\n")
        read = asyncio.ensure_future(reader.read())
        while not read.done() and time.monotonic() - began < 3:
            with contextlib.suppress(OSError):
                writer.write(b"x")
            await asyncio.wait({read}, timeout=0.02)
        assert_refused(await read)
        assert time.monotonic() - began < 2
        writer.close()

    run(test)


def test_a_client_that_does_not_read_is_cut() -> None:
    """A full write buffer that stays full ends the connection and the handler's stream."""

    async def test(door: Door) -> None:
        reader, writer = await door.connect()
        writer.write(b"GET /v1/flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.9)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):  # noqa: PT012
            while True:
                if not await reader.read(1 << 20):
                    raise ConnectionResetError
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    run(test)


def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests sent without waiting get their answers one after the other."""

    async def test(door: Door) -> None:
        requests = [b"GET /v1/hello?%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(10)]
        answer = await door.exchange(b"".join(requests))
        assert [answer.find(b'{"hello":"%d"}' % n) for n in range(10)] == sorted(
            answer.find(b'{"hello":"%d"}' % n) for n in range(10)
        )
        assert answer.count(b"HTTP/1.1 200 OK") == 10

    run(test)


def test_pipelining_is_bounded() -> None:
    """Requests beyond the bound are refused after those before them are answered."""

    async def test(door: Door) -> None:
        answer = await door.exchange(GET * 500)
        assert answer.count(b"HTTP/1.1 200 OK") == LIMITS.pipelined_requests_max + 1
        assert_refused(answer.rpartition(b'{"hello":""}')[2])

    run(test)


def test_nothing_behind_connection_close_is_answered() -> None:
    """A request after one that closes the connection is not a request."""

    async def test(door: Door) -> None:
        closing = b"GET /v1/hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await door.exchange(closing + SMUGGLED)
        assert answer.count(b"HTTP/1.1") == 1
        assert b"connection: close" in answer
        assert door.seen.calls == 1

    run(test)


def test_an_upgrade_is_ignored() -> None:
    """A wish for another protocol changes nothing; the body of such a request is read."""

    async def test(door: Door) -> None:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAE\r\n"
        first = b"GET /v1/hello HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n"
        second = POST + upgrade + b"Content-Length: 2\r\n\r\n{}"
        answer = await door.exchange(first + second + GET)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert door.seen.sizes == [2]

    run(test)


def test_trailers_are_not_headers() -> None:
    """Fields after a chunked body are dropped, even a second Host."""

    async def test(door: Door) -> None:
        body = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nHost: b\r\n\r\n"
        answer = await door.exchange(POST + body + GET)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert door.seen.sizes == [2]

    run(test)


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    """Spaces and tabs before and behind a header's value are left out, those within it are not."""

    async def test(door: Door) -> None:
        await door.exchange(GET[:-2] + b"A: \t a \tb\t \r\nB:\t \r\n\r\n")
        assert door.seen.headers == [(b"host", b"a"), (b"a", b"a \tb"), (b"b", b"")]

    run(test)


def test_http_1_0_is_answered_and_closed() -> None:
    """The old version needs no Host and gets no chunks."""

    async def test(door: Door) -> None:
        answer = await door.exchange(b"GET /v1/hello HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close" in answer

    run(test)


def test_connections_are_capped_by_address_and_in_all() -> None:
    """One connection too many is answered from the catalogue and closed."""

    async def by_address(door: Door) -> None:
        _, one = await door.connect()
        _, two = await door.connect()
        await asyncio.sleep(0.05)
        assert b"HTTP/1.1 429 Too Many Requests" in await door.exchange()
        one.close()
        two.close()
        await asyncio.sleep(0.05)
        assert b"HTTP/1.1 200 OK" in await door.exchange(GET)

    async def in_all(door: Door) -> None:
        _, one = await door.connect()
        await asyncio.sleep(0.05)
        assert b"HTTP/1.1 503 Service Unavailable" in await door.exchange()
        one.close()

    run(by_address, replace(LIMITS, connections_per_address_max=2, headers_seconds_max=5))
    run(in_all, replace(LIMITS, connections_max=1, headers_seconds_max=5))


def test_an_early_answer_reaches_a_client_that_is_still_sending() -> None:
    """A large body refused unread: the client gets the whole 413 although it sends on."""

    async def test(door: Door) -> None:
        reader, writer = await door.connect()
        writer.write(POST + b"Content-Length: 20000000\r\n\r\n")
        for _ in range(20):
            with contextlib.suppress(OSError):
                writer.write(b"x" * 1_000_000)
                await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer
        assert answer.endswith(b'Please reduce the size of your request."}')
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    run(test)


def test_a_small_unread_body_does_not_cost_the_connection() -> None:
    """An early answer before a short body: the body is read away and the next request served."""

    async def test(door: Door) -> None:
        early = b"POST /v1/size HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
        answer = await door.exchange(early, b"0123456789" + GET)
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert b"HTTP/1.1 200 OK" in answer

    run(test)


def test_expect_100_continue_is_asked_only_when_the_body_is_read() -> None:
    """A refusal answers instead of `100 Continue`; a reader asks for the body."""

    async def test(door: Door) -> None:
        expect = POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        answer = await door.exchange(expect, b"{}")
        assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        refused = b"POST /v1/size HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        answer = await door.exchange(refused)
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert b"connection: close" in answer

    run(test)


def test_the_believed_client_address_is_the_rightmost_untrusted_one() -> None:
    """`X-Forwarded-For` counts as far as trusted proxies wrote it."""
    door = FrontDoor(FrontDoorLimits(), trusted_proxies=["127.0.0.0/8", "10.0.0.1"])
    cases = [
        ([b"203.0.113.7"], "203.0.113.7"),
        ([b"1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        ([b"203.0.113.7, 10.0.0.1"], "203.0.113.7"),
        ([b"203.0.113.7", b"10.0.0.1"], "203.0.113.7"),
        ([b"10.0.0.1"], "10.0.0.1"),
        ([b"203.0.113.7, nonsense"], "127.0.0.1"),
        ([b"203.0.113.7, nonsense, 10.0.0.1"], "10.0.0.1"),
        ([b"::ffff:203.0.113.7"], "203.0.113.7"),
        ([b"[2001:db8::1]"], "2001:db8::1"),
        ([b""], "127.0.0.1"),
    ]
    for header, client in cases:
        assert door.forwarded_client("127.0.0.1", header) == client
    assert door.trusts("10.0.0.1")
    assert not door.trusts("10.0.0.2")


def test_a_client_that_reads_slowly_gets_all_of_a_large_answer() -> None:
    """It is not one that reads nothing, however long the whole takes."""

    async def test() -> None:
        async with opened() as door:
            with socket.create_connection(("127.0.0.1", door.port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
                connection.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(connection, GET.replace(b"hello", b"large"))
                received = 0
                while received < LARGE_BYTES:
                    piece = await loop.sock_recv(connection, 1 << 18)
                    assert piece, f"cut after {received} bytes"
                    received += len(piece)
                    await asyncio.sleep(0.01)

    asyncio.run(test())
