"""What the operator's policy says of a request before anything is made (contract A.3, step 15)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from traghetto.engines.image_protocols import Picture
from traghetto.errors import ApiError, ErrorCode
from traghetto.moderation import Policy, PolicyUnavailable, Verdict
from traghetto.pipeline.exchange import Exchange

UNAVAILABLE_SECONDS: Final = 10
"""When to try again while a policy cannot be asked; a guess at how long that lasts."""
INNOCENT: Final = Verdict()


async def judge_request(
    policy: Policy, exchange: Exchange, prompt: str, pictures: Iterable[Picture]
) -> Verdict:
    """What the policy says of a prompt and of the images that came with it, taken together.

    Raises ClientGone, and MODEL_OFFLINE while a policy that must be asked cannot be.
    """
    if policy.is_empty:
        return INNOCENT
    with exchange.watch_disconnect():
        verdict = await judged_prompt(policy, prompt) if prompt else INNOCENT
        for picture in pictures:
            if verdict.blocked:
                break
            verdict |= await judged_image(policy, picture.data, f"image/{picture.format}")
    return verdict


async def judged_prompt(policy: Policy, prompt: str) -> Verdict:
    """What the policy says of a prompt; raises MODEL_OFFLINE while it cannot be asked."""
    try:
        return await policy.judge_prompt(prompt)
    except PolicyUnavailable as unavailable:
        raise _offline(unavailable) from unavailable


async def judged_image(policy: Policy, data: bytes, media_type: str) -> Verdict:
    """What the policy says of an image; raises MODEL_OFFLINE while it cannot be asked."""
    if not policy.judges_images:
        return INNOCENT
    try:
        return await policy.judge_image(data, media_type)
    except PolicyUnavailable as unavailable:
        raise _offline(unavailable) from unavailable


def refuse_blocked(verdict: Verdict) -> None:
    """Raise CONTENT_POLICY_VIOLATION for what is forbidden."""
    if verdict.blocked:
        raise ApiError(ErrorCode.CONTENT_POLICY_VIOLATION, reason=verdict.reason)


def _offline(unavailable: PolicyUnavailable) -> ApiError:
    return ApiError(
        ErrorCode.MODEL_OFFLINE,
        retry_after_seconds=UNAVAILABLE_SECONDS,
        reason=str(unavailable),
    )
