"""The order of a request, and the only place that knows it (contract A.3)."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from traghetto.errors import ApiError
from traghetto.idempotency.answers import Claim, KeptAnswer
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.failures import gateway_stopping
from traghetto.pipeline.quote import quote_chat
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.admit import Demand, admit
from traghetto.pipeline.stages.authenticate import Caller, authenticate, note_refusal
from traghetto.pipeline.stages.authorise import authorise
from traghetto.pipeline.stages.claim import claim, replay
from traghetto.pipeline.stages.execute import Execution, execute
from traghetto.pipeline.stages.parse import parse
from traghetto.pipeline.stages.receive import receive_json
from traghetto.pipeline.stages.reserve import reserve
from traghetto.pipeline.stages.resolve import resolve
from traghetto.pipeline.stages.settle import Settlement


async def run_chat(services: Services, exchange: Exchange) -> None:
    """Answer one chat request; raises ApiError for everything that ends before the first byte.

    The route is known (step 1). Size, content type and syntax come before credentials (2-4), so
    that nothing is looked up for a request that cannot be one.
    """
    try:
        await _run(services, exchange)
    except asyncio.CancelledError:
        # Only a shutdown that ran out of patience cancels a request.
        if exchange.response_started:
            raise
        raise gateway_stopping() from None


async def _run(services: Services, exchange: Exchange) -> None:
    async with receive_json(services.settings, services.bodies, exchange) as body:  # 2-4
        caller = authenticate(services, exchange, body)  # 5-9
        try:
            claimed = await claim(services, exchange, caller, body)
            if isinstance(claimed, KeptAnswer):
                await replay(exchange, claimed)
            else:
                with claimed or nullcontext():
                    await _run_authenticated(services, exchange, caller, body, claimed)
        except ApiError as error:
            services.budget.count(caller.bucket, error)
            note_refusal(services, caller.key, caller.account, exchange.model or "", error)
            raise
        if exchange.stream_error is not None:
            services.budget.count(caller.bucket, exchange.stream_error)


async def _run_authenticated(
    services: Services,
    exchange: Exchange,
    caller: Caller,
    body: dict[str, object],
    claimed: Claim | None,
) -> None:
    fleet = services.fleet  # one fleet for the whole request, also across a reload
    choice = resolve(fleet, exchange, body, kind="text")  # 11
    model = choice.model
    pool = authorise(fleet, caller, model)  # 12, 13
    job = await parse(body, choice, pool, exchange.request_id)  # 14
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
