"""Endpoints without inference, made from their operation."""

from __future__ import annotations

from traghetto.endpoints.errors import ADMIN, ALWAYS, BODY, CALLER, Codes
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.errors import ErrorCode
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.manage import Operation, run_operation
from traghetto.pipeline.services import Services


def operation_endpoint(
    services: Services, name: str, method: str, path: str, operation: Operation
) -> Endpoint:
    """The endpoint that carries out `operation`."""

    async def handle(exchange: Exchange, parameter: str) -> None:
        exchange.path_parameter = parameter
        await run_operation(services, exchange, operation)

    authentication = Authentication.ADMIN if operation.admin else Authentication.KEY
    return Endpoint(
        name=name,
        method=method,
        path=path,
        handle=handle,
        authentication=authentication,
        summary=operation.summary,
        errors=_codes_of(operation),
    )


def _codes_of(operation: Operation) -> Codes:
    codes = ALWAYS | operation.codes | (ADMIN if operation.admin else CALLER)
    if operation.body != "none":
        codes |= BODY
    if operation.calls_per_minute_max is not None:
        codes |= {ErrorCode.RATE_LIMIT_EXCEEDED}
    return codes
