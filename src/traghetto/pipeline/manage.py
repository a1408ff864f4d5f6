"""The order of a request that asks for no inference: keys, limits, billing (contract A.3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from traghetto.accounts.values import KeyKind
from traghetto.errors import Adjunct, ApiError, Code
from traghetto.pipeline.exchange import JSON_CONTENT, STATUS_OK, Exchange, Header
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller, authenticate
from traghetto.pipeline.stages.receive import Share, read_body
from traghetto.storage.reports import ReportTimeout
from traghetto.wire.json import decode_object

BODY_BYTES_MAX: Final = 64 * 1024
"""Far above any request about keys."""

BodyRule = Literal["none", "required", "optional"]
"""Whether a request has a JSON body; an optional one may be missing, and is then empty."""


class Received(msgspec.Struct, frozen=True):
    """The JSON object that a request sent, and its bytes; an empty object without a body."""

    body: dict[str, Any]
    raw: bytes


class Reply(msgspec.Struct, frozen=True):
    """A successful answer."""

    body: bytes
    headers: tuple[Header, ...] = (JSON_CONTENT,)


_NOTHING: Final = Received({}, b"{}")

Answer = Callable[[Exchange, Caller, Received], Awaitable[Reply]]
"""Checks what was asked for, and does it. Raises ApiError, having changed nothing."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One such request: who may make it, how often, and what answers it."""

    answer: Answer
    admin: bool = True
    body: BodyRule = "none"
    calls_per_minute_max: int | None = None
    """For one account."""
    summary: str = ""
    """What it does, in a sentence for the document of the API."""
    codes: frozenset[Code] = frozenset()
    """The errors of `answer`."""


async def run_operation(services: Services, exchange: Exchange, operation: Operation) -> None:
    """Answer one request; raises ApiError (ANALYTICS_TIMEOUT for a report that takes too long),
    and ClientGone."""
    received = _NOTHING
    if operation.body == "required" or (operation.body == "optional" and _has_body(exchange)):
        received = await _receive(services, exchange)  # 2-4
    caller = authenticate(services, exchange, received.body)  # 5-9
    try:
        reply = await _carry_out(services, exchange, caller, operation, received)
    except ApiError as error:
        services.budget.count(caller.bucket, error)
        raise
    await exchange.answer(STATUS_OK, reply.headers, reply.body)


async def _carry_out(
    services: Services,
    exchange: Exchange,
    caller: Caller,
    operation: Operation,
    received: Received,
) -> Reply:
    if operation.admin and caller.key.kind is not KeyKind.ADMIN:  # 9
        raise ApiError(Adjunct.ADMIN_KEY_REQUIRED)
    if operation.calls_per_minute_max is not None:  # 10
        services.calls.admit(caller.account.id, exchange.endpoint, operation.calls_per_minute_max)
    try:
        with exchange.watch_disconnect():
            return await operation.answer(exchange, caller, received)  # 14 and on
    except ReportTimeout as timeout:
        raise ApiError(Adjunct.ANALYTICS_TIMEOUT) from timeout


def _has_body(exchange: Exchange) -> bool:
    length = exchange.header(b"content-length")
    return length not in (None, b"0") or exchange.header(b"transfer-encoding") is not None


async def _receive(services: Services, exchange: Exchange) -> Received:
    share = Share()
    settings = services.settings
    try:
        raw = await read_body(exchange, BODY_BYTES_MAX, services.bodies, share)
        body = decode_object(
            raw, depth_max=settings.json_depth_max, nodes_max=settings.json_nodes_max
        )
    finally:
        services.bodies.release(share)
    return Received(body, raw)
