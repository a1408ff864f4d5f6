"""Images charged and sent (contract A.3, step 19; B.5).

Nothing is charged that is not delivered, with one exception of the contract: an edit that our own
policy forbids after its provider has made it (A.2, code 27).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from traghetto.catalog.model import Model
from traghetto.idempotency.answers import Claim, KeptAnswer
from traghetto.pipeline.durable import charge_durable
from traghetto.pipeline.exchange import JSON_CONTENT, STATUS_OK, Exchange, Header
from traghetto.pipeline.stages.make import Made
from traghetto.pipeline.stages.moderate import refuse_blocked
from traghetto.pipeline.stages.settle_units import UnitSettlement
from traghetto.storage.facts import Fact
from traghetto.wire.base64_text import base64_json

MILLISECONDS: Final = 1000
PROMPT_HEADER_BYTES_MAX: Final = 6000
"""Clients refuse header lines of more than 8 KiB."""


class Times(msgspec.Struct, frozen=True):
    """When a request was ready, and when it was let in; on the monotonic clock, in seconds."""

    prepared: float
    admitted: float


async def deliver(
    exchange: Exchange,
    made: Made,
    model: Model,
    model_headers: Iterable[Header],
    settlement: UnitSettlement,
    claim: Claim | None,
    times: Times,
) -> None:
    """End the hold of what was made, and send it; an answer under `claim` is kept.

    Raises ApiError and ClientGone; nothing has then been charged, except as said above.
    """
    lines = made.lines
    headers = flag_headers(made, model)
    with exchange.watch_disconnect():  # who has left by now, pays nothing
        content, body = await _answer(exchange, made, times)

    def keep() -> Iterable[Fact]:
        if claim is None or made.is_refused:
            return ()
        return claim.keep(KeptAnswer(model.id, (content, *headers, *model_headers), body))

    settled = settlement.complete(lines, keep)
    is_kept = bool(lines) and not made.is_refused
    await charge_durable(settled.durable, claim if is_kept else None)
    if made.is_refused:
        refuse_blocked(made.deliveries[0].verdict)
    await exchange.answer(STATUS_OK, (content, *headers), body)


def flag_headers(made: Made, model: Model) -> list[Header]:
    """What an answer says of its content."""
    work = made.work
    verdicts = [delivery.verdict for delivery in made.deliveries]
    flags: list[tuple[bytes, bool]] = []
    if work.prompt:
        is_blurred = any(delivery.is_blurred for delivery in made.deliveries)
        flags += [
            (b"x-venice-is-content-violation", any(v.blocked for v in verdicts)),
            (b"x-venice-is-blurred", is_blurred),
        ]
    if work.blanks_violations:
        is_adult = any(verdict.adult for verdict in verdicts)
        is_uncensored = model.spec_members.get("uncensored") is True
        flags += [
            (b"x-venice-is-adult-model-content-violation", is_adult and not is_uncensored),
            (b"x-venice-contains-minor", any(verdict.minor for verdict in verdicts)),
        ]
    headers = [(name, b"true" if value else b"false") for name, value in flags]
    if work.rewritten_prompt is not None:
        headers.append((b"x-venice-enhanced-prompt", _url_encoded(work.rewritten_prompt)))
    return headers


def _url_encoded(text: str) -> bytes:
    """As much of `text` as a header line has room for, cut between two characters."""
    quoted = urllib.parse.quote(text, safe="")
    if len(quoted) > PROMPT_HEADER_BYTES_MAX:
        room, kept = PROMPT_HEADER_BYTES_MAX, []
        for character in text:
            piece = urllib.parse.quote(character, safe="")
            room -= len(piece)
            if room < 0:
                break
            kept.append(piece)
        quoted = "".join(kept)
    return quoted.encode()


async def _answer(exchange: Exchange, made: Made, times: Times) -> tuple[Header, bytes]:
    """The content type and the body of an answer."""
    work = made.work
    images: Sequence[bytes] = [delivery.data for delivery in made.deliveries]
    answer: dict[str, Any]
    match work.answer:
        case "binary":
            return (b"content-type", b"image/" + work.format.encode()), images[0]
        case "images":
            answer = {
                "id": f"generate-image-{exchange.request_id}",
                "images": [await base64_json(image) for image in images],
                "request": {"success": True, "data": work.echo},
                "timing": _timing(exchange, times),
            }
        case "b64_json":
            answer = _openai([{"b64_json": await base64_json(image)} for image in images], exchange)
        case "url":
            prefix = f"data:image/{work.format};base64,".encode()
            answer = _openai([{"url": await base64_json(i, prefix)} for i in images], exchange)
    return JSON_CONTENT, msgspec.json.encode(answer)


def _openai(data: list[dict[str, Any]], exchange: Exchange) -> dict[str, Any]:
    return {"created": exchange.clock.utc_ns() // 1_000_000_000, "data": data}


def _timing(exchange: Exchange, times: Times) -> dict[str, int]:
    """Where the time went, in whole milliseconds."""
    now = exchange.clock.monotonic()
    spans = {
        "inferenceDuration": now - times.admitted,
        "inferencePreprocessingTime": times.prepared - exchange.received_monotonic,
        "inferenceQueueTime": times.admitted - times.prepared,
        "total": now - exchange.received_monotonic,
    }
    return {name: max(0, round(seconds * MILLISECONDS)) for name, seconds in spans.items()}
