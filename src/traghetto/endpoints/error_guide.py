"""`/errors` and `/errors/{code}`: the guide to the error contract, for programs and for browsers.

Every answer is made when the server is: 40 codes in JSON and in HTML, in every language. A request
only chooses one of them.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import msgspec

from traghetto.endpoints.documents import Document, answer_document
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.errors import Adjunct, ApiError, ErrorCode, ErrorStyle
from traghetto.guide.explanations import LANGUAGES, Language
from traghetto.guide.facts import published_facts
from traghetto.guide.pages import CONTENT_SECURITY_POLICY, code_page, list_page
from traghetto.pipeline.exchange import JSON_CONTENT, Exchange
from traghetto.wire.accept import prefers, prefers_language

_PARAMETERS_MAX: Final = 10
PAGE_HEADERS: Final = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One resource in its forms."""

    json: Document
    pages: dict[Language, Document]

    def chosen_by(self, exchange: Exchange) -> Document:
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
        await answer_document(exchange, self._list.chosen_by(exchange))

    async def show_code(self, exchange: Exchange, code: str) -> None:
        """`GET /errors/{code}`: one code; raises ROUTE_NOT_FOUND for what is none of the 40."""
        entry = self._entries.get(code)
        if entry is None:
            raise ApiError(Adjunct.ROUTE_NOT_FOUND)
        await answer_document(exchange, entry.chosen_by(exchange))


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
    json = Document.of(msgspec.json.encode(value), (JSON_CONTENT,))
    pages = {
        language: Document.of(
            page(language).encode(), (*PAGE_HEADERS, (b"content-language", language.encode()))
        )
        for language in LANGUAGES
    }
    return _Entry(json, pages)
