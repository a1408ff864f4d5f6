"""The gate before a model: slots, a short fair queue, true waits, nothing lost."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from traghetto.clock import ManualClock, SystemClock
from traghetto.errors import ApiError, ErrorCode
from traghetto.limits.concurrency import Gate


def gate(slots: int | None = 1, queue: int = 4, seconds: float = 2.0, clock=None) -> Gate:
    return Gate(
        clock or SystemClock(), concurrency_max=slots, queue_max=queue, queue_seconds_max=seconds
    )


async def queued(entrance: Gate, principal: str, order: list[str], label: str) -> asyncio.Task:
    async def enter() -> None:
        await entrance.enter(principal)
        order.append(label)

    task = asyncio.create_task(enter())
    await asyncio.sleep(0)
    return task


async def drain(entrance: Gate, slots_held: int) -> None:
    for _ in range(slots_held):
        entrance.leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_without_a_limit_everybody_enters():
    """A model without a limit keeps no count and needs no loop."""
    entrance = gate(None)
    assert all(entrance.try_enter() for _ in range(1000))
    entrance.leave()
    assert (entrance.active, entrance.waiting) == (0, 0)


def test_slots_are_given_once_and_come_back():
    """As many enter at once as there are slots."""
    entrance = gate(2)
    assert [entrance.try_enter() for _ in range(3)] == [True, True, False]
    entrance.leave()
    assert entrance.try_enter()
    assert entrance.active == 2


def test_a_full_queue_refuses_at_once():
    """Where nobody may wait any more the answer is MODEL_AT_CAPACITY without delay."""

    async def scenario():
        entrance = gate(1, queue=1)
        entrance.try_enter()
        waiting = await queued(entrance, "a", [], "a")
        begin = time.monotonic()
        with pytest.raises(ApiError) as caught:
            await entrance.enter("b")
        assert time.monotonic() - begin < 0.02
        assert caught.value.code is ErrorCode.MODEL_AT_CAPACITY
        assert caught.value.retry_after_seconds >= 1
        entrance.leave()
        await waiting
        assert (entrance.active, entrance.waiting) == (1, 0)

    asyncio.run(scenario())


def test_waiting_ends_in_a_refusal():
    """A call that gets no slot in its time is refused and leaves nothing behind."""

    async def scenario():
        entrance = gate(1, seconds=0.05)
        entrance.try_enter()
        with pytest.raises(ApiError) as caught:
            await entrance.enter("a")
        assert caught.value.code is ErrorCode.MODEL_AT_CAPACITY
        assert (entrance.active, entrance.waiting) == (1, 0)
        entrance.leave()
        assert entrance.try_enter()

    asyncio.run(scenario())


def test_no_newcomer_overtakes_the_queue():
    """A freed slot belongs to a waiting call before anybody else can take it."""

    async def scenario():
        entrance = gate(1)
        entrance.try_enter()
        order: list[str] = []
        task = await queued(entrance, "a", order, "waited")
        entrance.leave()
        assert not entrance.try_enter()
        await task
        assert order == ["waited"]

    asyncio.run(scenario())


def test_accounts_take_turns():
    """A burst of one account delays its own calls, not the single call of another."""

    async def scenario():
        entrance = gate(1, queue=10, clock=ManualClock())
        entrance.try_enter()
        order: list[str] = []
        tasks = [await queued(entrance, "a", order, f"a{n}") for n in range(4)]
        tasks.append(await queued(entrance, "b", order, "b0"))
        tasks.append(await queued(entrance, "c", order, "c0"))
        await drain(entrance, 6)
        await asyncio.gather(*tasks)
        assert order == ["a0", "b0", "c0", "a1", "a2", "a3"]

    asyncio.run(scenario())


def test_late_calls_give_way_to_new_ones():
    """Once the oldest call has waited for half of its time, the newest goes first."""

    async def scenario():
        clock = ManualClock()
        entrance = gate(1, queue=10, clock=clock)
        entrance.try_enter()
        order: list[str] = []
        tasks = [await queued(entrance, "a", order, "old")]
        clock.advance(1.1)
        tasks.append(await queued(entrance, "a", order, "new"))
        await drain(entrance, 2)
        await asyncio.gather(*tasks)
        assert order == ["new", "old"]

    asyncio.run(scenario())


def test_cancelled_calls_lose_no_slot():
    """A call that is cancelled while waiting, or just as it is let in, keeps nothing."""

    async def scenario():
        entrance = gate(1)
        entrance.try_enter()
        waiting = await queued(entrance, "a", [], "a")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert entrance.waiting == 0
        granted = await queued(entrance, "a", [], "a")
        entrance.leave()
        granted.cancel()
        await asyncio.gather(granted, return_exceptions=True)
        assert (entrance.active, entrance.waiting) == (0, 0)
        assert entrance.try_enter()

    asyncio.run(scenario())


def test_cancellation_that_meets_a_refusal_is_quiet():
    """A call cancelled in the same turn in which its time ran out leaves no unread exception."""

    async def scenario():
        entrance = gate(1)
        entrance.try_enter()
        waiting = await queued(entrance, "a", [], "a")
        waiter = entrance._queues["a"][0]
        entrance._expire(waiter)
        waiting.cancel()
        outcome = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(outcome[0], asyncio.CancelledError)
        assert (entrance.active, entrance.waiting) == (1, 0)

    asyncio.run(scenario())


def test_the_wait_is_estimated_from_the_pace():
    """Retry-After is when a newcomer would be served within its waiting time."""

    async def scenario():
        clock = ManualClock()
        entrance = gate(2, queue=3, seconds=2.0, clock=clock)
        assert entrance.retry_after_seconds() == 2
        entrance.try_enter()
        entrance.try_enter()
        tasks = [await queued(entrance, "a", [], "a") for _ in range(3)]
        for _ in range(3):
            clock.advance(4.0)
            await drain(entrance, 1)
            tasks.append(await queued(entrance, "a", [], "a"))
        # Three wait and one leaves every 4 s: the fourth is served after 16 s, and may wait for 2.
        assert entrance.retry_after_seconds() == 14
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


def test_random_traffic_never_exceeds_the_slots():
    """Whatever comes, leaves, times out or is cancelled, slots are neither lost nor doubled."""

    async def scenario(seed: int):
        rng = random.Random(seed)
        entrance = gate(3, queue=6, seconds=0.004)
        inside = 0
        worst = 0

        async def call() -> None:
            nonlocal inside, worst
            try:
                await entrance.enter(rng.choice("abc"))
            except ApiError:
                return
            inside += 1
            worst = max(worst, inside)
            try:
                await asyncio.sleep(rng.random() * 0.004)
            finally:
                inside -= 1
                entrance.leave()

        tasks = []
        for _ in range(150):
            tasks.append(asyncio.create_task(call()))
            if rng.random() < 0.3:
                rng.choice(tasks).cancel()
            if rng.random() < 0.4:
                await asyncio.sleep(0.001)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert worst <= 3
        assert (entrance.active, entrance.waiting, entrance._queues) == (0, 0, {})

    for seed in range(5):
        asyncio.run(scenario(seed))
