"""Images: made, changed, enlarged and cut out (contract B.5)."""

from __future__ import annotations

from typing import Final

import msgspec

from traghetto.catalog.styles import NAMES
from traghetto.endpoints.errors import ALWAYS, codes_of
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.pipeline.exchange import JSON_CONTENT, STATUS_OK, Exchange
from traghetto.pipeline.images.operations import IMAGE_OPERATIONS, ImageOperation
from traghetto.pipeline.run import run_image
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import visible_privacy

_STYLES: Final = msgspec.json.encode({"object": "list", "data": NAMES})


def image_endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The seven endpoints for images of a gateway."""
    return (
        *(_operation_endpoint(services, operation) for operation in IMAGE_OPERATIONS),
        _styles_endpoint(services),
    )


def _operation_endpoint(services: Services, operation: ImageOperation) -> Endpoint:
    async def handle(exchange: Exchange, _: str) -> None:
        await run_image(services, exchange, operation)

    return Endpoint(
        name=operation.name,
        method="POST",
        path=operation.path,
        handle=handle,
        summary=operation.summary,
        errors=codes_of(operation),
    )


def _styles_endpoint(services: Services) -> Endpoint:
    """The names of the styles; a bad key is as good as none, as for all that is public."""

    async def handle(exchange: Exchange, _: str) -> None:
        visible_privacy(services, exchange)
        await exchange.answer(STATUS_OK, (JSON_CONTENT,), _STYLES)

    return Endpoint(
        name="image_styles",
        method="GET",
        path="/image/styles",
        handle=handle,
        authentication=Authentication.OPTIONAL,
        summary="List the names that `style_preset` takes.",
        errors=ALWAYS,
    )
