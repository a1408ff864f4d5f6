"""`/openapi.json` and `/docs`: the API for programs and for people."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec

from traghetto.endpoints.api_page import api_page
from traghetto.endpoints.documents import Document, answer_document
from traghetto.endpoints.error_guide import PAGE_HEADERS
from traghetto.endpoints.openapi import api_document
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.errors import ErrorStyle
from traghetto.pipeline.exchange import JSON_CONTENT, Exchange


class ApiDocuments:
    """What a server has to say about its endpoints; made when it is first asked for."""

    def __init__(self, endpoints: Iterable[Endpoint], style: ErrorStyle) -> None:
        self._endpoints = tuple(endpoints)
        self._style = style

    @cached_property
    def _document(self) -> dict[str, object]:
        return api_document(self._endpoints, self._style)

    @cached_property
    def _json(self) -> Document:
        return Document.of(msgspec.json.encode(self._document), (JSON_CONTENT,))

    @cached_property
    def _page(self) -> Document:
        return Document.of(api_page(self._document).encode(), PAGE_HEADERS)

    async def show_json(self, exchange: Exchange, _: str) -> None:
        """`GET /openapi.json`."""
        await answer_document(exchange, self._json)

    async def show_page(self, exchange: Exchange, _: str) -> None:
        """`GET /docs`."""
        await answer_document(exchange, self._page)


def api_document_endpoints(
    endpoints: Iterable[Endpoint], style: ErrorStyle
) -> tuple[Endpoint, ...]:
    """The documents of `endpoints`, below the root and for anybody."""
    documents = ApiDocuments(endpoints, style)
    anybody = Authentication.NONE
    return (
        Endpoint("openapi", "GET", "/openapi.json", documents.show_json, anybody),
        Endpoint("docs", "GET", "/docs", documents.show_page, anybody),
    )
