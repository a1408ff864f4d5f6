"""`Idempotency-Key`: the same request is answered once (after step 9 of contract A.3).

A caller is known and its account may use the API, but nothing else has been looked at: an answer
that was given is given again whatever has become of its model, its funds or its limits.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any, Final

import msgspec

from traghetto.errors import sentences
from traghetto.idempotency.answers import Claim, KeptAnswer
from traghetto.idempotency.seal import seal_of
from traghetto.pipeline.exchange import STATUS_OK, Exchange
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.wire.multipart import Form
from traghetto.wire.zod import refusal

HEADER: Final = b"idempotency-key"
REPLAYED: Final = (b"idempotent-replayed", b"true")
_KEY: Final = re.compile(rb"[A-Za-z0-9_-]{1,255}")
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_SHORT_BYTES_MAX: Final = 65_536
"""No text or file of a body up to this size is long: it is compared as it is."""
_PIECE_CHARACTERS: Final = 1 << 20


async def claim(
    services: Services,
    exchange: Exchange,
    caller: Caller,
    body: dict[str, Any],
    body_bytes: int,
) -> Claim | KeptAnswer | None:
    """What the request's idempotency key stands for: a claim to be answered under, or the answer
    that it was given before; None without the header. `body_bytes` is the size of the body as sent.

    Two bodies are the same if they are the same JSON value, and were sent to the same endpoint.
    A duplicate in flight is waited for. Raises ClientGone, and ApiError: INVALID_REQUEST for a
    malformed key, IDEMPOTENCY_KEY_REUSED, IDEMPOTENT_ANSWER_NOT_KEPT, RATE_LIMIT_EXCEEDED if too
    many wait already, REQUEST_TIMEOUT.
    """
    values = [value for name, value in exchange.headers if name == HEADER]
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise refusal([_MALFORMED])
    seal = seal_of(caller.secret, values[0].decode())
    with exchange.watch_disconnect():
        request = await _compared(exchange.endpoint, body, body_bytes)
        return await services.answers.claim(
            seal, request, caller.key.id, caller.account.id, services.settings.total_seconds
        )


async def _compared(endpoint: str, body: dict[str, Any], body_bytes: int) -> bytes:
    """What must be equal of two requests: the endpoint, and the body with its members in order.

    A form is never equal to JSON. Files and long texts stand in it by their digests, which are made
    in a thread and in pieces: every chat would wait while tens of megabytes are copied and hashed.
    """
    is_form = isinstance(body, Form)
    if body_bytes > _SHORT_BYTES_MAX:
        body = await asyncio.to_thread(_digested, body)
    kind = b"\nform\n" if is_form else b"\n"
    return endpoint.encode() + kind + _encode_sorted(body)


def _digested(value: Any) -> Any:
    """`value` with a digest in the place of everything long; a short one stays equal to itself."""
    if isinstance(value, dict):
        return {name: _digested(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_digested(member) for member in value]
    if not isinstance(value, str | bytes) or len(value) <= _SHORT_BYTES_MAX:
        return value
    digest = hashlib.sha256()
    for start in range(0, len(value), _PIECE_CHARACTERS):
        piece = value[start : start + _PIECE_CHARACTERS]
        digest.update(piece.encode() if isinstance(piece, str) else piece)
    return {type(value).__name__: digest.hexdigest()}


async def replay(exchange: Exchange, kept: KeptAnswer) -> None:
    """Give an answer again: whole, also if it was a stream, and charged to nobody."""
    exchange.model = kept.model
    await exchange.answer(STATUS_OK, (*kept.headers, REPLAYED), kept.body)


_MALFORMED: Final = {
    "code": "invalid_string",
    "validation": "regex",
    "path": ["Idempotency-Key"],
    "message": sentences.INVALID_PATTERN,
}
