"""The server's life: binding, accepting, draining, and signals.

Invariant: when `serve` returns, every request has ended (answered or cancelled, its `finally`
run) before the application's shutdown, so that what the shutdown closes is used by nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import uvicorn

from traghetto.http.dispatch import EdgeServices
from traghetto.http.front_door import FrontDoor, FrontDoorLimits
from traghetto.http.protocol import Connection
from traghetto.pipeline.exchange import Receive, Scope, Send
from traghetto.settings import Settings
from traghetto.telemetry import log_event

BACKLOG: int = 2048
"""Connections the kernel holds before they are accepted."""

CANCEL_SECONDS_MAX: float = 10.0
"""How long cancelled requests may take to settle at the end of a drain."""


class Application(Protocol):
    """What is served: a `Dispatch`, or what stands for a changing one."""

    draining: bool

    @property
    def edge(self) -> EdgeServices:
        """What the connections share with it; read once, when the server is made."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        ...


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve."""

    host: str = "127.0.0.1"
    port: int = 8420
    """0 lets the operating system choose."""
    drain_seconds_max: float = 30.0
    trusted_proxies: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    limits: FrontDoorLimits = field(default_factory=FrontDoorLimits)

    @classmethod
    def of(cls, settings: Settings) -> ServerOptions:
        """How an operator wants it."""
        return cls(
            host=settings.host,
            port=settings.port,
            drain_seconds_max=settings.drain_seconds_max,
            trusted_proxies=settings.trusted_proxies,
            cors_origins=settings.cors_origins,
            limits=FrontDoorLimits.of(settings),
        )


class Server(uvicorn.Server):
    """uvicorn's server with our connections, signals and drain."""

    def __init__(self, dispatch: Application, options: ServerOptions) -> None:
        """Raises ValueError for a trusted proxy that is not an address or network."""
        edge = dispatch.edge
        door = FrontDoor(
            options.limits,
            trusted_proxies=options.trusted_proxies,
            metrics=edge.metrics,
            clock=edge.clock,
            style=edge.style,
        )
        app: Any = dispatch
        if options.cors_origins:
            # Here, because most servers name no origin and start faster without the framework.
            from traghetto.http.middleware import with_cors  # noqa: PLC0415

            app = with_cors(app, options.cors_origins, edge.clock)
        config = uvicorn.Config(
            app,
            http=cast(Any, functools.partial(Connection, door)),
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._dispatch = dispatch
        self._drain_seconds_max = options.drain_seconds_max
        self._stopping = asyncio.Event()
        self.listening = asyncio.Event()

    def stop(self) -> None:
        """Begin to drain; a second call cancels what is still open."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        self._stopping.set()

    async def run_on(self, sockets: list[socket.socket]) -> None:
        """Serve on `sockets` until `stop`; the application's start-up and shutdown included."""
        await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept; raises RuntimeError if it does not start."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start; the log says why")
        loop = asyncio.get_running_loop()
        protocol = functools.partial(
            cast(Any, self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=loop,
        )
        self.servers = [
            await loop.create_server(protocol, sock=listener) for listener in sockets or ()
        ]
        self.started = True

    async def main_loop(self) -> None:
        """Refresh the date header once a second until the server is to stop."""
        await self.on_tick(0)
        self.listening.set()
        while not self.should_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)
            await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: accept nothing, let open requests end, cancel the rest, then stop the app."""
        self._dispatch.draining = True
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        tasks = self.server_state.tasks
        log_event("info", "draining", count=len(tasks))
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._drain_seconds_max
        while tasks and not self.force_exit and loop.time() < give_up_at:
            await asyncio.wait(tasks, timeout=0.1)
        if tasks:
            log_event("warn", "drain_cancelled_requests", count=len(tasks))
            cancelled = list(tasks)
            for task in cancelled:
                task.cancel()
            await asyncio.wait(cancelled, timeout=CANCEL_SECONDS_MAX)
        # Polled, because a transport tells its progress to its protocol alone.
        while self._unsent() and not self.force_exit and loop.time() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for connection in list(self.server_state.connections):
            cast(Connection, connection).transport.abort()
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()
        log_event("info", "stopped")

    def _unsent(self) -> bool:
        """Whether a client has yet to take the end of an answer."""
        connections = cast("set[Connection]", self.server_state.connections)
        return any(connection.transport.get_write_buffer_size() for connection in connections)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are taken by `serve`, whose process ends normally after a drain."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A socket on `host` that nobody can connect to yet; raises OSError if the address cannot be
    had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with _told_if_in_use(port):
            listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _told_if_in_use(port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} is in use: choose another with --port") from error
        raise


def base_url(listener: socket.socket) -> str:
    """Where `listener` answers, such as `http://127.0.0.1:8420`."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    dispatch: Application,
    options: ServerOptions,
    *,
    listener: socket.socket | None = None,
    on_started: Callable[[str], None] = lambda _: None,
    on_reload: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; SIGHUP calls `on_reload`.

    `listener` is a socket that `bind` has made, for who wants to know beforehand whether there is
    one. `on_started` is given the base URL once connections are accepted. Raises OSError if the
    address cannot be had, and RuntimeError if the application does not start.
    """
    async with _serving(dispatch, options, listener) as (server, url, task):
        loop = asyncio.get_running_loop()
        handled: list[signal.Signals] = []
        for number, handler in (
            (signal.SIGTERM, server.stop),
            (signal.SIGINT, server.stop),
            (signal.SIGHUP, on_reload),
        ):
            loop.add_signal_handler(number, handler)
            handled.append(number)
        try:
            on_started(url)
            await asyncio.shield(task)
        finally:
            for number in handled:
                loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def running(
    dispatch: Application, options: ServerOptions | None = None
) -> AsyncIterator[str]:
    """A server inside this event loop, on a free port unless told otherwise; its base URL.

    Takes no signals. Leaving the context drains. Raises what `serve` raises.
    """
    async with _serving(dispatch, options or ServerOptions(port=0), None) as (_, url, _task):
        yield url


@contextlib.asynccontextmanager
async def _serving(
    dispatch: Application, options: ServerOptions, listener: socket.socket | None
) -> AsyncIterator[tuple[Server, str, asyncio.Task[None]]]:
    server = Server(dispatch, options)
    with contextlib.closing(listener or bind(options.host, options.port)) as bound:
        with _told_if_in_use(options.port):  # somebody else may have been bound as well
            bound.listen(BACKLOG)
        url = base_url(bound)
        task = asyncio.get_running_loop().create_task(server.run_on([bound]))
        listening = asyncio.get_running_loop().create_task(server.listening.wait())
        try:
            await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            yield server, url, task
        finally:
            listening.cancel()
            server.stop()
            await asyncio.shield(task)
