"""What the pipeline needs of a text engine: one small Protocol, and the values that cross it.

An adapter makes *one attempt* on *one backend*. Retries, deadlines, health and breakers are the
pool's (`engines.pool`), so that every engine gets them alike and none has to know of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Absolute deadlines of a call, in seconds."""

    first_event_seconds: float = 120.0
    between_events_seconds: float = 30.0
    total_seconds: float = 600.0
    """Non-streaming: the whole call, headers included."""


class ChatCall(msgspec.Struct, frozen=True):
    """A validated chat request, in the form every text engine understands.

    `body` holds OpenAI chat-completion members from our allow-list (messages, sampling, tools,
    response_format, ...), without `model`, `stream` and `stream_options`, which the adapter sets.
    Where an image part of OpenAI's has a URL, it has a `Picture` (see `engines.chat_pictures`).
    """

    request_id: str
    body: dict[str, Any]
    affinity: str | None = None
    """`prompt_cache_key`: calls that share it prefer the same replica."""
    has_pictures: bool = False
    """Whether the body has any, so that nobody looks for them in a chat without."""


@dataclass(frozen=True, slots=True)
class BackendModel:
    """A model that a backend says it has."""

    id: str
    context_tokens: int | None = None
    type: str = "text"
    capabilities: dict[str, Any] = field(default_factory=dict)


class ChatBackend(Protocol):
    """One backend that can serve one model; adapters: openai, llama, simulator.

    Every method raises `EngineFailure` and nothing else (besides cancellation). Cancelling
    `complete`, or closing the generator of `stream`, stops the backend's work.
    """

    @property
    def name(self) -> str:
        """How logs, metrics and health name it, such as `gpu-1` or `simulator`."""
        ...

    async def complete(self, call: ChatCall) -> dict[str, Any]:
        """One whole answer: a decoded `chat.completion` object, structure not yet trusted."""
        ...

    def stream(self, call: ChatCall) -> AsyncGenerator[list[bytes], None]:
        """The payloads of server-sent events as they arrive, one non-empty list per read.

        A payload is what follows `data:`, usually a `chat.completion.chunk` object, at the end
        `[DONE]`. Contents are untrusted: the relay parses them. The generator may end without
        `[DONE]`; the relay treats that as a broken stream.
        """
        ...

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        """The exact number of prompt tokens, or None where the backend cannot tell."""
        ...

    async def models(self) -> list[BackendModel]:
        """What the backend serves now; also its health check."""
        ...

    async def aclose(self) -> None:
        """Release connections, threads and memory."""
        ...
