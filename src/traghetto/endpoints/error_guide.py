"""`/errors` and `/errors/{code}`: the guide to the error contract, for programs and for browsers.

Every answer is made when the server is: 40 codes in JSON and in HTML, in every language. A request
only chooses one of them.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import msgspec

from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.errors import Adjunct, ApiError, ErrorCode, ErrorStyle
from traghetto.guide.explanations import LANGUAGES, Language
from traghetto.guide.facts import published_facts
from traghetto.guide.pages import CONTENT_SECURITY_POLICY, code_page, list_page
from traghetto.pipeline.exchange import JSON_CONTENT, STATUS_OK, Exchange, Header
from traghetto.wire.accept import prefers, prefers_language

STATUS_NOT_MODIFIED: Final = 304
CACHE_SECONDS: Final = 60
"""How long an answer may be kept; then its ETag says whether it is still the same."""

_PARAMETERS_MAX: Final = 10
_CACHED: Final = (
    (b"cache-control", b"public, max-age=%d" % CACHE_SECONDS),
    (b"vary", b"accept, accept-language"),
)
_PAGE: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True, slots=True)
class _Document:
    """A body that is ready, with the headers that are its own."""

    body: bytes
    headers: tuple[Header, ...]
    etag: bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    """One resource in its forms."""

    json: _Document
    pages: dict[Language, _Document]

    def chosen_by(self, exchange: Exchange) -> _Document:
        """The form that the request asks for: JSON unless it would rather have HTML."""
        if prefers(exchange.header(b"accept"), wanted="text/html", usual="application/json"):
            return self.pages[_language(exchange)]
        return self.json


class ErrorGuide:
    """What a server that answers errors in `style` has to say about them."""

    def __init__(self, style: ErrorStyle) -> None:
        codes = [published_facts(code, style) for code in ErrorCode]
        in_order = zip([None, *codes[:-1]], codes, [*codes[1:], None], strict=True)
        self._list = _entry(codes, partial(list_page, codes))
        self._entries = {
            facts.code: _entry(facts, partial(code_page, facts, previous=before, following=after))
            for before, facts, after in in_order
        }

    async def list_codes(self, exchange: Exchange, _: str) -> None:
        """`GET /errors`: every code."""
        await _answer(exchange, self._list)

    async def show_code(self, exchange: Exchange, code: str) -> None:
        """`GET /errors/{code}`: one code; raises ROUTE_NOT_FOUND for what is none of the 40."""
        entry = self._entries.get(code)
        if entry is None:
            raise ApiError(Adjunct.ROUTE_NOT_FOUND)
        await _answer(exchange, entry)


def error_guide_endpoints(style: ErrorStyle) -> tuple[Endpoint, ...]:
    """The guide, below the root and for anybody: who has no key yet meets errors as well."""
    guide = _guide(style)
    anybody = Authentication.NONE
    missing = frozenset({Adjunct.ROUTE_NOT_FOUND})
    return (
        Endpoint("errors", "GET", "/errors", guide.list_codes, anybody),
        Endpoint("error", "GET", "/errors/{code}", guide.show_code, anybody, errors=missing),
    )


@cache
def _guide(style: ErrorStyle) -> ErrorGuide:
    """Made once for servers that follow one another in a process, as those of a lab do."""
    return ErrorGuide(style)


async def _answer(exchange: Exchange, entry: _Entry) -> None:
    document = entry.chosen_by(exchange)
    headers = (*_CACHED, *document.headers, (b"etag", document.etag))
    if _has(exchange, document.etag):
        await exchange.start(STATUS_NOT_MODIFIED, headers)
        await exchange.write(b"", more=False)
    else:
        await exchange.answer(STATUS_OK, headers, document.body)


def _has(exchange: Exchange, etag: bytes) -> bool:
    """Whether the client has this body already (RFC 9110, 13.1.2)."""
    known = exchange.header(b"if-none-match") or b""
    return any(tag.strip().removeprefix(b"W/") in {etag, b"*"} for tag in known.split(b","))


def _language(exchange: Exchange) -> Language:
    """The language that the address names, else the one that the client's user reads."""
    try:
        named = urllib.parse.parse_qs(
            exchange.query.decode("latin-1"), max_num_fields=_PARAMETERS_MAX
        ).get("lang", [])
    except ValueError:
        named = []  # nobody who reads a page sends so many parameters
    for language in LANGUAGES:
        if language in named:
            return language
    is_italian = prefers_language(exchange.header(b"accept-language"), wanted="it", usual="en")
    return "it" if is_italian else "en"


def _entry(value: object, page: Callable[[Language], str]) -> _Entry:
    json = _document(msgspec.json.encode(value), (JSON_CONTENT,))
    pages = {
        language: _document(
            page(language).encode(), (*_PAGE, (b"content-language", language.encode()))
        )
        for language in LANGUAGES
    }
    return _Entry(json, pages)


def _document(body: bytes, headers: tuple[Header, ...]) -> _Document:
    digest = hashlib.sha256(body).hexdigest()[:32]
    return _Document(body, headers, f'"{digest}"'.encode())
