"""The hold: funds set aside before the model is asked (after step 18 of contract A.3)."""

from __future__ import annotations

import msgspec

from traghetto.errors import ApiError, ErrorCode
from traghetto.ledger.book import Hold
from traghetto.pipeline.quote import OUTPUT_SLICE_TOKENS, Quote, quote_chat
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.pipeline.stages.parse import ChatJob


def reserve(
    services: Services, caller: Caller, job: ChatJob, quote: Quote
) -> tuple[Hold | None, ChatJob]:
    """A hold of at most `quote` in the first currency that can pay, and the job it covers.

    The hold is None where nothing costs. Checking and holding are one synchronous step, so
    concurrent requests never spend the same money.

    With `overdraft = "never"` a stream's hold starts as its prompt and one slice of output, and is
    extended while it runs: small balances then serve several streams at once. A whole answer is
    asked for no more tokens than its hold pays for.

    Raises ApiError: the three 402 codes, UNKNOWN_ERROR if the store cannot be trusted.
    """
    if not services.book.healthy:
        raise ApiError(ErrorCode.UNKNOWN_ERROR, reason="the store is broken")
    if not quote.nano_usd:
        return None, job
    bound, least = quote.nano_usd, 1
    never = services.settings.overdraft == "never"
    if never:
        if job.request.stream:
            output = min(quote.output_tokens, OUTPUT_SLICE_TOKENS)
            bound = quote_chat(quote.pricing, quote.prompt_tokens, output).nano_usd
        least = quote_chat(quote.pricing, quote.prompt_tokens, job.request.n).nano_usd
    hold = services.book.reserve(
        request_id=job.call.request_id,
        account_id=caller.account.id,
        key_id=caller.key.id,
        limits=caller.key.limits,
        upper_bound_nano_usd=bound,
        least_nano_usd=least,
    )
    if never and hold.amount_nano_usd < bound and not job.request.stream:
        job = _within(hold, job, quote)
    return hold, job


def _within(hold: Hold, job: ChatJob, quote: Quote) -> ChatJob:
    """The job with as much output as `hold` pays for, which is at least a token of each choice.

    The output has a price: a hold pays for all of it otherwise.
    """
    output = quote.pricing.output
    room = hold.amount_nano_usd - quote_chat(quote.pricing, quote.prompt_tokens, 0).nano_usd
    tokens = room * output.per_units // output.nano_usd // job.request.n
    call = msgspec.structs.replace(job.call, body={**job.call.body, "max_tokens": tokens})
    return msgspec.structs.replace(job, call=call)
