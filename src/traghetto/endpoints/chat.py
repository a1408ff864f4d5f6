"""`POST /chat/completions` (contract B.1)."""

from __future__ import annotations

from traghetto.endpoints.errors import CHAT
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.run import run_chat
from traghetto.pipeline.services import Services


def chat_endpoint(services: Services) -> Endpoint:
    """The chat endpoint of a gateway."""

    async def handle(exchange: Exchange, _: str) -> None:
        await run_chat(services, exchange)

    return Endpoint(
        name="chat_completions",
        method="POST",
        path="/chat/completions",
        handle=handle,
        authentication=Authentication.KEY,
        summary="Answer a conversation, whole or as a stream of server-sent events.",
        errors=CHAT,
    )
