"""Which model servers run on this machine: a few loopback ports, asked once and briefly.

Invariants: only loopback is contacted; nothing found is used, it is suggested with the command
that would use it; a server that does not list models in the OpenAI form is not a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

PROBE_SECONDS_MAX: Final = 0.3
MODELS_MAX: Final = 1000
_IDS_SHOWN: Final = 3

FetchModels = Callable[[str], Awaitable[Any]]
"""Gives the decoded body of `GET <base url>/models`; raises OSError, ValueError or TimeoutError
where there is none."""


@dataclass(frozen=True, slots=True)
class UsualServer:
    """A model server and the port it listens on unless told otherwise."""

    name: str
    port: int

    @property
    def url(self) -> str:
        """Its base URL on this machine."""
        return f"http://127.0.0.1:{self.port}/v1"


USUAL_SERVERS: Final = (
    UsualServer("Ollama", 11434),
    UsualServer("llama.cpp", 8080),
    UsualServer("LM Studio", 1234),
    UsualServer("vLLM", 8000),
)

_NAME_OF_OWNER: Final = {
    "library": "Ollama",
    "llamacpp": "llama.cpp",
    "organization_owner": "LM Studio",
    "vllm": "vLLM",
    "sglang": "SGLang",
}
"""What servers write in `owned_by`; it tells them apart when they swap ports."""

_GATEWAY_OWNER: Final = "venice.ai"
"""Another gateway of our kind: to suggest it would invite a loop."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A server that answered, and how to use it."""

    server: str
    url: str
    model_ids: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command that puts it behind the gateway."""
        return f"traghetto serve --upstream {self.url}"

    def line(self) -> str:
        """The line an operator reads at start."""
        shown = ", ".join(self.model_ids[:_IDS_SHOWN]) or "no model loaded"
        more = len(self.model_ids) - _IDS_SHOWN
        names = f"{shown} and {more} more" if more > 0 else shown
        return f"{self.server} answers at {self.url} ({names}). To use it: {self.command}"


async def discover(
    fetch_models: FetchModels, servers: Sequence[UsualServer] = USUAL_SERVERS
) -> list[Suggestion]:
    """Ask every usual server at once, each for at most `PROBE_SECONDS_MAX`."""
    found = await asyncio.gather(*(_probe(fetch_models, server) for server in servers))
    return [suggestion for suggestion in found if suggestion is not None]


async def _probe(fetch_models: FetchModels, server: UsualServer) -> Suggestion | None:
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            answer = await fetch_models(server.url)
    except (OSError, ValueError, TimeoutError):
        return None
    return recognise(answer, server)


def recognise(answer: Any, server: UsualServer) -> Suggestion | None:
    """What the decoded body of a models listing tells; None where it is no such listing."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    # Ollama without a model sends null instead of an empty list.
    if entries is None and isinstance(answer, dict) and answer.get("object") == "list":
        entries = []
    if not isinstance(entries, list):
        return None
    ids: list[str] = []
    name = server.name
    for entry in entries[:MODELS_MAX]:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            return None
        owner = entry.get("owned_by")
        if owner == _GATEWAY_OWNER:
            return None
        name = _NAME_OF_OWNER.get(owner, name) if isinstance(owner, str) else name
        ids.append(entry["id"])
    return Suggestion(name, server.url, tuple(ids))
