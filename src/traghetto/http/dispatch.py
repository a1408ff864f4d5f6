"""From an ASGI scope to an endpoint and back: routing, and the one place that answers failures.

Invariants: every request gets exactly one answer with the common headers, or loses its connection
after the answer has begun; a failure is logged at most once, at the level of its row; no status
and no sentence of an error is written here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import msgspec

from traghetto.clock import Clock
from traghetto.endpoints.api_documents import api_document_endpoints
from traghetto.endpoints.error_guide import error_guide_endpoints
from traghetto.endpoints.spec import BASES, Endpoint
from traghetto.endpoints.table import edge_endpoints
from traghetto.errors import (
    Adjunct,
    ApiError,
    ErrorCode,
    ErrorStyle,
    public_name,
    render_error,
    row_of,
)
from traghetto.ids import new_request_id
from traghetto.pipeline.exchange import (
    JSON_CONTENT,
    STATUS_OK,
    ClientGone,
    Exchange,
    Receive,
    Scope,
    Send,
)
from traghetto.telemetry import METRICS_CONTENT_TYPE, Metrics, log_event, log_failure

STATUS_NOT_READY: Final = 503
"""Health answers are for load balancers: their bodies are states, not errors of the API."""

STATUS_CLIENT_GONE: Final = 499
"""Never sent: how metrics count a client that left before its answer was complete."""

UNROUTED: Final = "unrouted"
"""The metrics label of requests without an endpoint, so that paths cannot multiply labels."""

Readiness = Literal["ready", "starting", "draining", "failing"]

_FORWARDING_HEADERS: Final = (b"x-forwarded-for", b"forwarded", b"x-real-ip")


def _refuse_metrics(_: Exchange) -> None:
    raise ApiError(Adjunct.ADMIN_KEY_REQUIRED)


async def _nothing() -> None:
    """Start or stop a server that has nothing to start or stop."""


@dataclass(frozen=True, slots=True)
class EdgeServices:
    """What the edge is given by the composition root."""

    clock: Clock
    metrics: Metrics = field(default_factory=Metrics)
    style: ErrorStyle = field(default_factory=ErrorStyle)
    readiness: Callable[[], Readiness] = lambda: "ready"
    authorise_metrics: Callable[[Exchange], None] = _refuse_metrics
    """Raises ApiError unless the exchange carries an admin key; not asked on loopback."""
    startup: Callable[[], Awaitable[None]] = _nothing
    shutdown: Callable[[], Awaitable[None]] = _nothing
    access_log: bool = False


@dataclass(frozen=True, slots=True)
class _Route:
    """The endpoints of one path, by method; HEAD is answered by GET."""

    by_method: dict[str, Endpoint]
    allow: bytes


class Dispatch:
    """The ASGI application."""

    def __init__(
        self, endpoints: Iterable[Endpoint], edge: EdgeServices, roots: Iterable[Endpoint] = ()
    ) -> None:
        """`endpoints` are served below each of the bases, `roots` below the root.

        Raises ValueError if two of them share a method and a path.
        """
        self.edge = edge
        self._openai_style = replace(edge.style, openai_objects=True)
        self.draining = False
        """Set by the server once it stops accepting connections."""
        self.undeclared: set[tuple[str, str]] = set()
        """Errors that were answered and that their endpoints do not declare; none, or a defect."""
        endpoints = tuple(endpoints)
        exact: dict[str, list[Endpoint]] = {}
        prefixed: dict[str, list[Endpoint]] = {}
        own = (
            *edge_endpoints(live=self._live, ready=self._ready, metrics=self._metrics),
            *error_guide_endpoints(edge.style),
            *api_document_endpoints(endpoints, edge.style),
        )
        for bases, served in ((BASES, endpoints), (("",), (*own, *roots))):
            for endpoint in served:
                prefix = endpoint.prefix
                table, fixed = (exact, endpoint.path) if prefix is None else (prefixed, prefix)
                for base in bases:
                    table.setdefault(base + fixed, []).append(endpoint)
        self._exact = {path: _route(path, found) for path, found in exact.items()}
        longest_first = sorted(prefixed.items(), key=lambda item: -len(item[0]))
        self._prefixed = [(prefix, _route(prefix, found)) for prefix, found in longest_first]

    def routes(self) -> Iterator[tuple[str, Endpoint]]:
        """Everything that is served: each full path, its parameter in braces, and its endpoint."""
        for path, route in (*self._exact.items(), *self._prefixed):
            for method, endpoint in route.by_method.items():
                if method == endpoint.method:
                    suffix = endpoint.path.removeprefix(endpoint.prefix or endpoint.path)
                    yield path + suffix, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope; raises ValueError for protocols never offered."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise ValueError(f"this server does not speak {scope['type']}")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = self.edge
        exchange = Exchange(scope, receive, send, request_id=new_request_id(), clock=edge.clock)
        edge.metrics.request_started()
        name, code, complete = UNROUTED, "", False
        endpoint: Endpoint | None = None
        try:
            endpoint, parameter = self._find(exchange)
            name = exchange.endpoint = endpoint.name
            await endpoint.handle(exchange, parameter)
            if not exchange.response_started:
                raise RuntimeError("the endpoint returned without an answer")  # noqa: TRY301
            complete = True
            if exchange.stream_error is not None:
                code = public_name(exchange.stream_error.code)
                self._log(exchange, exchange.stream_error, name)
        except ApiError as error:
            code = public_name(error.code)
            self._note_undeclared(endpoint, error)
            complete = await self._answer_error(exchange, error, name)
        except ClientGone:
            pass
        except Exception as error:  # noqa: BLE001 (the boundary: nothing foreign passes it)
            code = ErrorCode.UNKNOWN_ERROR.name
            unknown = ApiError(ErrorCode.UNKNOWN_ERROR)
            unknown.__cause__ = error
            complete = await self._answer_error(exchange, unknown, name)
        finally:
            status = exchange.status if complete else STATUS_CLIENT_GONE
            seconds = edge.clock.monotonic() - exchange.received_monotonic
            edge.metrics.request_finished(name, status, code, seconds)
            if edge.access_log:
                log_event(
                    "info",
                    "request",
                    request_id=exchange.request_id,
                    address=exchange.client_address,
                    endpoint=name,
                    model=exchange.model,
                    status=status,
                    code=code,
                    seconds=round(seconds, 6),
                )

    def _find(self, exchange: Exchange) -> tuple[Endpoint, str]:
        """The endpoint of a request and its path parameter; raises ApiError for none."""
        route, parameter = self._exact.get(exchange.path), ""
        if route is None:
            for prefix, candidate in self._prefixed:
                if exchange.path.startswith(prefix) and len(exchange.path) > len(prefix):
                    route, parameter = candidate, exchange.path[len(prefix) :]
                    break
            else:
                raise ApiError(Adjunct.ROUTE_NOT_FOUND)
        endpoint = route.by_method.get(exchange.method)
        if endpoint is None:
            raise ApiError(Adjunct.METHOD_NOT_ALLOWED, headers=((b"allow", route.allow),))
        return endpoint, parameter

    async def _answer_error(self, exchange: Exchange, error: ApiError, endpoint: str) -> bool:
        """Log and answer a failure; False if the answer had begun and can only be cut."""
        self._log(exchange, error, endpoint)
        if exchange.response_started:
            return False
        style = self.edge.style
        if exchange.openai_errors:
            style = self._openai_style
        rendered = render_error(error, exchange.request_id, style)
        await exchange.answer(rendered.status, rendered.headers, rendered.body)
        return True

    def _note_undeclared(self, endpoint: Endpoint | None, error: ApiError) -> None:
        """An error that its endpoint does not say it has: documents lie about it."""
        if endpoint is not None and error.code not in endpoint.errors:
            self.undeclared.add((endpoint.name, error.code.name))

    def _log(self, exchange: Exchange, error: ApiError, endpoint: str) -> None:
        """The one record of a failure, at the level of its row; most rows have none."""
        level = row_of(error.code).log_level
        if level is not None:
            log_failure(
                level,
                code=public_name(error.code),
                request_id=exchange.request_id,
                error=error,
                endpoint=endpoint,
                model=exchange.model,
            )

    # The edge's own endpoints

    async def _live(self, exchange: Exchange, _: str) -> None:
        await exchange.answer(STATUS_OK, [JSON_CONTENT], b'{"status":"live"}')

    async def _ready(self, exchange: Exchange, _: str) -> None:
        state = "draining" if self.draining else self.edge.readiness()
        status = STATUS_OK if state == "ready" else STATUS_NOT_READY
        await exchange.answer(status, [JSON_CONTENT], msgspec.json.encode({"status": state}))

    async def _metrics(self, exchange: Exchange, _: str) -> None:
        if not _is_local(exchange):
            self.edge.authorise_metrics(exchange)
        body = self.edge.metrics.exposition()
        await exchange.answer(STATUS_OK, [(b"content-type", METRICS_CONTENT_TYPE)], body)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Start and stop what the composition root gave, as ASGI servers ask for it."""
        await receive()
        try:
            await self.edge.startup()
        except Exception as error:  # noqa: BLE001 (the server is told, and does not start)
            log_failure("error", code="STARTUP_FAILED", request_id="", error=error)
            await send({"type": "lifespan.startup.failed", "message": "see the log"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.edge.shutdown()
        await send({"type": "lifespan.shutdown.complete"})


def _route(path: str, endpoints: list[Endpoint]) -> _Route:
    by_method: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        if endpoint.method in by_method:
            raise ValueError(f"two endpoints answer {endpoint.method} {path}")
        by_method[endpoint.method] = endpoint
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]
    return _Route(by_method, ", ".join(sorted(by_method)).encode())


def _is_local(exchange: Exchange) -> bool:
    """Whether a request comes from this machine and from no further away.

    A proxy on this machine also connects from loopback, and it says for whom: a request that
    carries a forwarding header is not local, whoever wrote it.
    """
    if any(exchange.header(name) is not None for name in _FORWARDING_HEADERS):
        return False
    try:
        return ipaddress.ip_address(exchange.client_address).is_loopback
    except ValueError:
        return False
