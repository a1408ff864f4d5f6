"""Endpoints without inference, made from their operation."""

from __future__ import annotations

from traghetto.endpoints.spec import Authentication, Endpoint
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
        name=name, method=method, path=path, handle=handle, authentication=authentication
    )
