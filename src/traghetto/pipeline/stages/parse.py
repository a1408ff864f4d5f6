"""The request as a typed value that fits the model (contract A.3, step 14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from traghetto.engines.failures import EngineFailure
from traghetto.engines.image_protocols import Picture
from traghetto.engines.pool import ModelPool
from traghetto.engines.protocols import ChatCall
from traghetto.errors import ApiError, ErrorCode
from traghetto.pipeline.failures import chat_error
from traghetto.pipeline.image_tokens import NO_IMAGES, image_tokens
from traghetto.pipeline.stages.resolve import ModelChoice
from traghetto.wire.chat import (
    ChatRequest,
    check_capabilities,
    check_max_tokens,
    engine_body_for,
    parse_chat,
    rewrite,
)

OUTPUT_TOKENS_ASSUMED = 8192
"""Bound of an answer where neither the request nor the model's entry has one."""


class ChatJob(msgspec.Struct, frozen=True):
    """A validated chat request, ready for an engine, with the bounds its hold needs."""

    request: ChatRequest
    call: ChatCall
    prompt_tokens: int | None
    """Exact, where the engine can count before inference."""
    prompt_tokens_bound: int
    output_tokens_bound: int
    """Of all choices together."""
    image_tokens_estimate: int = 0
    """What the images of the prompt count for where nobody counts."""


def parse(body: dict[str, Any], choice: ModelChoice) -> ChatRequest:
    """The request that `body` is, as far as its text tells; its images are not read yet.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    request = parse_chat(rewrite(body), choice.suffix)
    check_max_tokens(request, choice.model.max_completion_tokens)
    check_capabilities(request, choice.model.capabilities)
    return request


async def prepare(
    request: ChatRequest,
    pictures: Sequence[Picture],
    body: dict[str, Any],
    choice: ModelChoice,
    pool: ModelPool,
    request_id: str,
) -> ChatJob:
    """The job that `request` with `pictures` is for the chosen model.

    Raises ApiError: TOO_MANY_TOKENS where the engine has an exact count.
    """
    model = choice.model
    call = ChatCall(
        request_id,
        engine_body_for(request, model.capabilities, pictures),
        request.prompt_cache_key,
        bool(pictures),
    )
    prompt_tokens = await _exact_prompt_tokens(pool, call, body)
    context = model.context_tokens
    # Without an explicit bound a model may answer with whatever room is left; it needs some.
    wanted = request.max_tokens or 1
    if prompt_tokens is not None and context is not None and prompt_tokens + wanted > context:
        raise ApiError(ErrorCode.TOO_MANY_TOKENS)
    images = image_tokens(pictures, model.image_tokens_max, context) if pictures else NO_IMAGES
    prompt_bound = request.prompt_bytes + images.bound if prompt_tokens is None else prompt_tokens
    return ChatJob(
        request,
        call,
        prompt_tokens,
        prompt_tokens_bound=prompt_bound,
        output_tokens_bound=request.n * _output_bound(request, choice),
        image_tokens_estimate=images.estimate,
    )


async def _exact_prompt_tokens(pool: ModelPool, call: ChatCall, body: dict[str, Any]) -> int | None:
    try:
        return await pool.count_prompt_tokens(call)
    except EngineFailure as failure:
        raise chat_error(failure, body) from failure


def _output_bound(request: ChatRequest, choice: ModelChoice) -> int:
    """The most tokens one choice can have: asked for, the model's maximum, or its context."""
    model = choice.model
    bounds = (request.max_tokens, model.max_completion_tokens, model.context_tokens)
    return next((bound for bound in bounds if bound is not None), OUTPUT_TOKENS_ASSUMED)
