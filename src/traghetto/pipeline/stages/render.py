"""Images made, judged, finished, charged and sent (contract A.3, step 19; B.5; A.2, code 27).

Nothing is charged that is not delivered, with one exception of the contract: an edit that our own
policy forbids after its provider has made it. What is forbidden of a generation is a black image.
"""

from __future__ import annotations

import asyncio
import base64
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from traghetto.catalog.model import Model
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.image_protocols import (
    BackgroundCall,
    EditCall,
    EngineImage,
    GenerateCall,
    UpscaleCall,
)
from traghetto.errors import ApiError
from traghetto.idempotency.answers import Claim, KeptAnswer
from traghetto.media.images import Finish, ImageRefused
from traghetto.moderation import Policy, Verdict
from traghetto.pipeline.durable import charge_durable
from traghetto.pipeline.enhance import can_enhance, enhanced, enhancement_price
from traghetto.pipeline.exchange import JSON_CONTENT, Exchange, Header
from traghetto.pipeline.failures import engine_error
from traghetto.pipeline.images.operations import ImageOperation
from traghetto.pipeline.images.prices import PricedUnits
from traghetto.pipeline.images.work import Work
from traghetto.pipeline.services import Fleet, Services
from traghetto.pipeline.stages.moderate import judged_image, judged_prompt, refuse_blocked
from traghetto.pipeline.stages.pictures import workers_busy
from traghetto.pipeline.stages.settle_units import UnitSettlement
from traghetto.settings.fields import SETTLE_SECONDS
from traghetto.storage.facts import Fact
from traghetto.wire.sizes import Size
from traghetto.workers.failures import WorkersBusy

STATUS_OK: Final = 200
MILLISECONDS: Final = 1000


class Rendering(msgspec.Struct, frozen=True):
    """What making images needs."""

    services: Services
    exchange: Exchange
    operation: ImageOperation
    body: dict[str, Any]
    """The caller's own, for naming fields that a backend refused."""
    work: Work
    verdict: Verdict
    """What the policy says of the request."""
    model: Model
    pool: ImagePool
    fleet: Fleet
    policy: Policy
    claim: Claim | None
    """Under which the answer is kept, if its request names an idempotency key."""
    principal: str
    prepared_monotonic: float
    """When the request was ready to be admitted."""
    admitted_monotonic: float


class Delivery(msgspec.Struct, frozen=True):
    """One image of an answer, and what the policy says of it."""

    data: bytes
    verdict: Verdict
    is_blurred: bool = False


async def render(rendering: Rendering, settlement: UnitSettlement) -> None:
    """Do the work, end its hold, and send the answer.

    Raises ClientGone, and ApiError for every failure; nothing has then been charged, except as
    said above.
    """
    exchange, services, work = rendering.exchange, rendering.services, rendering.work
    began = services.clock.monotonic()
    try:
        with exchange.watch_disconnect():
            work, enhanced_prompt, deliveries = await _within_hold(rendering)
        lines = charged_lines(work, deliveries)
        if enhanced_prompt is not None and lines:
            lines = (*lines, enhancement_price(services))
        is_refused = deliveries[0].verdict.blocked and not work.blanks_violations
        headers = flag_headers(rendering, deliveries, enhanced_prompt)
        content, body = _answer(rendering, work, deliveries, began)

        def keep() -> Iterable[Fact]:
            if rendering.claim is None or is_refused:
                return ()
            model_headers = rendering.fleet.headers[rendering.model.id]
            kept = KeptAnswer(rendering.model.id, (content, *headers, *model_headers), body)
            return rendering.claim.keep(kept)

        settled = settlement.complete(lines, keep)
        is_kept = bool(lines) and not is_refused
        await charge_durable(settled.durable, rendering.claim if is_kept else None)
        if is_refused:
            refuse_blocked(deliveries[0].verdict)
        await exchange.answer(STATUS_OK, (content, *headers), body)
    finally:
        settlement.void()


def charged_lines(work: Work, deliveries: Sequence[Delivery]) -> tuple[PricedUnits, ...]:
    """The lines of what is delivered, and of a forbidden edit, which is made but not delivered."""
    if not work.blanks_violations:
        is_refused = deliveries[0].verdict.blocked
        return () if is_refused and not work.charges_refused else work.lines
    clean = sum(not delivery.verdict.blocked for delivery in deliveries)
    return tuple(PricedUnits(line.kind, clean, line.unit_nano_usd) for line in work.lines if clean)


def flag_headers(
    rendering: Rendering, deliveries: Sequence[Delivery], enhanced_prompt: str | None
) -> list[Header]:
    """What an answer says of its content (contract B.5)."""
    verdicts = [delivery.verdict for delivery in deliveries]
    flags: list[tuple[bytes, bool]] = []
    if rendering.work.prompt:
        flags.append((b"x-venice-is-content-violation", any(v.blocked for v in verdicts)))
    if rendering.work.blanks_violations:
        is_adult = any(verdict.adult for verdict in verdicts)
        is_uncensored = rendering.model.spec_members.get("uncensored") is True
        flags += [
            (b"x-venice-is-blurred", any(delivery.is_blurred for delivery in deliveries)),
            (b"x-venice-is-adult-model-content-violation", is_adult and not is_uncensored),
            (b"x-venice-contains-minor", any(verdict.minor for verdict in verdicts)),
        ]
    headers = [(name, b"true" if value else b"false") for name, value in flags]
    if enhanced_prompt is not None:
        quoted = urllib.parse.quote(enhanced_prompt, safe="").encode()
        headers.append((b"x-venice-enhanced-prompt", quoted[:ENHANCED_HEADER_BYTES_MAX]))
    return headers


ENHANCED_HEADER_BYTES_MAX: Final = 6000
"""Clients refuse header lines of more than 8 KiB."""


async def _within_hold(rendering: Rendering) -> tuple[Work, str | None, list[Delivery]]:
    """What was done in the end, its rewritten prompt, and the images; raises ApiError.

    No work outlives its hold: what an engine may take is bounded by its model, and this bounds it
    together with rewriting, judging and encoding.
    """
    seconds = rendering.services.settings.hold_seconds_max - SETTLE_SECONDS
    try:
        async with asyncio.timeout(seconds):
            work, enhanced_prompt = await _enhanced(rendering)
            return work, enhanced_prompt, await _deliveries(rendering, work)
    except TimeoutError:
        late = EngineFailure(FailureKind.TIMED_OUT, "no images in the life of a hold")
        raise engine_error(late, rendering.operation.codes, rendering.body) from None
    except WorkersBusy as busy:
        raise workers_busy() from busy


async def _enhanced(rendering: Rendering) -> tuple[Work, str | None]:
    """The work with a better prompt, and that prompt, where one was wanted and came about."""
    services, work = rendering.services, rendering.work
    if not work.enhance or rendering.verdict.blocked or not can_enhance(services, rendering.fleet):
        return work, None
    prompt = await enhanced(
        services,
        rendering.fleet,
        rendering.exchange.request_id,
        work.prompt,
        rendering.principal,
    )
    if prompt is None or not await _is_no_worse(rendering, prompt):
        return work, None
    return work.with_prompt(prompt), prompt


async def _is_no_worse(rendering: Rendering, prompt: str) -> bool:
    """Whether a rewritten prompt fits the model, and says nothing that its caller had not said."""
    most = rendering.model.constraints.get("promptCharacterLimit")
    if isinstance(most, int) and len(prompt) > most:
        return False
    if rendering.policy.is_empty:
        return True
    try:
        found = await judged_prompt(rendering.policy, prompt)
    except ApiError:
        return False  # what nobody has judged is not used, and the caller's own words were
    return not found.blocked and (rendering.verdict.adult or not found.adult)


async def _deliveries(rendering: Rendering, work: Work) -> list[Delivery]:
    try:
        return await _judged(rendering, work)
    except ImageRefused as refused:
        junk = EngineFailure(FailureKind.BROKEN, f"the backend's image: {refused.reason}")
        raise engine_error(junk, rendering.operation.codes, rendering.body) from refused


async def _judged(rendering: Rendering, work: Work) -> list[Delivery]:
    """What is sent for `work`; raises ApiError, and ImageRefused for what is no image."""
    if rendering.verdict.blocked:
        return [await _blank(rendering, rendering.verdict)] * work.images
    try:
        made = await _made(rendering, work)
    except EngineFailure as failure:
        if failure.kind is FailureKind.REJECTED_CONTENT and work.blanks_violations:
            blocked = Verdict(blocked=True, reason=failure.reason)
            return [await _blank(rendering, blocked)] * work.images
        raise engine_error(failure, rendering.operation.codes, rendering.body) from failure
    return [await _delivery(rendering, work, image) for image in made]


async def _made(rendering: Rendering, work: Work) -> list[EngineImage]:
    """What the engine makes; raises EngineFailure."""
    pool, principal = rendering.pool, rendering.principal
    match work.call:
        case GenerateCall() as call:
            return await pool.generate(call, principal)
        case EditCall() as call:
            return [await pool.edit(call, principal)]
        case UpscaleCall() as call:
            return [await pool.upscale(call, principal)]
        case BackgroundCall() as call:
            return [await pool.remove_background(call, principal)]


async def _delivery(rendering: Rendering, work: Work, image: EngineImage) -> Delivery:
    """An image as it is sent: decoded and encoded by us, judged, and blurred or blank if need be.

    Raises ImageRefused for what is no image.
    """
    reader = rendering.services.media.reader
    finish = _finish(work, blur=rendering.verdict.adult and work.safe_mode)
    data = image.data
    if not image.is_own or finish.blur or finish.metadata is not None:
        data = await reader.finish(
            image.data, format=work.format, finish=finish, principal=rendering.principal
        )
    found = await judged_image(rendering.policy, data, f"image/{work.format}")
    verdict = rendering.verdict | found
    if verdict.blocked and work.blanks_violations:
        return await _blank(rendering, verdict)
    if verdict.adult and work.safe_mode and not finish.blur:
        finish = _finish(work, blur=True)
        data = await reader.finish(
            data, format=work.format, finish=finish, principal=rendering.principal
        )
    return Delivery(data, verdict, finish.blur)


def _finish(work: Work, *, blur: bool) -> Finish:
    size = work.size
    return Finish(
        blur=blur,
        width=None if size is None else size.width,
        height=None if size is None else size.height,
        require_alpha=work.has_alpha,
        metadata=None
        if work.metadata is None
        else {name: str(value) for name, value in work.metadata.items()},
    )


async def _blank(rendering: Rendering, verdict: Verdict) -> Delivery:
    """A black image of the size that was asked for."""
    work = rendering.work
    size = work.size or Size(1, 1)
    data = await rendering.services.media.reader.blank(
        size.width, size.height, format=work.format, principal=rendering.principal
    )
    return Delivery(data, verdict)


def _answer(
    rendering: Rendering, work: Work, deliveries: Sequence[Delivery], began: float
) -> tuple[Header, bytes]:
    """The content type and the body of an answer."""
    images = [delivery.data for delivery in deliveries]
    match work.answer:
        case "binary":
            return (b"content-type", b"image/" + work.format.encode()), images[0]
        case "images":
            return JSON_CONTENT, msgspec.json.encode(
                {
                    "id": f"generate-image-{rendering.exchange.request_id}",
                    "images": images,
                    "request": {"success": True, "data": work.echo},
                    "timing": _timing(rendering, began),
                }
            )
        case "b64_json":
            data: list[dict[str, Any]] = [{"b64_json": image} for image in images]
        case "url":
            prefix = f"data:image/{work.format};base64,"
            data = [{"url": prefix + base64.b64encode(image).decode()} for image in images]
    created = rendering.exchange.clock.utc_ns() // 1_000_000_000
    return JSON_CONTENT, msgspec.json.encode({"created": created, "data": data})


def _timing(rendering: Rendering, began: float) -> dict[str, int]:
    """Where the time went, in whole milliseconds."""
    now = rendering.services.clock.monotonic()
    received = rendering.exchange.received_monotonic
    spans = {
        "inferenceDuration": now - began,
        "inferencePreprocessingTime": rendering.prepared_monotonic - received,
        "inferenceQueueTime": rendering.admitted_monotonic - rendering.prepared_monotonic,
        "total": now - received,
    }
    return {name: max(0, round(seconds * MILLISECONDS)) for name, seconds in spans.items()}
