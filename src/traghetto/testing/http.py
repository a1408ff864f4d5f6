"""One HTTP request, whole, with the standard library: labs are near, and tests need no pool."""

from __future__ import annotations

import contextlib
import http.client
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

SECONDS_MAX: Final = 60.0
ANSWER_BYTES_MAX: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded; raises ValueError for what is no JSON."""
        return msgspec.json.decode(self.body)


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | Iterable[bytes] = b"",
    length: int | None = None,
) -> Answer:
    """The answer to one request over a connection of its own.

    A body in pieces has `length` bytes. A server may answer before it has read all of them. Raises
    OSError and http.client.HTTPException.
    """
    parts = urllib.parse.urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    pieces = (body,) if isinstance(body, bytes) else body
    with contextlib.closing(connect(parts.netloc, timeout=SECONDS_MAX)) as connection:
        has_host = any(name.lower() == "host" for name in headers)
        connection.putrequest(method, target, skip_host=has_host, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader(
            "Content-Length", str(len(body) if isinstance(body, bytes) else length)
        )
        connection.endheaders()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                connection.send(piece)
        response = connection.getresponse()
        received = response.read(ANSWER_BYTES_MAX)
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, received)
