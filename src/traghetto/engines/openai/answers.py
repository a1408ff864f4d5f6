"""Answers of HTTP backends, not trusted: JSON out of a good 200, a failure out of anything else.

Shared by every adapter that speaks HTTP. Nothing is believed because of its status: the content
type, the syntax and an error object inside a 200 are looked at first.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import ClientResponse

from traghetto.clock import Clock
from traghetto.engines.classify import error_inside, failure_of_response
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.openai.client import (
    ERROR_BODY_BYTES_MAX,
    JSON_BODY_BYTES_MAX,
    media_type,
    read_body,
    read_prefix,
)
from traghetto.wire.completion import decode_answer

_LENIENT_BYTES_MAX: Final = 1 << 20
"""Larger answers are images in base64: words that are no JSON are not searched for in those."""

_decode = msgspec.json.Decoder().decode


async def json_object(
    response: ClientResponse, clock: Clock, bytes_max: int = JSON_BODY_BYTES_MAX
) -> dict[str, Any]:
    """The object in a 200 answer; raises EngineFailure for anything else."""
    answer = await json_value(response, clock, bytes_max)
    if not isinstance(answer, dict):
        raise EngineFailure(FailureKind.BROKEN, "the answer is not a JSON object")
    return answer


async def json_value(
    response: ClientResponse, clock: Clock, bytes_max: int = JSON_BODY_BYTES_MAX
) -> Any:
    """The JSON value in a 200 answer; raises EngineFailure for anything else."""
    if response.status != 200:
        raise await refusal(response, clock)
    if not media_type(response.headers).endswith("json"):
        raise EngineFailure(FailureKind.BROKEN, "the answer is not JSON by its content type")
    body = await read_body(response, bytes_max)
    try:
        answer = decode_answer(body) if len(body) <= _LENIENT_BYTES_MAX else _decode(body)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise EngineFailure(FailureKind.BROKEN, "the answer is not JSON") from error
    if (failure := error_inside(answer)) is not None:
        raise failure
    return answer


async def refusal(response: ClientResponse, clock: Clock) -> EngineFailure:
    """What an answer other than 200 means."""
    body = await read_prefix(response, ERROR_BODY_BYTES_MAX)
    return failure_of_response(
        response.status, response.headers, body, utc_seconds=clock.utc_ns() / 1e9
    )
