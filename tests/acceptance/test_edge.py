"""What every answer of the edge has, and how failures of any kind become answers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from traghetto.clock import SystemClock
from traghetto.endpoints.spec import Endpoint
from traghetto.errors import ApiError, ErrorCode
from traghetto.http.dispatch import Dispatch, EdgeServices
from traghetto.http.server import ServerOptions, running
from traghetto.pipeline.exchange import JSON_CONTENT, Exchange
from traghetto.pipeline.stages.receive import BodiesInFlight, Share, read_body
from traghetto.telemetry import Metrics

BODY_BYTES_MAX = 100_000
JSON_TYPE = {"Content-Type": "application/json"}


class Stage:
    """Test endpoints, and what happened to them."""

    def __init__(self) -> None:
        self.bodies = BodiesInFlight(BODY_BYTES_MAX)
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.started = 0
        self.stopped = 0

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("hello", "GET", "/hello", self.hello),
            Endpoint("item", "GET", "/items/{id}", self.item),
            Endpoint("special", "GET", "/items/special", self.hello),
            Endpoint("size", "POST", "/size", self.size),
            Endpoint("crash", "GET", "/crash", self.crash),
            Endpoint("refuse", "GET", "/refuse", self.refuse),
            Endpoint("silent", "GET", "/silent", self.silent),
            Endpoint("late", "GET", "/late", self.late),
            Endpoint("address", "GET", "/address", self.address),
            Endpoint("slow", "GET", "/slow", self.slow),
            Endpoint("forged", "GET", "/forged", self.forged),
        ]

    async def hello(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(200, [JSON_CONTENT], b'{"hello":true}')

    async def item(self, exchange: Exchange, item: str) -> None:
        await exchange.answer(200, [JSON_CONTENT], json.dumps(item).encode())

    async def size(self, exchange: Exchange, _: str) -> None:
        share = Share()
        try:
            body = await read_body(exchange, BODY_BYTES_MAX, self.bodies, share)
            await exchange.answer(200, [JSON_CONTENT], b"%d" % len(body))
        finally:
            self.bodies.release(share)

    async def crash(self, exchange: Exchange, _: str) -> None:
        exchange.model = "a-model"
        try:
            int("the user's secret prompt")
        except ValueError as error:
            raise KeyError("another secret") from error

    async def refuse(self, exchange: Exchange, _: str) -> None:
        exchange.openai_errors = exchange.query == b"openai"
        raise ApiError(ErrorCode.MODEL_NOT_FOUND)

    async def silent(self, exchange: Exchange, _: str) -> None:
        """Returns without an answer, which is a bug."""

    async def late(self, exchange: Exchange, _: str) -> None:
        await exchange.start(200, [JSON_CONTENT])
        await exchange.write(b'{"part":', more=True)
        raise ValueError("after the first byte")

    async def address(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(200, [JSON_CONTENT], json.dumps(exchange.client_address).encode())

    async def slow(self, exchange: Exchange, _: str) -> None:
        self.entered.set()
        try:
            with exchange.watch_disconnect():
                await asyncio.sleep(0.3 if exchange.query == b"short" else 20)
        except BaseException:
            self.cancelled.set()
            raise
        await exchange.answer(200, [JSON_CONTENT], b"{}")

    async def forged(self, exchange: Exchange, _: str) -> None:
        exchange.answer_headers.append((b"x-venice-model-name", b"a\r\nset-cookie: b"))
        await exchange.answer(200, [JSON_CONTENT], b"{}")

    async def startup(self) -> None:
        self.started += 1

    async def shutdown(self) -> None:
        self.stopped += 1


class Client:
    """A blocking client of the server, on a thread of its own; one connection."""

    def __init__(self, url: str) -> None:
        self.port = int(url.rpartition(":")[2])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        def blocking() -> tuple[http.client.HTTPResponse, bytes]:
            self.connection.request(
                method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes | None)
            )
            response = self.connection.getresponse()
            return response, response.read()

        response, content = await asyncio.to_thread(blocking)
        assert response.headers["cf-ray"] == response.headers["x-request-id"]
        assert len(response.headers["cf-ray"]) == 32
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-venice-version"]
        assert response.headers["x-venice-timestamp"].endswith("Z")
        assert response.headers["date"]
        assert "server" not in response.headers
        return response, content


class Running:
    """A running edge, the stage behind it and a client in front of it."""

    def __init__(self, url: str, stage: Stage, dispatch: Dispatch) -> None:
        self.url = url
        self.stage = stage
        self.dispatch = dispatch
        self.client = Client(url)


@contextlib.asynccontextmanager
async def edge(options: ServerOptions | None = None, **services: Any) -> AsyncIterator[Running]:
    stage = Stage()
    dispatch = Dispatch(
        stage.endpoints(),
        EdgeServices(SystemClock(), startup=stage.startup, shutdown=stage.shutdown, **services),
    )
    async with running(dispatch, options or ServerOptions(port=0, drain_seconds_max=0.5)) as url:
        edge = Running(url, stage, dispatch)
        try:
            yield edge
        finally:
            edge.client.connection.close()


def run(
    test: Callable[[Running], Any], options: ServerOptions | None = None, **services: Any
) -> None:
    async def main() -> None:
        async with edge(options, **services) as at:
            await test(at)

    asyncio.run(main())


def records(captured: str) -> list[dict[str, Any]]:
    """The failures that were logged."""
    lines = [json.loads(line) for line in captured.splitlines()]
    return [line for line in lines if line["event"] == "request_failed"]


def test_every_endpoint_is_served_below_both_bases() -> None:
    """`/api/v1` and `/v1` are the same API."""

    async def test(at: Running) -> None:
        for base in ("/api/v1", "/v1"):
            response, body = await at.client.ask("GET", base + "/hello")
            assert (response.status, body) == (200, b'{"hello":true}')

    run(test)


def test_a_path_parameter_takes_the_rest_of_the_path() -> None:
    """Model ids contain slashes, encoded or not; a fixed path wins over the parameter."""

    async def test(at: Running) -> None:
        for path, item in (("a", "a"), ("a/b", "a/b"), ("a%2Fb", "a/b"), ("%C3%A9", "é")):
            response, body = await at.client.ask("GET", "/v1/items/" + path)
            assert json.loads(body) == item
        response, body = await at.client.ask("GET", "/v1/items/special")
        assert body == b'{"hello":true}'
        response, body = await at.client.ask("GET", "/v1/items/")
        assert response.status == 404

    run(test)


def test_unknown_routes_and_methods_have_catalogue_answers(capfd: Any) -> None:
    """404 and 405 are B1 bodies; 405 says what is allowed; neither is logged."""

    async def test(at: Running) -> None:
        for path in ("/", "/v1", "/v1/nothing", "/v1/hello/", "/V1/hello", "/api/v1//hello"):
            response, body = await at.client.ask("GET", path)
            assert (response.status, body) == (404, b'{"error":"Not found"}')
            assert response.headers["x-error-code"] == "ROUTE_NOT_FOUND"
        response, body = await at.client.ask("DELETE", "/v1/hello")
        assert (response.status, body) == (405, b'{"error":"Method not allowed"}')
        assert response.headers["allow"] == "GET, HEAD"
        response, _ = await at.client.ask("OPTIONS", "/v1/size")
        assert (response.status, response.headers["allow"]) == (405, "POST")

    run(test)
    assert records(capfd.readouterr().err) == []


def test_head_is_get_without_the_body() -> None:
    """HEAD has the headers of GET, its content-length included, also for errors."""

    async def test(at: Running) -> None:
        response, body = await at.client.ask("HEAD", "/v1/hello")
        assert (response.status, body, response.headers["content-length"]) == (200, b"", "14")
        response, body = await at.client.ask("HEAD", "/v1/nothing")
        assert (response.status, body) == (404, b"")
        response, body = await at.client.ask("GET", "/v1/hello")
        assert response.status == 200

    run(test)


def test_a_crash_is_an_unknown_error_logged_once_without_its_words(capfd: Any) -> None:
    """A bug answers UNKNOWN_ERROR; the log has types and places, never a foreign message."""

    async def test(at: Running) -> None:
        for path in ("/v1/crash", "/v1/silent"):
            response, body = await at.client.ask("GET", path)
            assert response.status == 500
            assert json.loads(body).keys() == {"error"}
            assert response.headers["x-error-code"] == "UNKNOWN_ERROR"
        assert at.client.connection.sock is not None, "the connection is kept"

    run(test)
    captured = capfd.readouterr().err
    crash, silent = records(captured)
    assert crash["level"] == "error"
    assert crash["code"] == "UNKNOWN_ERROR"
    assert crash["model"] == "a-model"
    assert [cause.partition(":")[0] for cause in crash["causes"]] == [
        "ApiError",
        "KeyError",
        "ValueError",
    ]
    assert silent["endpoint"] == "silent"
    assert "secret" not in captured


def test_a_failure_after_the_first_byte_cuts_the_connection(capfd: Any) -> None:
    """An answer that cannot be completed is visibly incomplete, and logged once."""

    async def test(at: Running) -> None:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            await at.client.ask("GET", "/v1/late")

    run(test)
    assert len(records(capfd.readouterr().err)) == 1


def test_a_header_with_a_line_break_is_never_sent(capfd: Any) -> None:
    """A value that would forge a header ends in a cut connection, not in an answer."""

    async def test(at: Running) -> None:
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            await at.client.ask("GET", "/v1/forged")

    run(test)
    assert len(records(capfd.readouterr().err)) == 1


def test_errors_follow_the_callers_style() -> None:
    """A key may ask for OpenAI error objects; the default is the plain body."""

    async def test(at: Running) -> None:
        response, body = await at.client.ask("GET", "/v1/refuse")
        assert (response.status, body) == (404, b'{"error":"Specified model not found"}')
        response, body = await at.client.ask("GET", "/v1/refuse?openai")
        assert json.loads(body)["error"]["code"] == "MODEL_NOT_FOUND"

    run(test)


def chunks(total: int, size: int = 10_000) -> Any:
    """A body of `total` bytes in chunks."""
    return iter([b" " * size] * (total // size))


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", JSON_TYPE, 200),
        (b"{}", {"Content-Type": "Application/JSON; Charset=UTF-8"}, 200),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "identity"}, 200),
        (b" " * BODY_BYTES_MAX, JSON_TYPE, 200),
        (b" " * (BODY_BYTES_MAX + 1), JSON_TYPE, 413),
        (b" " * (BODY_BYTES_MAX + 1), {"Content-Type": "text/plain"}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415),
        (b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        (b"{}", {}, 415),
        (b"", JSON_TYPE, 400),
    ],
)
def test_a_body_is_judged_by_size_then_type_then_syntax(
    body: bytes, headers: dict[str, str], status: int
) -> None:
    """The first of steps 2 to 4 that fails decides, and the next connection works."""

    async def test(at: Running) -> None:
        response, _ = await at.client.ask("POST", "/v1/size", body, headers)
        assert response.status == status
        response, _ = await at.client.ask("GET", "/v1/hello")
        assert response.status == 200
        assert at.stage.bodies.bytes == 0

    run(test)


def test_a_chunked_body_is_counted_while_it_arrives() -> None:
    """Without a declared length the limit applies to what comes."""

    async def test(at: Running) -> None:
        headers = {**JSON_TYPE, "Transfer-Encoding": "chunked"}
        response, body = await at.client.ask("POST", "/v1/size", chunks(90_000), headers)
        assert (response.status, body) == (200, b"90000")
        response, body = await at.client.ask("POST", "/v1/size", chunks(3_000_000), headers)
        assert response.status == 413
        assert json.loads(body)["code"] == "PAYLOAD_TOO_LARGE"

    run(test)


def test_bodies_beyond_the_room_wait_and_then_succeed() -> None:
    """More bodies than fit in memory at once are all read, none is refused."""

    async def test(at: Running) -> None:
        async def upload() -> int:
            client = Client(at.url)
            headers = {**JSON_TYPE, "Transfer-Encoding": "chunked"}
            response, _ = await client.ask("POST", "/v1/size", chunks(100_000), headers)
            client.connection.close()
            return response.status

        assert await asyncio.gather(*(upload() for _ in range(8))) == [200] * 8
        assert at.stage.bodies.bytes == 0

    run(test)


def test_the_reader_that_began_first_always_finishes() -> None:
    """Unfinished bodies that fill the room cannot block one another for ever."""

    async def main() -> None:
        bodies = BodiesInFlight(100)
        first, second = Share(), Share()
        bodies.take(first, 60)
        await bodies.room(first)
        bodies.take(second, 60)
        waiting = asyncio.ensure_future(bodies.room(second))
        await asyncio.sleep(0)
        await asyncio.wait_for(bodies.room(first), 1)
        assert not waiting.done()
        bodies.take(first, 30)
        bodies.complete(first)
        await asyncio.sleep(0)
        assert not waiting.done(), "complete bodies and its own leave no room"
        bodies.release(first)
        await asyncio.wait_for(waiting, 1)
        bodies.release(second)
        assert bodies.bytes == 0

    asyncio.run(main())


def test_nobody_waits_for_room_for_ever() -> None:
    """What others hold may take minutes; a client is told to come back instead."""

    async def main() -> None:
        bodies = BodiesInFlight(100, wait_seconds_max=0.05)
        long, short = Share(), Share()
        bodies.take(long, 120)
        bodies.complete(long)
        bodies.take(short, 10)
        with pytest.raises(ApiError) as refused:
            await bodies.room(short)
        assert refused.value.code is ErrorCode.MODEL_AT_CAPACITY
        bodies.release(short)
        bodies.release(long)
        assert bodies.bytes == 0

    asyncio.run(main())


def test_a_body_that_fills_all_the_room_goes_on() -> None:
    """A lone body never waits for room that only its own end could make."""

    async def main() -> None:
        bodies, share = BodiesInFlight(100), Share()
        bodies.take(share, 100)
        await asyncio.wait_for(bodies.room(share), 1)

    asyncio.run(main())


def test_a_client_that_leaves_cancels_its_handler() -> None:
    """The disconnect reaches a handler that waits, at once, and counts as 499."""

    async def test(at: Running) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", at.client.port)
        writer.write(b"GET /v1/slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await at.stage.entered.wait()
        writer.close()
        await asyncio.wait_for(at.stage.cancelled.wait(), 1)
        await asyncio.sleep(0.01)
        exposition = at.dispatch.edge.metrics.exposition().decode()
        assert 'traghetto_requests_total{code="",endpoint="slow",status="499"} 1.0' in exposition
        assert "traghetto_requests_in_flight 0.0" in exposition

    run(test)


def test_a_drain_lets_requests_finish_and_cancels_the_rest() -> None:
    """Leaving the server waits for a short request, cancels a long one, then stops the app."""

    async def main() -> None:
        options = ServerOptions(port=0, drain_seconds_max=0.8)
        async with edge(options) as at:
            short = asyncio.ensure_future(at.client.ask("GET", "/v1/slow?short"))
            await at.stage.entered.wait()
            long = asyncio.ensure_future(Client(at.url).ask("GET", "/v1/slow"))
            while at.dispatch.edge.metrics.in_flight < 2:
                await asyncio.sleep(0.01)
            assert at.stage.started == 1
        response, _ = await short
        assert response.status == 200
        assert response.headers["connection"] == "close"
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            await long
        assert at.stage.cancelled.is_set()
        assert at.stage.stopped == 1
        assert at.dispatch.edge.metrics.in_flight == 0

    asyncio.run(main())


def test_an_application_that_does_not_start_is_an_error() -> None:
    """A failing start-up raises in the embedding process, which need not read a log."""

    async def fail() -> None:
        raise ValueError("no store")

    async def main() -> None:
        dispatch = Dispatch([], EdgeServices(SystemClock(), startup=fail))
        async with running(dispatch):
            pass

    with pytest.raises(RuntimeError, match="did not start"):
        asyncio.run(main())


def test_health_says_alive_ready_and_draining() -> None:
    """Liveness does not depend on readiness; a draining server is not ready."""

    async def test(at: Running) -> None:
        response, body = await at.client.ask("GET", "/health/live")
        assert (response.status, body) == (200, b'{"status":"live"}')
        response, body = await at.client.ask("GET", "/health/ready")
        assert (response.status, body) == (200, b'{"status":"ready"}')
        at.dispatch.draining = True
        response, body = await at.client.ask("GET", "/health/ready")
        assert (response.status, body) == (503, b'{"status":"draining"}')

    run(test)


def test_metrics_are_for_this_machine_or_an_admin() -> None:
    """Whatever came through a proxy needs an admin key, also if the proxy runs here."""

    async def test(at: Running) -> None:
        await at.client.ask("GET", "/v1/refuse")
        response, body = await at.client.ask("GET", "/metrics")
        assert response.status == 200
        assert b'code="MODEL_NOT_FOUND",endpoint="refuse",status="404"} 1.0' in body
        assert b"traghetto_connections_open 1.0" in body
        forwarded = {"X-Forwarded-For": "127.0.0.1"}
        response, _ = await at.client.ask("GET", "/metrics", headers=forwarded)
        assert response.status == 401
        assert response.headers["x-error-code"] == "ADMIN_KEY_REQUIRED"

    run(test)

    async def authorised(at: Running) -> None:
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        response, _ = await at.client.ask("GET", "/metrics", headers=forwarded)
        assert response.status == 200

    run(authorised, authorise_metrics=lambda _: None)


@pytest.mark.parametrize(
    ("trusted", "address"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.7")]
)
def test_a_forwarded_address_counts_only_from_a_trusted_proxy(
    trusted: tuple[str, ...], address: str
) -> None:
    """Anybody can send `X-Forwarded-For`; by default it changes nothing."""

    async def test(at: Running) -> None:
        headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
        _, body = await at.client.ask("GET", "/v1/address", headers=headers)
        assert json.loads(body) == address
        _, body = await at.client.ask("GET", "/v1/address")
        assert json.loads(body) == "127.0.0.1"

    run(test, ServerOptions(port=0, trusted_proxies=trusted, drain_seconds_max=0.5))


def test_cors_is_off_unless_origins_are_named() -> None:
    """Without origins there is no CORS header; with them only for those."""
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}

    async def off(at: Running) -> None:
        response, _ = await at.client.ask("OPTIONS", "/v1/size", headers=preflight)
        assert response.status == 405
        assert "access-control-allow-origin" not in response.headers

    async def on(at: Running) -> None:
        wish = {**preflight, "Access-Control-Request-Headers": "authorization,content-type"}
        response, body = await at.client.ask("OPTIONS", "/v1/size", headers=wish)
        assert (response.status, body) == (200, b"")
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "authorization" in response.headers["access-control-allow-headers"]
        response, _ = await at.client.ask("GET", "/v1/nothing", headers=preflight)
        assert response.status == 404
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-error-code" in response.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in response.headers
        other = {**preflight, "Origin": "https://b.example"}
        response, body = await at.client.ask("OPTIONS", "/v1/size", headers=other)
        assert (response.status, body) == (405, b'{"error":"Method not allowed"}')
        assert "access-control-allow-origin" not in response.headers

    run(off)
    run(
        on,
        ServerOptions(port=0, cors_origins=("https://a.example",), drain_seconds_max=0.5),
    )


def test_access_records_are_written_only_when_asked_for(capfd: Any) -> None:
    """An access record names the endpoint and never the query, which may hold secrets."""

    async def test(at: Running) -> None:
        await at.client.ask("GET", "/v1/hello?secret")

    run(test)
    assert '"event":"request"' not in capfd.readouterr().err
    run(test, access_log=True)
    captured = capfd.readouterr().err
    assert '"endpoint":"hello"' in captured
    assert "secret" not in captured


def test_two_endpoints_cannot_share_a_route() -> None:
    """A table with a duplicate does not become a server."""
    stage = Stage()
    twice = [Endpoint("one", "GET", "/a", stage.hello), Endpoint("two", "GET", "/a", stage.hello)]
    with pytest.raises(ValueError, match="two endpoints"):
        Dispatch(twice, EdgeServices(SystemClock(), Metrics()))
    with pytest.raises(ValueError, match="trailing parameter"):
        Endpoint("bad", "GET", "/a/{id}/b", stage.hello)


SERVED = """
import asyncio
from traghetto.clock import SystemClock
from traghetto.endpoints.spec import Endpoint
from traghetto.http.dispatch import Dispatch, EdgeServices
from traghetto.http.server import ServerOptions, serve
from traghetto.pipeline.exchange import JSON_CONTENT

async def slow(exchange, _):
    print("entered", flush=True)
    await asyncio.sleep(0.5)
    await exchange.answer(200, [JSON_CONTENT], b"{}")

asyncio.run(serve(
    Dispatch([Endpoint("slow", "GET", "/slow", slow)], EdgeServices(SystemClock())),
    ServerOptions(port=0),
    on_started=lambda url: print(url, flush=True),
    on_reload=lambda: print("reloaded", flush=True),
))
print("returned", flush=True)
"""


def test_signals_reload_and_drain_the_process() -> None:
    """SIGHUP reloads; SIGTERM lets the open request finish and the process ends with 0."""
    process = subprocess.Popen([sys.executable, "-c", SERVED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, contextlib.closing(process.stdout) as out:
        try:
            port = int(out.readline().strip().rpartition(":")[2])
            os.kill(process.pid, signal.SIGHUP)
            assert out.readline() == "reloaded\n"
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            statuses: list[int] = []

            def ask() -> None:
                connection.request("GET", "/v1/slow")
                statuses.append(connection.getresponse().status)

            asking = threading.Thread(target=ask)
            asking.start()
            assert out.readline() == "entered\n"
            os.kill(process.pid, signal.SIGTERM)
            asking.join(5)
            assert statuses == [200]
            assert out.readline() == "returned\n"
            assert process.wait(5) == 0
            connection.close()
        finally:
            process.kill()
