"""Funds, rate limits and a place at the model (contract A.3, steps 16 to 18).

Nothing is held here: a request that is shed never had a hold. Leaving the context gives the place
back, however the request ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from traghetto.catalog.model import Model
from traghetto.limits.rates import Admission
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.quote import Quote
from traghetto.pipeline.services import Fleet, Services
from traghetto.pipeline.stages.authenticate import Caller


@asynccontextmanager
async def admit(
    services: Services,
    fleet: Fleet,
    exchange: Exchange,
    caller: Caller,
    model: Model,
    quote: Quote,
) -> AsyncIterator[Admission]:
    """A place among the requests that the model serves at once.

    A client that leaves while its request waits gives its place in the queue to the next one.

    Raises ClientGone, and ApiError: INSUFFICIENT_BALANCE, API_KEY_DIEM_SPEND_LIMIT_EXCEEDED,
    API_KEY_USD_SPEND_LIMIT_EXCEEDED, RATE_LIMIT_EXCEEDED, MODEL_AT_CAPACITY.
    """
    account = caller.account
    if quote.nano_usd:
        services.book.check_funds(account.id, caller.key.id, caller.key.limits)
    admission = services.rates.admit(
        account.id,
        model.id,
        tier=account.tier,
        size_class=model.size_class,
        tokens_bound=quote.prompt_tokens + quote.output_tokens,
    )
    exchange.rate_headers = admission.headers
    gate = fleet.gates[model.id]
    try:
        if not gate.try_enter():
            with exchange.watch_disconnect():
                await gate.enter(account.id)
        try:
            yield admission
        finally:
            gate.leave()
    finally:
        admission.release()
