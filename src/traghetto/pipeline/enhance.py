"""Better prompts for images: rewritten by a text model of the operator's (`enhance_prompt`).

It fails open: whatever goes wrong, the caller's own words are used, and no rewrite is charged.
"""

from __future__ import annotations

import asyncio
from typing import Final

from traghetto.engines.failures import EngineFailure
from traghetto.engines.protocols import ChatCall
from traghetto.money import parse_usd
from traghetto.pipeline.images.prices import PricedUnits
from traghetto.pipeline.services import Fleet, Services
from traghetto.telemetry import log_event

ENHANCE_SECONDS_MAX: Final = 20.0
ENHANCED_TOKENS_MAX: Final = 1024
ENHANCED_CHARACTERS_MAX: Final = 7500

_INSTRUCTION: Final = (
    "You prepare instructions for a model that makes and edits images. Rewrite what the user "
    "writes so that such a model follows it well: name subject, surroundings, light, colours and "
    "composition where the text leaves them open, and keep everything that it says. Answer in the "
    "language of the text, with the rewritten text alone."
)


def enhancement_price(services: Services) -> PricedUnits:
    """What one applied rewrite costs, however many images are made of it (contract A.4)."""
    return PricedUnits("enhancement", 1, parse_usd(services.settings.prompt_enhancement_usd))


def can_enhance(services: Services, fleet: Fleet) -> bool:
    """Whether the operator has named a model for it, and it is served."""
    return services.settings.prompt_enhancement_model in fleet.pools


async def enhanced(
    services: Services, fleet: Fleet, request_id: str, prompt: str, principal: str
) -> str | None:
    """The prompt in better words; None if no rewrite came about."""
    pool = fleet.pools[services.settings.prompt_enhancement_model]
    call = ChatCall(
        request_id,
        {
            "messages": [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": prompt},
            ],
            "max_tokens": ENHANCED_TOKENS_MAX,
        },
    )
    try:
        async with asyncio.timeout(ENHANCE_SECONDS_MAX):
            completion = await pool.complete(call, principal)
    except (EngineFailure, TimeoutError) as failure:
        log_event("debug", "prompt_not_enhanced", reason=type(failure).__name__)
        return None
    content = completion.choices[0]["message"].get("content") if completion.choices else None
    text = content.strip()[:ENHANCED_CHARACTERS_MAX] if isinstance(content, str) else ""
    return text if text and text != prompt else None
