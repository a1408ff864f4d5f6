"""Documents that do not change while a server runs: ready bodies, with a tag to ask again by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from traghetto.pipeline.exchange import STATUS_OK, Exchange, Header

STATUS_NOT_MODIFIED: Final = 304
CACHE_SECONDS: Final = 60
"""How long an answer may be kept; then its ETag says whether it is still the same."""

CACHED: Final[tuple[Header, ...]] = (
    (b"cache-control", b"public, max-age=%d" % CACHE_SECONDS),
    (b"vary", b"accept, accept-language"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A body that is ready, with the headers that are its own."""

    body: bytes
    headers: tuple[Header, ...]
    etag: bytes

    @classmethod
    def of(cls, body: bytes, headers: Iterable[Header]) -> Document:
        """The document with that body."""
        digest = hashlib.sha256(body).hexdigest()[:32]
        return cls(body, tuple(headers), f'"{digest}"'.encode())


async def answer_document(exchange: Exchange, document: Document) -> None:
    """Send a document, or that the client has it already."""
    headers = (*CACHED, *document.headers, (b"etag", document.etag))
    if _has(exchange, document.etag):
        await exchange.start(STATUS_NOT_MODIFIED, headers)
        await exchange.write(b"", more=False)
    else:
        await exchange.answer(STATUS_OK, headers, document.body)


def _has(exchange: Exchange, etag: bytes) -> bool:
    """Whether the client has this body already (RFC 9110, 13.1.2)."""
    known = exchange.header(b"if-none-match") or b""
    return any(tag.strip().removeprefix(b"W/") in {etag, b"*"} for tag in known.split(b","))
