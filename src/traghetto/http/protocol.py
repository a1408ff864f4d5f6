"""The front door's connection: uvicorn's HTTP/1.1 protocol with limits on everything.

Invariants: whatever a client sends or leaves unsent, the connection ends in bounded time and
memory; a request that two parsers could read differently is refused with a catalogue answer and
the connection is closed; answers leave in the order of their requests. HTTP/1.1 and 1.0 only.

A connection has one timer. It is armed for the earliest deadline it may have and looks at the
state when it fires, so that a request that keeps its deadlines never touches it.
"""

from __future__ import annotations

import asyncio
import enum
import math
import urllib.parse
from typing import Any, Final

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from traghetto.errors import Adjunct, ApiError
from traghetto.http.cycle import Cycle
from traghetto.http.flow import Flow
from traghetto.http.framing import Malformed, head_without_upgrade, read_framing
from traghetto.http.front_door import FrontDoor, plain_address

_WRITE_BUFFER_HIGH_WATER: Final = 65536


class Phase(enum.Enum):
    """Where the connection stands in what it reads."""

    IDLE = "between requests"
    HEAD = "in a request line or headers"
    BODY = "in a body"
    READ = "a request is read to its end and not yet answered"
    LINGER = "nothing more is answered; closing"


class Connection(HttpToolsProtocol):
    """One client connection."""

    _newest: Cycle
    """The request read last; `cycle` under the type it has here."""

    def __init__(
        self,
        door: FrontDoor,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # Answered requests are never followed by another on a connection that closes, so the
        # leniency that uvicorn asks for has no use here.
        self.parser = httptools.HttpRequestParser(self)
        self._door = door
        self._limits = door.limits
        self._entered = False
        self._peer = ""
        self._peer_trusted = False
        self._phase = Phase.IDLE
        self._running: Cycle | None = None
        self._refused: ApiError | None = None
        self._upgrade = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._since = 0.0
        """When the present phase began, by the loop's time."""
        self._first = True
        self._body_bytes = 0
        self._paused_before_body = 0.0
        self._head_bytes = 0
        self._unseen_bytes = 0
        """Bytes received since the parser last reported something of the present phase."""
        self._linger_bytes = 0
        self._stalled_since = math.inf

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_HIGH_WATER)
        self.flow = self._flow = Flow(transport, self.loop)
        host, port = self.client or ("", 0)
        self._peer = plain_address(host)
        self.client = (self._peer, port)
        self._since = self.loop.time()
        refusal = self._door.enter(self._peer)
        if refusal is not None:
            transport.write(self._door.refusal(refusal, self.server_state.default_headers))
            self._close()
            return
        self._entered = True
        self._peer_trusted = self._door.trusts(self._peer)
        self._arm(self._since + self._limits.headers_seconds_max)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._entered:
            self._entered = False
            self._door.leave(self._peer)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase = Phase.LINGER
        if self._running is not None:
            self._running.disconnect()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._phase is Phase.LINGER:
            self._linger_bytes += len(data)
            if self._linger_bytes > self._limits.linger_bytes_max:
                self.transport.abort()
            return
        if self._refused is not None or (self._phase is Phase.READ and not self.cycle.keep_alive):
            return
        phase = self._phase
        self._unseen_bytes += len(data)
        try:
            self._feed(data)
        except (httptools.HttpParserError, Malformed) as error:
            cause = error if isinstance(error, Malformed) else error.__context__
            self._refuse(str(cause) if isinstance(cause, Malformed) else "unparsable")
            return
        if self._phase is Phase.HEAD:
            if self._unseen_bytes > self._limits.headers_bytes_max and phase is not Phase.BODY:
                self._refuse("headers_bytes_max")
            else:
                self._arm(self._since + self._limits.headers_seconds_max)
        elif self._phase is Phase.BODY:
            if self._unseen_bytes > self._limits.headers_bytes_max:
                # Chunk extensions or trailers without end: nothing of it reaches the body.
                self._refuse("unseen_body_bytes")
            else:
                self._arm(self._expiry())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled_since = self.loop.time()
        self._arm(self._stalled_since + self._limits.write_stall_seconds_max)

    def resume_writing(self) -> None:
        self._stalled_since = math.inf
        super().resume_writing()

    def shutdown(self) -> None:
        """The server drains: close now if idle, else after the answer under way."""
        if self._running is None:
            self._close()
        else:
            self.pipeline.clear()
            self._running.keep_alive = False
            self.cycle.keep_alive = False

    # The parser's callbacks

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= self._limits.pipelined_requests_max:
            raise Malformed("pipelined_requests_max")
        super().on_message_begin()
        # The first request's time began with the connection, so that silence is no advantage.
        if not self._first:
            self._since = self.loop.time()
        self._first = False
        self._phase = Phase.HEAD
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > self._limits.request_line_bytes_max:
            raise Malformed("request_line_bytes_max")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is Phase.BODY:
            return  # trailers: nothing here has a use for them
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.headers_bytes_max:
            raise Malformed("headers_bytes_max")
        if len(self.headers) >= self._limits.headers_count_max:
            raise Malformed("headers_count_max")
        # White space around a value is no part of it (RFC 9110, 5.5); the parser leaves the end.
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            self._upgrade = True
            return
        scope = self.scope
        version = self.parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise Malformed("http_version")
            scope["http_version"] = version
        declared_bytes, expects_continue, forwarded_for = read_framing(self.headers, version)
        if forwarded_for and self._peer_trusted:
            scope["client"] = (self._door.forwarded_client(self._peer, forwarded_for), 0)
        scope["method"] = self.parser.get_method().decode("ascii")
        url = httptools.parse_url(self.url)
        if url.path is None:
            raise Malformed("target")
        path = url.path.decode("ascii")
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = url.path
        scope["query_string"] = url.query or b""
        self.cycle = self._newest = Cycle(
            self,
            self.loop,
            declared_bytes,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._phase = Phase.BODY
        self._body_bytes = 0
        self._unseen_bytes = 0
        self._since = self.loop.time()
        self._paused_before_body = self._flow.paused_seconds()
        if self._running is None:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._unseen_bytes = 0
        cycle = self._newest
        if not cycle.response_complete and cycle.take(body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._upgrade:
            return
        self._unseen_bytes = 0
        if self.cycle.response_complete:
            self._become_idle()
            return
        self._phase = Phase.READ
        self.cycle.more_body = False
        self.cycle.message_event.set()

    # The answers

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        assert isinstance(cycle, Cycle)
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        answered, self._running = self._running, None
        self.server_state.total_requests += 1
        if answered is None or self.transport.is_closing():
            return
        if not answered.keep_alive:
            if answered.more_body:
                self._linger()
            else:
                self._close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refused is not None:
            self._answer_refusal(self._refused)
        elif self._phase is Phase.READ:
            self._become_idle()
        else:
            self._arm(self._expiry())

    def may_keep(self, cycle: Cycle) -> bool:
        """Whether the rest of a body can be read to its end after an early answer."""
        return (
            cycle.declared_bytes is not None
            and cycle.declared_bytes <= self._limits.drained_body_bytes_max
            and not cycle.waits_for_continue
        )

    def cut(self, cycle: Cycle) -> None:
        """Close in the middle of an answer, so that the client knows it is not complete."""
        if self._running is cycle:
            self._running = None
        cycle.disconnected = True
        if not self.transport.is_closing():
            self._door.cut("broken_answer")
            if cycle.response_started:
                self._close()
            else:
                self.transport.abort()

    # Refusals and the end

    def _feed(self, data: bytes) -> None:
        """Parse `data`; a request that wishes for another protocol is parsed again without."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                head = head_without_upgrade(
                    self.parser.get_method(),
                    self.url,
                    self.parser.get_http_version(),
                    self.headers,
                )
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self._upgrade = False
                self._unseen_bytes = 0
            else:
                return

    def _refuse(self, reason: str) -> None:
        """Answer a malformed or too slow request and close, in its turn."""
        if self._phase is Phase.LINGER or self._refused is not None:
            return
        self._door.cut(reason)
        error = ApiError(Adjunct.MALFORMED_HTTP, reason=reason)
        running = self._running
        if running is None:
            if self._phase is Phase.BODY:
                self._linger()  # the rest of a body that was already answered
            else:
                self._answer_refusal(error)
        elif self._phase is Phase.BODY and running is self.cycle:
            started = running.response_started
            running.disconnect()
            self._running = None
            if started:
                self._close()
            else:
                self._answer_refusal(error)
        else:
            if self._phase is Phase.BODY:
                self.pipeline.popleft()
            self._refused = error

    def _answer_refusal(self, error: ApiError) -> None:
        self.transport.write(self._door.refusal(error, self.server_state.default_headers))
        self._linger()

    def _linger(self) -> None:
        """Say that nothing follows, then read for a while what is already on its way.

        Closing a socket with unread bytes resets it, and the client might lose the answer.
        """
        if not self.transport.can_write_eof():
            self._close()
            return
        self._phase = Phase.LINGER
        self._since = self.loop.time()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._arm(self._since + self._limits.linger_seconds_max)

    def _close(self) -> None:
        """Close once what was written is sent, or after the write stall at the latest."""
        self._phase = Phase.LINGER
        self._since = math.inf
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._stalled_since = min(self._stalled_since, self.loop.time())
            self._arm(self._stalled_since + self._limits.write_stall_seconds_max)

    def _become_idle(self) -> None:
        self._phase = Phase.IDLE
        self._since = self.loop.time()
        self._unseen_bytes = 0
        if self._timer is None:
            self._arm(self._since + self._limits.keep_alive_seconds_max)

    # Deadlines

    def _arm(self, at: float) -> None:
        if at == math.inf:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._on_timer)

    def _expiry(self) -> float:
        """When the present state becomes too old; infinite where only the application acts."""
        limits = self._limits
        if self._phase is Phase.IDLE:
            seconds = limits.headers_seconds_max if self._first else limits.keep_alive_seconds_max
            reading = self._since + seconds
        elif self._phase is Phase.HEAD:
            reading = self._since + limits.headers_seconds_max
        elif self._phase is Phase.BODY:
            earned = limits.body_grace_seconds + self._body_bytes / limits.body_bytes_per_second_min
            ours = self._flow.paused_seconds() - self._paused_before_body
            reading = self._since + ours + min(earned, limits.body_seconds_max)
        elif self._phase is Phase.LINGER:
            reading = self._since + limits.linger_seconds_max
        else:
            reading = math.inf
        return min(reading, self._stalled_since + limits.write_stall_seconds_max)

    def _on_timer(self) -> None:
        self._timer = None
        now = self.loop.time()
        at = self._expiry()
        if now < at:
            self._arm(at)
        elif now >= self._stalled_since + self._limits.write_stall_seconds_max:
            self._door.cut("write_stalled")
            self.transport.abort()
        elif self._phase is Phase.IDLE:
            self._close()
        elif self._phase is Phase.LINGER:
            self.transport.abort()
        elif self._phase is Phase.HEAD:
            self._refuse("headers_seconds_max")
        else:
            self._refuse("body_seconds_max")
