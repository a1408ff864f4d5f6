"""How the hold of prepaid work ends: charged for what was delivered, or voided; once.

Its price was known before, so a hold covers all of it, and a charge is some or all of its lines.
Decisions are synchronous; only their durability is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec

from traghetto.catalog.model import Model
from traghetto.errors import ApiError, ErrorCode
from traghetto.ledger.book import Basis, Charge, Hold, Usage
from traghetto.limits.rates import Admission
from traghetto.pipeline.images.prices import (
    PricedUnits,
    charge_lines_of,
    total_nano_usd,
    version_of_units,
)
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.storage.facts import Fact

Keep = Callable[[], Iterable[Fact]]
"""What is committed with a charge."""


class UnitsSettled(msgspec.Struct, frozen=True):
    """What a request cost, and when that is on disk."""

    nano_usd: int
    durable: asyncio.Future[None] | None
    """None where nothing was promised that must survive."""


def reserve_units(
    services: Services, caller: Caller, request_id: str, nano_usd: int
) -> Hold | None:
    """A hold of exactly the price, in the first currency that covers it; None where it is 0.

    Raises ApiError: the three 402 codes, UNKNOWN_ERROR if the store cannot be trusted.
    """
    if not services.book.healthy:
        raise ApiError(ErrorCode.UNKNOWN_ERROR, reason="the store is broken")
    if not nano_usd:
        return None
    return services.book.reserve(
        request_id=request_id,
        account_id=caller.account.id,
        key_id=caller.key.id,
        limits=caller.key.limits,
        upper_bound_nano_usd=nano_usd,
        least_nano_usd=nano_usd,
        floor_nano_usd=0,
    )


class UnitSettlement:
    """The end of one request's hold. The first of `complete` and `void` ends it; `void` afterwards
    does nothing, so that it can stand in a `finally`."""

    def __init__(
        self,
        services: Services,
        caller: Caller,
        model: Model,
        request_id: str,
        *,
        hold: Hold | None,
        admission: Admission,
    ) -> None:
        """`hold` is None for work whose price is 0: it is metered, not charged."""
        self._services = services
        self._caller = caller
        self._model = model
        self._request_id = request_id
        self._hold = hold
        self._admission = admission
        self._ended = False
        self._began = services.clock.monotonic()

    def complete(self, lines: Sequence[PricedUnits], keep: Keep) -> UnitsSettled:
        """Charge `lines`, and commit what `keep` makes in the same moment; without lines it is as
        good as `void`."""
        assert not self._ended, "a hold ends exactly once"
        lines = [line for line in lines if line.units]
        if not lines:
            self.void()
            return UnitsSettled(0, None)
        usage = Usage(
            request_id=self._request_id,
            account_id=self._caller.account.id,
            key_id=self._caller.key.id,
            model=self._model.id,
            prompt_tokens=0,
            completion_tokens=0,
            cached_tokens=0,
            reasoning_tokens=0,
            basis=Basis.COUNTED,
            streamed=False,
            created_ns=self._services.clock.utc_ns(),
            duration_ms=int((self._services.clock.monotonic() - self._began) * 1000),
        )
        charge = Charge(charge_lines_of(lines), usage, version_of_units(lines))
        self._ended = True
        self._admission.correct(0)
        kept: list[Fact] = []

        def beside(_charged_nano_usd: int) -> Iterable[Fact]:
            kept.extend(keep())
            return kept

        if self._hold is None:
            recorded = self._services.book.record_free(usage, beside)
            return UnitsSettled(0, recorded if kept else None)
        receipt = self._hold.settle(charge, beside)
        assert receipt.charged_nano_usd == total_nano_usd(lines), "a hold covers the price"
        return UnitsSettled(receipt.charged_nano_usd, receipt.durable)

    def void(self) -> None:
        """Charge nothing, unless the hold has already ended."""
        if self._ended:
            return
        self._ended = True
        self._admission.correct(0)
        if self._hold is not None:
            self._hold.void()
