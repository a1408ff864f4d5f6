"""A pool over an adapter and one scripted server, and the table of faults that all adapters share."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from support import upstream as up
from support.image_servers import ImageServer
from support.upstream import Act
from traghetto.clock import SystemClock
from traghetto.engines.breaker import SINGLE_USER, BreakerState
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.image_protocols import ImageBackend
from traghetto.engines.member import Replica
from traghetto.engines.openai.client import HttpClient
from traghetto.engines.protocols import Deadlines

K = FailureKind
SHORT = Deadlines(total_seconds=0.4)
Adapter = Callable[[HttpClient], ImageBackend]


@asynccontextmanager
async def pool_at(url: str, adapter: Adapter, **options: Any) -> AsyncIterator[ImagePool]:
    """A pool of one replica: `adapter` at `url`."""
    pool = ImagePool(
        "model",
        [Replica(adapter(HttpClient(url)))],
        **{
            "deadlines": Deadlines(total_seconds=20),
            "clock": SystemClock(),
            "rng": random.Random(5),
            "guard": lambda: SINGLE_USER,
            **options,
        },
    )
    try:
        yield pool
    finally:
        await pool.aclose()


@dataclass(frozen=True)
class Fault:
    """What a server does with a request for work, and what becomes of it."""

    name: str
    act: Act
    kind: FailureKind
    attempts: int
    counts: int
    """Failures that the breaker counted; -1 if it opened at once."""
    retry_after: int | None = None


def refusing(status: int, body: Any = None, **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return up.answer_json({"detail": "no"} if body is None else body, status, named)


SHARED_FAULTS = [
    Fault("close", up.close, K.BROKEN, 2, 2),
    Fault("reset", up.reset, K.BROKEN, 2, 2),
    Fault("hang", up.hang, K.TIMED_OUT, 1, 1),
    Fault("slow headers", up.slow_headers(0.02), K.TIMED_OUT, 1, 1),
    Fault("cut", up.truncated(b'{"images":["', length=99), K.BROKEN, 2, 2),
    Fault("cut cleanly", up.truncated(b'{"images":["'), K.BROKEN, 2, 2),
    Fault("HTML in a 200", up.answer(200, b"<html>", content_type="text/html"), K.BROKEN, 2, 2),
    Fault("not JSON", up.answer(200, b"{]"), K.BROKEN, 2, 2),
    Fault("not an object", up.answer_json([1]), K.BROKEN, 2, 2),
    Fault("401", refusing(401), K.MISCONFIGURED, 1, -1),
    Fault("404", refusing(404), K.MISCONFIGURED, 1, -1),
    Fault("413", refusing(413), K.TOO_LARGE, 1, 0),
    Fault("429", refusing(429, retry_after="7"), K.OVERLOADED, 1, 0, 7),
    Fault("500", refusing(500), K.BROKEN, 2, 2),
    Fault("502", up.answer(502, b"<html>", content_type="text/html"), K.BROKEN, 2, 2),
    Fault("503", refusing(503, retry_after="3"), K.AT_CAPACITY, 1, 0, 3),
    Fault("504", refusing(504), K.TIMED_OUT, 1, 1),
    Fault("redirect", refusing(307, location="http://127.0.0.1:1/"), K.REDIRECTED, 1, -1),
    Fault("large header", up.oversized_header(200_000), K.UNUSABLE, 1, 1),
    Fault("compressed", up.compressed(), K.UNUSABLE, 1, 1),
]
"""Faults of HTTP, which mean the same for every adapter."""


async def check_fault(
    fault: Fault,
    server: ImageServer,
    adapter: Adapter,
    work: Callable[[ImagePool], Awaitable[object]],
    path: str,
) -> None:
    """`server` answers every request for `path` with the fault; `work` must fail as it says."""
    server.acts[path] = fault.act
    async with server, pool_at(server.base, adapter, deadlines=SHORT) as pool:
        with pytest.raises(EngineFailure) as caught:
            await work(pool)
        assert caught.value.kind is fault.kind
        assert server.paths().count(path) == fault.attempts
        breaker = pool.members[0].breaker
        counted = -1 if breaker.state is BreakerState.OPEN else breaker._consecutive
        assert counted == fault.counts
        if fault.retry_after is not None:
            assert caught.value.retry_after_seconds == fault.retry_after
        assert pool.members[0].outstanding == 0
