"""The hold: funds set aside before the model is asked (after step 18 of contract A.3)."""

from __future__ import annotations

from traghetto.errors import ApiError, ErrorCode
from traghetto.ledger.book import Hold
from traghetto.pipeline.quote import OUTPUT_SLICE_TOKENS, Quote, quote_chat
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.pipeline.stages.parse import ChatJob


def reserve(services: Services, caller: Caller, job: ChatJob, quote: Quote) -> Hold | None:
    """A hold of at most `quote`, in the first currency that can pay; None where nothing costs.

    With `overdraft = "never"` a stream's hold starts as its prompt and one slice of output, and is
    extended while it runs: small balances then serve several streams at once.

    Checking and holding are one synchronous step, so concurrent requests never spend the same
    money. Raises ApiError: the three 402 codes, UNKNOWN_ERROR if the store cannot be trusted.
    """
    if not services.book.healthy:
        raise ApiError(ErrorCode.UNKNOWN_ERROR, reason="the store is broken")
    if not quote.nano_usd:
        return None
    bound = quote.nano_usd
    if services.settings.overdraft == "never" and job.request.stream:
        output = min(quote.output_tokens, OUTPUT_SLICE_TOKENS)
        bound = quote_chat(quote.pricing, quote.prompt_tokens, output).nano_usd
    return services.book.reserve(
        request_id=job.call.request_id,
        account_id=caller.account.id,
        key_id=caller.key.id,
        limits=caller.key.limits,
        upper_bound_nano_usd=bound,
    )
