"""Funds, rate limits and a place at the model (contract A.3, steps 16 to 18).

Nothing is held here: a request that is shed never had a hold. Leaving the context gives the place
back, however the request ended.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from traghetto.catalog.model import Model
from traghetto.ledger.spendable import FLOOR_NANO_USD
from traghetto.limits.rates import Admission
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.services import Fleet, Services
from traghetto.pipeline.stages.authenticate import Caller


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would take of its account's funds and limits."""

    nano_usd: int
    """The most it can cost; 0 needs no funds."""
    is_prepaid: bool = False
    """Whether that is its price, known before: one currency must then cover all of it."""
    requests: int = 1
    tokens: int = 0

    @property
    def least_nano_usd(self) -> int:
        """What must be spendable in one currency."""
        return self.nano_usd if self.is_prepaid else 1

    @property
    def floor_nano_usd(self) -> int:
        """What must be spendable in all currencies together."""
        return 0 if self.is_prepaid else FLOOR_NANO_USD


@asynccontextmanager
async def admit(
    services: Services,
    fleet: Fleet,
    exchange: Exchange,
    caller: Caller,
    model: Model,
    demand: Demand,
) -> AsyncIterator[Admission]:
    """A place among the requests that the model serves at once.

    A client that leaves while its request waits gives its place in the queue to the next one.

    Raises ClientGone, and ApiError: INSUFFICIENT_BALANCE, API_KEY_DIEM_SPEND_LIMIT_EXCEEDED,
    API_KEY_USD_SPEND_LIMIT_EXCEEDED, RATE_LIMIT_EXCEEDED, MODEL_AT_CAPACITY.
    """
    account = caller.account
    if demand.nano_usd:
        services.book.check_funds(
            account.id,
            caller.key.id,
            caller.key.limits,
            least_nano_usd=demand.least_nano_usd,
            floor_nano_usd=demand.floor_nano_usd,
        )
    admission = services.rates.admit(
        account.id,
        model.id,
        tier=account.tier,
        size_class=model.size_class,
        tokens_bound=demand.tokens,
        requests=demand.requests,
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
