"""Which bytes belong to a request, by its headers; two parsers must not read it differently.

The parser below has already refused a wrong or double length, a length beside chunks, folded
lines, bare line feeds and NUL; what it lets pass and others read differently is refused here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_HOST: Final = re.compile(rb"[A-Za-z0-9._:\[\]%~-]*")
_READ: Final = frozenset(
    {
        b"authorization",
        b"host",
        b"transfer-encoding",
        b"content-length",
        b"expect",
        b"x-forwarded-for",
    }
)
_UPGRADE_HEADERS: Final = frozenset({b"upgrade", b"http2-settings"})


class Malformed(Exception):
    """A request that is not answered because of its form; the argument labels the metric."""


class Framing(NamedTuple):
    """What the headers say of the body and the way it comes."""

    declared_bytes: int | None
    """The length of the body; 0 for none, None for chunks."""
    expects_continue: bool
    """Whether the client waits to be asked for the body."""
    forwarded_for: list[bytes]


def read_framing(headers: list[tuple[bytes, bytes]], version: str) -> Framing:
    """The framing of a request in HTTP `version` (1.0 or 1.1); header names are lower case.

    Raises Malformed unless there is exactly one plausible Host (1.0: at most one), and for any
    transfer coding but one `chunked` of HTTP/1.1.
    """
    hosts = credentials = 0
    declared_bytes: int | None = 0
    expects_continue = False
    forwarded_for: list[bytes] = []
    for name, value in headers:
        if name not in _READ:
            continue
        if name == b"host":
            hosts += 1
            if _HOST.fullmatch(value) is None:
                raise Malformed("host")
        elif name == b"content-length":
            declared_bytes = int(value)
        elif name == b"transfer-encoding":
            if declared_bytes is None or version == "1.0" or value.lower() != b"chunked":
                raise Malformed("transfer_encoding")
            declared_bytes = None
        elif name == b"authorization":
            credentials += 1
        elif name == b"expect":
            expects_continue = value.lower() == b"100-continue" and version == "1.1"
        else:
            forwarded_for.append(value)
    if hosts != 1 and not (hosts == 0 and version == "1.0"):
        raise Malformed("host")
    if credentials > 1:  # whose request it is may not depend on who reads it
        raise Malformed("authorization")
    return Framing(declared_bytes, expects_continue, forwarded_for)


def head_without_upgrade(
    method: bytes, url: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:
    """The head just read without its wish for another protocol, for a fresh parser.

    The parser does not read the body of a request with that wish, which some HTTP clients send
    with every first request; to ignore it is to read such a request like any other. Raises
    Malformed for CONNECT, which is a wish for nothing else.
    """
    if method == b"CONNECT":
        raise Malformed("connect")
    lines = [b"%s %s HTTP/%s\r\n" % (method, url, version.encode())]
    for name, value in headers:
        if name in _UPGRADE_HEADERS:
            continue
        if name == b"connection":
            tokens = (token.strip() for token in value.lower().split(b","))
            kept = b", ".join(token for token in tokens if token not in _UPGRADE_HEADERS)
            lines.append(b"connection: %s\r\n" % kept)
        else:
            lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join([*lines, b"\r\n"])
