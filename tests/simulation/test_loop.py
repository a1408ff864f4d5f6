"""The simulated loop keeps asyncio's promises, and draws lots only where asyncio makes none."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator

import pytest

from simulation.loop import NothingLeft, SimulatedClock, SimulatedLoop


def loop_of(seed: int) -> SimulatedLoop:
    return SimulatedLoop(random.Random(seed))


def test_callbacks_run_in_the_order_of_their_registration() -> None:
    """That is asyncio's promise, and no lot touches it."""

    async def register() -> list[int]:
        ran: list[int] = []
        for number in range(50):
            loop.call_soon(ran.append, number)
        await asyncio.sleep(0)
        return ran

    for seed in range(20):
        loop = loop_of(seed)
        assert loop.run_until_complete(register()) == list(range(50))


def test_events_of_one_moment_come_in_any_order() -> None:
    """Who sleeps until the same moment wakes in an order that the seed decides."""

    async def order() -> tuple[int, ...]:
        woke: list[int] = []

        async def sleeper(number: int) -> None:
            await asyncio.sleep(1.0)
            woke.append(number)

        await asyncio.gather(*map(sleeper, range(3)))
        return tuple(woke)

    orders = {loop_of(seed).run_until_complete(order()) for seed in range(100)}
    assert len(orders) == 6


def test_time_passes_without_waiting() -> None:
    """A simulated day takes no time, and ends no earlier than it should."""
    loop = loop_of(1)
    clock = SimulatedClock(loop, 10**18)
    began, wall = clock.monotonic(), time.monotonic()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert 86_400 <= clock.monotonic() - began < 86_400.01
    assert clock.utc_ns() - 10**18 == pytest.approx(86_400e9, rel=1e-6)
    assert time.monotonic() - wall < 5


def test_deadlines_and_cancellation_work() -> None:
    """What the product uses of asyncio behaves as it does elsewhere."""

    async def too_late() -> str:
        try:
            async with asyncio.timeout(0.5):
                await asyncio.sleep(10)
        except TimeoutError:
            return "late"
        return "in time"

    async def in_time() -> str:
        async with asyncio.timeout(10):
            await asyncio.wait([asyncio.create_task(too_late())])
        return "in time"

    assert loop_of(1).run_until_complete(too_late()) == "late"
    assert loop_of(1).run_until_complete(in_time()) == "in time"


def test_waiting_for_nothing_is_an_error() -> None:
    """A deadlock ends the run instead of hanging it."""
    loop = loop_of(1)

    async def forever() -> None:
        await loop.create_future()

    with pytest.raises(NothingLeft):
        loop.run_until_complete(forever())


def test_a_generator_left_open_is_noticed() -> None:
    """An async generator that nobody closes may hold a connection."""
    loop = loop_of(1)

    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def take_one() -> None:
        async for _ in numbers():
            break

    loop.run_until_complete(take_one())
    gc.collect()
    assert len(loop.complaints) == 1
    assert "numbers" in loop.complaints[0]
