"""How a request's hold ends: charged once or voided once, whatever happens.

Who pays (contract A.4):
- a complete answer: the backend's usage, or our count where it reports none;
- a client that leaves a stream: the prompt and the output its socket accepted;
- a stream broken by the backend or by us (a shutdown that runs out of patience included): the last
  usage the backend reported, capped by what was delivered, else nothing;
- a stream that we end at a bound of ours (tokens, funds, the life of its hold): what was delivered;
- anything that fails before the first output: nothing.

Decisions are synchronous; only their durability is awaited. So no cancellation can come between
deciding and recording, and none can end a hold twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from traghetto.catalog.model import Model
from traghetto.ledger.book import Basis, Charge, Hold, Usage
from traghetto.limits.rates import Admission
from traghetto.money import Currency
from traghetto.pipeline.estimate import estimated_tokens
from traghetto.pipeline.quote import (
    OUTPUT_SLICE_TOKENS,
    Quote,
    charge_lines,
    quote_chat,
    version_of,
)
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.pipeline.stages.parse import ChatJob
from traghetto.storage.facts import Fact
from traghetto.wire.completion import BackendUsage


class Settled(msgspec.Struct, frozen=True):
    """What a request cost, and when that is on disk."""

    tokens: BackendUsage
    nano_usd: int
    currency: Currency | None
    """None for a request that costs nothing by its price list."""
    durable: asyncio.Future[None] | None
    """None where nothing was promised that must survive."""


Keep = Callable[[Settled], Iterable[Fact]]
"""What is committed with a charge, made from what the answer says of it; `durable` is not known."""


class Settlement:
    """The end of one request's hold. The first of `complete`, `client_left`, `broken` and `void`
    ends it; `void` afterwards does nothing, so that it can stand in a `finally`."""

    def __init__(
        self,
        services: Services,
        caller: Caller,
        model: Model,
        job: ChatJob,
        *,
        quote: Quote,
        hold: Hold | None,
        admission: Admission,
    ) -> None:
        """`hold` is None for a model whose every price is 0: it is metered, not charged."""
        self._services = services
        self._caller = caller
        self._model = model
        self._job = job
        self._quote = quote
        self._admission = admission
        self.hold = hold
        self.ended = False
        self._began = services.clock.monotonic()

    @property
    def output_tokens_bound(self) -> int:
        """The most output tokens that were asked for, of all choices together."""
        return self._quote.output_tokens

    def covers(self, output_tokens: int) -> bool:
        """Whether a stream may go on after `output_tokens`: its hold reaches far enough ahead,
        could be extended, or pays at least for what comes next. Only `overdraft = "never"` takes
        holds that need extending, and none needs more than the request's own bound.
        """
        hold, quote = self.hold, self._quote
        if hold is None or self._services.settings.overdraft != "never":
            return True
        ahead = min(output_tokens + OUTPUT_SLICE_TOKENS // 2, quote.output_tokens)
        if self._price_until(ahead) <= hold.amount_nano_usd:
            return True
        slice_nano_usd = quote.pricing.output.ceiling(OUTPUT_SLICE_TOKENS)
        if hold.extend(min(slice_nano_usd, quote.nano_usd - hold.amount_nano_usd)):
            return True
        # What is held already is the caller's to use up.
        return self._price_until(output_tokens + 1) <= hold.amount_nano_usd

    def _price_until(self, output_tokens: int) -> int:
        quote = self._quote
        return quote_chat(quote.pricing, quote.prompt_tokens, output_tokens).nano_usd

    def complete(
        self,
        reported: BackendUsage | None,
        count_output: Callable[[], int],
        keep: Keep | None = None,
    ) -> Settled:
        """Charge a complete answer, and commit what `keep` makes of it in the same moment.

        `count_output` counts the answer where the backend has not, or says that an answer with
        output has none.
        """
        if reported is not None and self._is_plausible(reported):
            says_output = reported.completion_tokens > 0
            if says_output or not count_output():
                return self._charge(self._within_bounds(reported), Basis.BACKEND, keep)
        return self._charge(self._counted(count_output()), Basis.COUNTED, keep)

    def client_left(self, reported: BackendUsage | None, delivered_output: int) -> None:
        """Charge what a client that left a stream had received; nothing received is free."""
        if not delivered_output:
            self.void()
        elif reported is not None and self._is_plausible(reported):
            self._charge(_capped(reported, delivered_output), Basis.BACKEND)
        else:
            self._charge(self._counted(delivered_output), Basis.COUNTED)

    def broken(self, reported: BackendUsage | None, delivered_output: int) -> None:
        """Charge a stream that did not end properly, by usage the backend reported, or not at
        all."""
        if delivered_output and reported is not None and self._is_plausible(reported):
            self._charge(_capped(reported, delivered_output), Basis.BACKEND)
        else:
            self.void()

    def void(self) -> None:
        """Charge nothing, unless the hold has already ended."""
        if self.ended:
            return
        self.ended = True
        self._admission.correct(0)
        if self.hold is not None:
            self.hold.void()

    def _charge(self, tokens: BackendUsage, basis: Basis, keep: Keep | None = None) -> Settled:
        assert not self.ended, "a hold ends exactly once"
        # Values that the books would refuse raise here, while the hold can still be voided.
        usage = Usage(
            request_id=self._job.call.request_id,
            account_id=self._caller.account.id,
            key_id=self._caller.key.id,
            model=self._model.id,
            prompt_tokens=tokens.prompt_tokens,
            completion_tokens=tokens.completion_tokens,
            cached_tokens=tokens.cached_tokens,
            reasoning_tokens=tokens.reasoning_tokens,
            basis=basis,
            streamed=self._job.request.stream,
            created_ns=self._services.clock.utc_ns(),
            duration_ms=int((self._services.clock.monotonic() - self._began) * 1000),
        )
        pricing = self._quote.pricing
        charge = Charge(charge_lines(pricing, tokens), usage, version_of(pricing))
        self.ended = True
        self._admission.correct(
            tokens.prompt_tokens - tokens.cached_tokens + tokens.completion_tokens
        )
        hold = self.hold
        currency = None if hold is None else hold.currency
        kept: list[Fact] = []

        def beside(charged_nano_usd: int) -> Iterable[Fact]:
            if keep is not None:
                kept.extend(keep(Settled(tokens, charged_nano_usd, currency, None)))
            return kept

        if hold is None:
            recorded = self._services.book.record_free(usage, beside)
            return Settled(tokens, 0, None, recorded if kept else None)
        receipt = hold.settle(charge, beside)
        return Settled(tokens, receipt.charged_nano_usd, currency, receipt.durable)

    def _is_plausible(self, usage: BackendUsage) -> bool:
        """Whether reported usage can be believed: no prompt is empty, none is longer than its
        bytes and images allow (with room for the template) or than the model's context."""
        bound = max(self._quote.prompt_tokens, self._model.context_tokens or 0)
        return 0 < usage.prompt_tokens <= bound

    def _within_bounds(self, usage: BackendUsage) -> BackendUsage:
        """Reported usage, with the output capped by what was asked for."""
        return _capped(usage, self._quote.output_tokens)

    def _counted(self, output_tokens: int) -> BackendUsage:
        prompt = self._job.prompt_tokens
        if prompt is None:
            prompt = estimated_tokens(self._job.request.text_bytes)
            prompt += self._job.image_tokens_estimate
        return BackendUsage(
            prompt_tokens=prompt,
            completion_tokens=min(output_tokens, self._quote.output_tokens),
            cached_tokens=0,
            reasoning_tokens=0,
        )


def _capped(usage: BackendUsage, output_tokens: int) -> BackendUsage:
    if usage.completion_tokens <= output_tokens:
        return usage
    return BackendUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=output_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=min(usage.reasoning_tokens, output_tokens),
    )
