"""THE ENDPOINT TABLE: every operation that the gateway serves.

An endpoint asks for a key unless it says otherwise. Those that do are listed, and called as every
kind of caller, in `tests/acceptance/test_edge_authentication.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from traghetto.catalog.catalog import Catalog
from traghetto.endpoints.api_keys import api_key_endpoints
from traghetto.endpoints.billing import billing_endpoints
from traghetto.endpoints.chat import chat_endpoint
from traghetto.endpoints.errors import ALWAYS, METRICS
from traghetto.endpoints.images import image_endpoints
from traghetto.endpoints.models import (
    compatibility_answer,
    model_answer,
    models_answer,
    traits_answer,
)
from traghetto.endpoints.spec import Authentication, Endpoint, Handle
from traghetto.errors import ErrorCode
from traghetto.pipeline.exchange import JSON_CONTENT, STATUS_OK, Exchange
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import visible_privacy


def endpoint_table(services: Services) -> tuple[Endpoint, ...]:
    """What is served below the bases. Exact paths win over those with a parameter."""
    return (
        chat_endpoint(services),
        _catalog_endpoint(
            services,
            "models",
            "/models",
            "List the models of a type, with prices and capabilities.",
            _query(models_answer),
        ),
        _catalog_endpoint(
            services,
            "models_traits",
            "/models/traits",
            "Show which model plays which role.",
            _query(traits_answer),
        ),
        _catalog_endpoint(
            services,
            "models_compatibility_mapping",
            "/models/compatibility_mapping",
            "Show which foreign names stand for which models.",
            _query(compatibility_answer),
        ),
        _catalog_endpoint(
            services,
            "model",
            "/models/{id}",
            "Show one model.",
            _by_id,
            ErrorCode.MODEL_NOT_FOUND,
        ),
        *api_key_endpoints(services),
        *billing_endpoints(services),
        *image_endpoints(services),
    )


def edge_endpoints(*, live: Handle, ready: Handle, metrics: Handle) -> tuple[Endpoint, ...]:
    """What the edge answers itself, below the root: the state of the process, for its operators."""
    anybody = Authentication.NONE
    return (
        Endpoint("health_live", "GET", "/health/live", live, anybody),
        Endpoint("health_ready", "GET", "/health/ready", ready, anybody),
        Endpoint(
            "metrics",
            "GET",
            "/metrics",
            metrics,
            Authentication.ADMIN_FROM_AFAR,
            errors=METRICS,
        ),
    )


_CatalogAnswer = Callable[[Catalog, Exchange, str, str], bytes]
"""Takes the catalogue, the exchange, the path parameter and the caller's model privacy."""


def _catalog_endpoint(
    services: Services,
    name: str,
    path: str,
    summary: str,
    answer: _CatalogAnswer,
    refusal: ErrorCode = ErrorCode.INVALID_REQUEST,
) -> Endpoint:
    """A public view of the catalogue; a key only narrows it, and a bad key is ignored (B.3)."""

    async def handle(exchange: Exchange, parameter: str) -> None:
        privacy = visible_privacy(services, exchange)
        body = answer(services.fleet.catalog, exchange, parameter, privacy)
        await exchange.answer(STATUS_OK, (JSON_CONTENT,), body)

    return Endpoint(
        name=name,
        method="GET",
        path=path,
        handle=handle,
        authentication=Authentication.OPTIONAL,
        summary=summary,
        errors=ALWAYS | {refusal},
    )


def _query(answer: Callable[[Catalog, bytes, str], bytes]) -> _CatalogAnswer:
    return lambda catalog, exchange, _, privacy: answer(catalog, exchange.query, privacy)


def _by_id(catalog: Catalog, _: Exchange, model_id: str, privacy: str) -> bytes:
    return model_answer(catalog, model_id, privacy)
