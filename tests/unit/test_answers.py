"""Claims on idempotency keys, without a gateway: what many and patient duplicates come to."""

from __future__ import annotations

import asyncio

import pytest

from support.books import account_row, key_row
from traghetto.clock import ManualClock
from traghetto.errors import ApiError, ErrorCode
from traghetto.idempotency.answers import Answers, Claim, KeptAnswer
from traghetto.idempotency.seal import seal_of
from traghetto.storage.memory import MemoryDisk, MemoryStore

DUPLICATES = 1000
SEAL = seal_of("an API key", "an idempotency key")
ANSWER = KeptAnswer("a model", ((b"content-type", b"text/plain"),), b"an answer")


class CountingStore(MemoryStore):
    """Counts how often it is asked for an answer."""

    asked = 0

    async def find_answer(self, handle: bytes) -> object:
        self.asked += 1
        return await super().find_answer(handle)


async def claim(answers: Answers, wait_seconds_max: float = 10) -> Claim | KeptAnswer:
    return await answers.claim(SEAL, b"a request", "k", "a", wait_seconds_max)


def test_a_thousand_duplicates_read_the_answer_once() -> None:
    """All who wait share what the first one was answered; nobody queues up for the disk."""

    async def run() -> None:
        store = CountingStore(MemoryDisk())
        store.submit((account_row(), key_row()))
        answers = Answers(store, ManualClock(), kept_bytes_max=1_000_000)
        first = await claim(answers)
        assert isinstance(first, Claim)
        waiting = [asyncio.create_task(claim(answers)) for _ in range(DUPLICATES)]
        await asyncio.sleep(0)
        assert first.waiting == DUPLICATES
        await store.submit(first.keep(ANSWER))
        first.settled()
        assert await asyncio.gather(*waiting) == [ANSWER] * DUPLICATES
        assert store.asked == 1
        await store.aclose()

    asyncio.run(run())


def test_of_those_who_wait_for_nothing_one_takes_over() -> None:
    """A claim that ends without an answer passes to one of them; the others wait for that one."""

    async def run() -> None:
        store = CountingStore(MemoryDisk())
        answers = Answers(store, ManualClock(), kept_bytes_max=1_000_000)
        first = await claim(answers)
        assert isinstance(first, Claim)
        waiting = [asyncio.create_task(claim(answers)) for _ in range(DUPLICATES)]
        await asyncio.sleep(0)
        with first:
            pass
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(pending)) == (1, DUPLICATES - 1)
        assert store.asked == 2
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        await store.aclose()

    asyncio.run(run())


def test_a_duplicate_waits_no_longer_than_it_may() -> None:
    """Then it is told that it took too long, and the claim is where it was."""

    async def run() -> None:
        store = MemoryStore(MemoryDisk())
        answers = Answers(store, ManualClock(), kept_bytes_max=1_000_000)
        first = await claim(answers)
        assert isinstance(first, Claim)
        with pytest.raises(ApiError) as refused:
            await claim(answers, wait_seconds_max=0.01)
        assert refused.value.code is ErrorCode.REQUEST_TIMEOUT
        assert first.waiting == 0
        assert not first.ended.done()
        await store.aclose()

    asyncio.run(run())
