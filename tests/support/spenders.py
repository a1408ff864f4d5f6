"""Many clients at once, on one thread, over sockets of their own, and the log that they keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp

from support.client import CHAT, SECONDS_MAX, Answer
from support.gateway import RunningGateway

NANO = 10**9


@dataclass(frozen=True)
class Told:
    """What an answer said of its price, and whose it was."""

    request_id: str
    key: str
    currency: str
    nano_usd: int


@dataclass
class Crowd:
    """Clients of one gateway, and what they were told."""

    gateway: RunningGateway
    session: aiohttp.ClientSession
    told: list[Told] = field(default_factory=list)
    refusals: list[Answer] = field(default_factory=list)
    """Answers that are not 200, in order."""
    holds_max: int = 0
    """The most holds that were seen open at once."""

    async def ask(self, key: str, body: dict[str, Any]) -> Answer:
        """Send one chat request, and take down its answer."""
        headers = {"authorization": f"Bearer {key}"}
        async with self.session.post(CHAT, json=body, headers=headers) as response:
            content = await response.read()
            found = {name.lower(): value for name, value in response.headers.items()}
            answer = Answer(response.status, response.reason or "", found, content)
        if answer.status == 200:
            self.told.append(told_by(answer, key))
        else:
            self.refusals.append(answer)
        return answer

    @asynccontextmanager
    async def watching_holds(self) -> AsyncIterator[None]:
        """Look at the open holds all the time, to know how many requests really met."""

        async def watch() -> None:
            while True:
                self.holds_max = max(self.holds_max, self.gateway.gateway.book.open_holds)
                await asyncio.sleep(0.002)

        watcher = asyncio.ensure_future(watch())
        try:
            yield
        finally:
            watcher.cancel()


@asynccontextmanager
async def crowd(gateway: RunningGateway) -> AsyncIterator[Crowd]:
    """Clients with as many connections as they have requests."""
    async with aiohttp.ClientSession(
        gateway.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=SECONDS_MAX),
    ) as session:
        yield Crowd(gateway, session)


def told_by(answer: Answer, key: str) -> Told:
    """What a paid answer says of its price; fails for a stream that broke, or holds nothing."""
    last = answer.body
    if answer.headers["content-type"].startswith("text/event-stream"):
        *frames, last, end = answer.frames
        assert end == b"[DONE]"
        assert any(b'"finish_reason":"' in frame for frame in frames), "a stream that broke"
    members = json.loads(last, parse_float=Decimal)
    assert members["usage"]["completion_tokens"] > 0, "an answer without output"
    paid = {name: Decimal(amount) * NANO for name, amount in members["cost"].items() if amount}
    [(name, amount)] = paid.items()
    assert amount == int(amount), "a cost is told to the nano-dollar"
    return Told(answer.request_id, key, name.upper(), int(amount))
