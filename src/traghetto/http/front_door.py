"""What all connections of a server share: limits, counts of connections, trusted proxies.

Every limit of the connection itself is here; limits of a request's content belong to the stages.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from traghetto.clock import Clock, SystemClock
from traghetto.errors import ApiError, ErrorCode, ErrorStyle, render_error
from traghetto.ids import new_request_id
from traghetto.pipeline.exchange import common_headers
from traghetto.settings import Settings
from traghetto.telemetry import Metrics

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class FrontDoorLimits:
    """What one connection may ask of the server, and for how long.

    The defaults of those that are settings are the settings' own; a test compares them.
    """

    headers_bytes_max: int = 65536
    headers_count_max: int = 100
    headers_seconds_max: float = 10.0
    """From the connection, or from the first byte of a later request, to the end of its headers."""
    request_line_bytes_max: int = 8192
    body_grace_seconds: float = 10.0
    body_bytes_per_second_min: int = 1024
    """The average that a body must keep once the grace is over."""
    body_seconds_max: float = 300.0
    write_stall_seconds_max: float = 60.0
    """How long a client may leave a full buffer unread."""
    keep_alive_seconds_max: float = 75.0
    connections_max: int = 10_000
    connections_per_address_max: int = 2000
    """Connections of a trusted proxy are not counted by address: they are many clients'."""
    pipelined_requests_max: int = 16
    linger_seconds_max: float = 5.0
    """How long bytes that nobody wants are read after the last answer, so that it arrives."""
    linger_bytes_max: int = 67_108_864
    drained_body_bytes_max: int = 65536
    """A body of an early answer up to this size is read to its end to keep the connection."""

    @classmethod
    def of(cls, settings: Settings) -> FrontDoorLimits:
        """The limits that an operator set; the others are not for setting."""
        return cls(
            headers_bytes_max=settings.headers_bytes_max,
            headers_count_max=settings.headers_count_max,
            headers_seconds_max=settings.headers_seconds_max,
            body_grace_seconds=settings.body_grace_seconds,
            body_bytes_per_second_min=settings.body_bytes_per_second_min,
            body_seconds_max=settings.body_seconds_max,
            write_stall_seconds_max=settings.write_stall_seconds_max,
            keep_alive_seconds_max=settings.keep_alive_seconds_max,
            connections_max=settings.connections_max,
            connections_per_address_max=settings.connections_per_address_max,
        )


class FrontDoor:
    """The state that the connections of one server share."""

    def __init__(
        self,
        limits: FrontDoorLimits,
        *,
        trusted_proxies: Sequence[str] = (),
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        style: ErrorStyle | None = None,
    ) -> None:
        """`trusted_proxies` are addresses or networks; raises ValueError for anything else."""
        self.limits = limits
        self.metrics = metrics or Metrics()
        self._clock = clock or SystemClock()
        self._style = style or ErrorStyle()
        self._networks: tuple[Network, ...] = tuple(
            ipaddress.ip_network(network) for network in trusted_proxies
        )
        self._connections = 0
        self._by_address: dict[str, int] = {}
        self.metrics.connections_open.set_function(lambda: self._connections)

    def enter(self, address: str) -> ApiError | None:
        """Count a connection in; the answer to it, if there are too many.

        A connection that was let in must `leave` exactly once.
        """
        if self._connections >= self.limits.connections_max:
            self.cut("connections_max")
            return ApiError(ErrorCode.MODEL_AT_CAPACITY)
        of_address = self._by_address.get(address, 0)
        if of_address >= self.limits.connections_per_address_max and not self.trusts(address):
            self.cut("connections_per_address_max")
            return ApiError(ErrorCode.RATE_LIMIT_EXCEEDED)
        self._connections += 1
        self._by_address[address] = of_address + 1
        return None

    def leave(self, address: str) -> None:
        """Count a connection out."""
        self._connections -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def cut(self, reason: str) -> None:
        """Count a connection that the front door refused or closed."""
        self.metrics.connections_cut.labels(reason).inc()

    def trusts(self, address: str) -> bool:
        """Whether `address` is a trusted proxy, whose `X-Forwarded-For` counts."""
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def forwarded_client(self, peer: str, forwarded_for: list[bytes]) -> str:
        """The client's address behind trusted proxies: the rightmost that is not trusted.

        Each proxy appends the address it saw, so only the right end is believable, and only as
        far as the proxies that wrote it are ours. Something that is not an address ends the walk.
        """
        client = peer
        for entry in reversed(b",".join(forwarded_for).split(b",")):
            address = entry.strip().decode("latin-1").strip("[]")
            try:
                client = plain_address(str(ipaddress.ip_address(address)))
            except ValueError:
                return client
            if not self.trusts(client):
                return client
        return client

    def refusal(self, error: ApiError, date: list[tuple[bytes, bytes]]) -> bytes:
        """A whole answer for a request that never became one; it closes the connection."""
        request_id = new_request_id()
        rendered = render_error(error, request_id, self._style)
        headers = (
            *date,
            *rendered.headers,
            *common_headers(request_id, self._clock),
            (b"content-length", b"%d" % len(rendered.body)),
            (b"connection", b"close"),
        )
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        phrase = HTTPStatus(rendered.status).phrase.encode()
        return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (rendered.status, phrase, lines, rendered.body)


def plain_address(address: str) -> str:
    """`address` with an IPv4 address inside IPv6 (`::ffff:192.0.2.1`) written as IPv4.

    Raises ValueError for text that begins like such an address and is none.
    """
    if not address.startswith("::ffff:"):
        return address
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)
