"""Both clients behind one call, so that a test is written once and holds for each."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from traghetto.client import AsyncClient, ChatEvent, Client

MESSAGES = [{"role": "user", "content": "Say something about ferries."}]


class AtOnce(Random):
    """Draws the shortest wait: what is waited is what the server asked for."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b)


@dataclass
class Front:
    """The one client or the other."""

    is_async: bool

    def ask(self, work: Callable[[Any], Any], **options: Any) -> Any:
        """What `work` returns, or what is awaited of it, with a client that has these options."""
        options = {"random": AtOnce(), **options}
        if not self.is_async:
            with Client(**options) as client:
                return work(client)

        async def asked() -> Any:
            async with AsyncClient(**options) as client:
                result = work(client)
                return await result if inspect.isawaitable(result) else result

        return asyncio.run(asked())

    def chat(self, model: str = "a", **options: Any) -> Any:
        """The whole answer to a usual question."""
        return self.ask(lambda client: client.chat(model, MESSAGES), **options)

    def stream(self, model: str = "a", **options: Any) -> Streamed:
        """Everything that a stream brought, and how it ended."""
        got = Streamed()
        self.ask(lambda client: got.read(client.stream_chat(model, MESSAGES)), **options)
        return got


@dataclass
class Streamed:
    """What came of a stream."""

    events: list[ChatEvent] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    def read(self, stream: Any) -> Any:
        return self._read_async(stream) if hasattr(stream, "__aiter__") else self._read(stream)

    def _read(self, stream: Any) -> None:
        try:
            with stream:
                self.headers = stream.headers
                for event in stream:
                    self.events.append(event)
        except Exception as error:
            self.error = error

    async def _read_async(self, stream: Any) -> None:
        try:
            async with stream:
                self.headers = stream.headers
                async for event in stream:
                    self.events.append(event)
        except Exception as error:
            self.error = error
