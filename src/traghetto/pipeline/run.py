"""The order of a request, and the only place that knows it (contract A.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from traghetto.engines.image_protocols import Picture
from traghetto.errors import ApiError
from traghetto.idempotency.answers import Claim, KeptAnswer
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.failures import engine_error, gateway_stopping
from traghetto.pipeline.images.operations import ImageOperation
from traghetto.pipeline.quote import quote_chat
from traghetto.pipeline.rewriting import rewriter_of
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.admit import Demand, admit
from traghetto.pipeline.stages.authenticate import (
    Caller,
    authenticate,
    note_refusal,
    require_known,
)
from traghetto.pipeline.stages.authorise import authorise
from traghetto.pipeline.stages.chat_images import read_chat_images
from traghetto.pipeline.stages.claim import claim, replay
from traghetto.pipeline.stages.deliver import Times, deliver
from traghetto.pipeline.stages.execute import Execution, execute
from traghetto.pipeline.stages.make import Maker, make
from traghetto.pipeline.stages.moderate import judge_request, refuse_blocked
from traghetto.pipeline.stages.parse import parse, prepare
from traghetto.pipeline.stages.pictures import read_pictures
from traghetto.pipeline.stages.receive import Received, receive_json, receive_json_or_form
from traghetto.pipeline.stages.reserve import reserve
from traghetto.pipeline.stages.resolve import note_model, resolve
from traghetto.pipeline.stages.settle import Settlement
from traghetto.pipeline.stages.settle_units import UnitSettlement, reserve_units
from traghetto.settings.fields import SETTLE_SECONDS
from traghetto.wire.chat import images_of

Body = dict[str, Any]
Answer = Callable[[Caller, Body, Claim | None], Awaitable[None]]
"""The stages of a family of endpoints, once the caller is known and has not asked before."""


async def run_chat(services: Services, exchange: Exchange) -> None:
    """Answer one chat request; raises ApiError for everything that ends before the first byte."""

    received = receive_json(
        services.settings, services.bodies, exchange, partial(require_known, services, exchange)
    )

    async def answer(caller: Caller, body: Body, claimed: Claim | None) -> None:
        await _answer_chat(services, exchange, received, caller, body, claimed)

    await _run(services, exchange, received, answer)


async def run_image(services: Services, exchange: Exchange, operation: ImageOperation) -> None:
    """Answer one request for images; raises ApiError for everything that is not answered."""

    receive = receive_json_or_form if operation.takes_forms else receive_json
    received = receive(
        services.settings, services.bodies, exchange, partial(require_known, services, exchange)
    )

    async def answer(caller: Caller, body: Body, claimed: Claim | None) -> None:
        await _answer_image(services, exchange, received, caller, body, claimed, operation)

    await _run(services, exchange, received, answer)


async def _run(services: Services, exchange: Exchange, received: Received, answer: Answer) -> None:
    """The stages that all endpoints with a body share.

    The route is known (step 1). Size, content type and syntax come before credentials (2-4), so
    that nothing is looked up for a request that cannot be one.
    """
    try:
        async with received as body:  # 2-4
            caller = authenticate(services, exchange, body)  # 5-9
            try:
                claimed = await claim(services, exchange, caller, body, received.bytes)
                if isinstance(claimed, KeptAnswer):
                    await replay(exchange, claimed)
                else:
                    with claimed or nullcontext():
                        await answer(caller, body, claimed)
            except ApiError as error:
                services.budget.count(caller.bucket, error)
                note_refusal(services, caller.key, caller.account, exchange.model or "", error)
                raise
            if exchange.stream_error is not None:
                services.budget.count(caller.bucket, exchange.stream_error)
    except asyncio.CancelledError:
        # Only a stop that ran out of patience cancels a request, and the reset of a lab.
        if exchange.response_started:
            raise
        raise gateway_stopping() from None


async def _answer_chat(
    services: Services,
    exchange: Exchange,
    received: Received,
    caller: Caller,
    body: Body,
    claimed: Claim | None,
) -> None:
    fleet = services.fleet  # one fleet for the whole request, also across a reload
    choice = resolve(fleet, exchange, body, kind="text")  # 11
    model = choice.model
    pool = authorise(fleet.pools, caller, model)  # 12, 13
    request = parse(body, choice)  # 14
    pictures: Sequence[Picture] = ()
    if request.parts.images:  # a chat without any waits for nothing here
        images = images_of(request, model.capabilities)
        pictures = await read_chat_images(
            services.media, received, exchange, images, caller.account.id
        )
        refuse_blocked(await judge_request(services.policy, exchange, "", pictures))  # 15
    job = await prepare(request, pictures, body, choice, pool, exchange.request_id)
    quote = quote_chat(choice.pricing, job.prompt_tokens_bound, job.output_tokens_bound)
    demand = Demand(nano_usd=quote.nano_usd, tokens=quote.prompt_tokens + quote.output_tokens)
    async with admit(services, fleet, exchange, caller, model, demand) as admission:  # 16-18
        hold, job = reserve(services, caller, job, quote)
        settlement = Settlement(
            services, caller, model, job, quote=quote, hold=hold, admission=admission
        )
        execution = Execution(
            services,
            exchange,
            body,
            job,
            model,
            pool,
            fleet.headers[model.id],
            claimed,
            principal=caller.account.id,
        )
        await execute(execution, settlement)  # 19, settle, answer


async def _answer_image(
    services: Services,
    exchange: Exchange,
    received: Received,
    caller: Caller,
    body: Body,
    claimed: Claim | None,
    operation: ImageOperation,
) -> None:
    clock = services.clock
    fleet, policy = services.fleet, services.policy  # for the whole request, also across a reload
    model = operation.choose_model(fleet.catalog, body)  # 11
    note_model(fleet, exchange, model)
    pool = authorise(fleet.image_pools, caller, model)  # 12, 13
    request = operation.parse(body, model)  # 14
    wanted = operation.wanted(request)
    pictures = await read_pictures(services.media, received, exchange, wanted, caller.account.id)
    work = operation.work(exchange.request_id, request, pictures, model)
    verdict = await judge_request(policy, exchange, work.prompt, pictures)  # 15
    if not work.blanks_violations:
        refuse_blocked(verdict)
    rewriter = rewriter_of(services.settings, fleet, caller.key) if work.enhance else None
    if rewriter is not None:
        work = work.with_rewriting(rewriter.price)
    demand = Demand(nano_usd=work.nano_usd, is_prepaid=True, requests=work.images)
    prepared = clock.monotonic()
    async with admit(services, fleet, exchange, caller, model, demand) as admission:  # 16-18
        hold = reserve_units(services, caller, exchange.request_id, work.nano_usd)
        settlement = UnitSettlement(
            services, caller, model, exchange.request_id, hold=hold, admission=admission
        )
        maker = Maker(pool, model, services.media.reader, policy, rewriter, caller.account.id)
        times = Times(prepared, clock.monotonic())
        try:
            made = await make(
                maker,
                exchange,
                work,
                verdict,
                seconds_max=services.settings.hold_seconds_max - SETTLE_SECONDS,
                error_of=partial(engine_error, codes=operation.codes, body=body),
            )  # 19
            received.add(made.bytes)
            headers = fleet.headers[model.id]
            await deliver(exchange, made, model, headers, settlement, claimed, times)
        finally:
            settlement.void()
