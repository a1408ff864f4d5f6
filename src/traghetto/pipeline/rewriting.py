"""Better prompts for images: rewritten by a text model of the operator's (`enhance_prompt`).

It fails open: whatever goes wrong, the caller's own words are used, and no rewrite is charged.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from traghetto.accounts.values import ApiKey
from traghetto.engines.failures import EngineFailure
from traghetto.engines.pool import ModelPool
from traghetto.engines.protocols import ChatCall
from traghetto.errors import ApiError
from traghetto.limits.concurrency import Gate
from traghetto.money import parse_usd
from traghetto.pipeline.images.prices import PricedUnits
from traghetto.pipeline.services import Fleet
from traghetto.settings import Settings
from traghetto.telemetry import log_event

REWRITE_SECONDS_MAX: Final = 20.0
REWRITTEN_TOKENS_MAX: Final = 1024
REWRITTEN_CHARACTERS_MAX: Final = 7500

_INSTRUCTION: Final = (
    "You prepare instructions for a model that makes and edits images. Rewrite what the user "
    "writes so that such a model follows it well: name subject, surroundings, light, colours and "
    "composition where the text leaves them open, and keep everything that it says. Answer in the "
    "language of the text, with the rewritten text alone."
)


class Rewriter(msgspec.Struct, frozen=True):
    """The text model that the operator has named for it."""

    pool: ModelPool
    gate: Gate
    """Rewrites take places among the model's chats."""
    price: PricedUnits
    """Of one rewrite that is applied, however many images are made of it (contract A.4)."""

    async def rewrite(self, request_id: str, prompt: str, principal: str) -> str | None:
        """The prompt in better words; None if no rewrite came about."""
        call = ChatCall(
            request_id,
            {
                "messages": [
                    {"role": "system", "content": _INSTRUCTION},
                    {"role": "user", "content": prompt},
                ],
                "max_tokens": REWRITTEN_TOKENS_MAX,
            },
        )
        try:
            async with asyncio.timeout(REWRITE_SECONDS_MAX):
                await self.gate.enter(principal)
                try:
                    completion = await self.pool.complete(call, principal)
                finally:
                    self.gate.leave()
        except (ApiError, EngineFailure, TimeoutError) as failure:
            log_event("debug", "prompt_not_rewritten", reason=type(failure).__name__)
            return None
        content = completion.choices[0]["message"].get("content") if completion.choices else None
        text = content.strip()[:REWRITTEN_CHARACTERS_MAX] if isinstance(content, str) else ""
        return text if text and text != prompt else None


def rewriter_of(settings: Settings, fleet: Fleet, key: ApiKey) -> Rewriter | None:
    """What rewrites prompts of `key`; None where the operator has named no model, or none that is
    served and may see what the key sends."""
    name = settings.prompt_enhancement_model
    model = fleet.catalog.by_id(name)
    if model is None or model.offline or not model.admits(key.model_privacy):
        return None
    if name not in fleet.pools:
        return None
    price = PricedUnits("enhancement", 1, parse_usd(settings.prompt_enhancement_usd))
    return Rewriter(fleet.pools[name], fleet.gates[name], price)
