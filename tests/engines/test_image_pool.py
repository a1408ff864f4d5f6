"""The pool of an image model: what counts as an answer, what is retried, what a breaker is shown.

The backends here are functions in this process: the pool sees values and failures, and where they
come from is the adapters' business, whose tests use sockets.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from support.image_servers import picture, png
from traghetto.clock import ManualClock
from traghetto.engines import image_answers
from traghetto.engines.breaker import SINGLE_USER, BreakerState, Guard
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_pool import ImagePool, _evidence
from traghetto.engines.image_protocols import (
    BackgroundCall,
    EditCall,
    EngineImage,
    GenerateCall,
    Picture,
    Reference,
    UpscaleCall,
)
from traghetto.engines.member import Replica
from traghetto.engines.protocols import BackendModel, Deadlines
from traghetto.workers.failures import WorkersBusy

K = FailureKind
GOOD = EngineImage(png())
GENERATE = GenerateCall(request_id="r", prompt="a boat", width=64, height=64)
EDIT = EditCall(request_id="r", prompt="bluer", pictures=(picture(),))
UPSCALE = UpscaleCall(request_id="r", picture=picture(), width=16, height=16)
BACKGROUND = BackgroundCall(request_id="r", picture=picture())

Act = Callable[[], Awaitable[Any]]


class Painter:
    """A backend that generates, and does nothing else."""

    def __init__(self, name: str, act: Act) -> None:
        self.name = name
        self.act = act
        self.calls = 0

    async def generate(self, call: GenerateCall) -> list[EngineImage]:
        self.calls += 1
        images: list[EngineImage] = await self.act()
        return images

    async def models(self) -> list[BackendModel]:
        return []

    async def aclose(self) -> None:
        pass


class _Unhashable(bytes):
    """Megabytes that nobody may read for a hash."""

    def __hash__(self) -> int:
        raise AssertionError("the bytes of a picture were hashed")


class Editor(Painter):
    """A backend that does everything else."""

    async def edit(self, call: EditCall | UpscaleCall | BackgroundCall) -> EngineImage:
        self.calls += 1
        image: EngineImage = await self.act()
        return image

    upscale = edit
    remove_background = edit


def giving(value: Any) -> Act:
    async def act() -> Any:
        if isinstance(value, EngineFailure):
            raise value
        return value

    return act


def pool_of(
    *acts: Act, kind: type[Painter] = Painter, guard: Guard | None = None, **options: Any
) -> tuple[ImagePool, list[Painter], Counter[str]]:
    outcomes: Counter[str] = Counter()
    painters = [kind(f"b{i}", act) for i, act in enumerate(acts)]
    pool = ImagePool(
        "model",
        [Replica(painter) for painter in painters],
        deadlines=options.pop("deadlines", Deadlines()),
        clock=ManualClock(),
        rng=random.Random(7),
        guard=lambda: guard or Guard(),
        on_attempt=lambda model, backend, outcome: outcomes.update([outcome]),
    )
    return pool, painters, outcomes


async def failure_of(work: Awaitable[Any]) -> EngineFailure:
    with pytest.raises(EngineFailure) as caught:
        await work
    return caught.value


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_images_come_back_as_the_backend_made_them() -> None:
    """As many as asked for, and no more where a backend is generous."""

    async def test() -> None:
        pool, _, outcomes = pool_of(giving([GOOD, EngineImage(b"", is_own=True)]))
        assert await pool.generate(GENERATE, "alice") == [GOOD]
        assert outcomes == {"ok": 1}
        assert pool.members[0].outstanding == 0

    run(test)


def test_every_kind_of_work_reaches_the_backend() -> None:
    """Editing, upscaling and removing backgrounds give one image each."""

    async def test() -> None:
        pool, (painter,), outcomes = pool_of(giving(GOOD), kind=Editor)
        assert await pool.edit(EDIT, "alice") is GOOD
        assert await pool.upscale(UPSCALE, "alice") is GOOD
        assert await pool.remove_background(BACKGROUND, "alice") is GOOD
        assert painter.calls == 3
        assert outcomes == {"ok": 3}

    run(test)


def test_work_that_no_replica_does_is_refused_and_held_against_nobody() -> None:
    """The breaker stays closed, however often a call goes astray."""

    async def test() -> None:
        pool, (painter,), outcomes = pool_of(giving([GOOD]))
        for number in range(8):
            failure = await failure_of(pool.edit(EDIT, f"user-{number}"))
            assert failure.kind is K.REJECTED_INPUT
        assert painter.calls == 0
        assert outcomes == {"rejected_input": 8}
        assert pool.members[0].breaker.state is BreakerState.CLOSED

    run(test)


@pytest.mark.parametrize(
    ("images", "kind", "calls"),
    [
        ([], K.BROKEN, 2),
        ([EngineImage(b"")], K.BROKEN, 2),
        ([EngineImage(b"<html>an image")], K.BROKEN, 2),
        ([EngineImage(b"GIF88a" + bytes(64))], K.BROKEN, 2),
        ([EngineImage(b"\0\0\0\x18ftypmp42\0\0\0\0avifmif1")], K.BROKEN, 2),
        ([EngineImage(png() + b"x" * 100_000)], K.UNUSABLE, 1),
    ],
    ids=["none", "empty", "no image", "no GIF", "a film", "too large"],
)
def test_an_answer_that_is_none_counts_against_the_backend(
    images: list[EngineImage], kind: FailureKind, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BROKEN is tried once more; UNUSABLE would be as large again."""
    monkeypatch.setattr(image_answers, "IMAGE_BYTES_MAX", 100_000)

    async def test() -> None:
        pool, (painter,), _ = pool_of(giving(images))
        assert (await failure_of(pool.generate(GENERATE, "alice"))).kind is kind
        assert painter.calls == calls
        assert pool.members[0].breaker._consecutive == calls
        assert pool.members[0].outstanding == 0

    run(test)


@pytest.mark.parametrize("brand", [b"heim", b"hevc", b"heic", b"avis", b"avif"])
def test_whatever_the_gateway_reads_is_taken_from_a_backend(brand: bytes) -> None:
    """One table says what an image is, of callers and of backends."""
    image = EngineImage(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1miaf")

    async def test() -> None:
        pool, _, _ = pool_of(giving([image]))
        assert await pool.generate(GENERATE, "alice") == [image]

    run(test)


def test_a_backend_has_succeeded_when_its_image_could_be_taken() -> None:
    """One whose images can never be decoded is left alone after a while, as any broken one is;
    trouble of our own with an image is not the backend's."""

    async def no_image(_: EngineImage) -> EngineImage:
        raise EngineFailure(K.BROKEN, "cannot be decoded")

    async def trouble(_: EngineImage) -> EngineImage:
        raise WorkersBusy("all of them")

    async def test() -> None:
        pool, _, outcomes = pool_of(giving([GOOD]), guard=SINGLE_USER)
        for _ in range(8):
            with pytest.raises(WorkersBusy):
                await pool.generate(GENERATE, "alice", trouble)
        breaker = pool.members[0].breaker
        assert outcomes == {"abandoned": 8}
        assert breaker.state is BreakerState.CLOSED
        for _ in range(3):
            assert (await failure_of(pool.generate(GENERATE, "a", no_image))).kind is K.BROKEN
        assert breaker.state is BreakerState.OPEN
        assert (await failure_of(pool.generate(GENERATE, "a"))).kind is K.OFFLINE
        assert pool.members[0].outstanding == 0

    run(test)


def test_fewer_images_than_asked_for_are_no_answer() -> None:
    """The caller would pay for four."""

    async def test() -> None:
        pool, _, _ = pool_of(giving([GOOD] * 3))
        call = GenerateCall(request_id="r", prompt="x", width=8, height=8, count=4)
        assert (await failure_of(pool.generate(call, "alice"))).kind is K.BROKEN

    run(test)


def test_another_replica_answers_for_one_that_fails() -> None:
    """The caller does not notice."""

    async def test() -> None:
        broken = giving(EngineFailure(K.BROKEN, "scripted"))
        pool, painters, outcomes = pool_of(broken, giving([GOOD]))
        for _ in range(3):
            assert await pool.generate(GENERATE, "alice") == [GOOD]
        assert painters[1].calls == 3
        assert outcomes["ok"] == 3

    run(test)


def test_a_deadline_is_absolute_and_not_retried() -> None:
    """`total_seconds` for the whole call; the work may still be running, so nobody repeats it."""

    async def test() -> None:
        pool, painters, outcomes = pool_of(
            lambda: asyncio.sleep(60),
            lambda: asyncio.sleep(60),
            deadlines=Deadlines(total_seconds=0.05),
        )
        assert (await failure_of(pool.generate(GENERATE, "alice"))).kind is K.TIMED_OUT
        assert sum(painter.calls for painter in painters) == 1
        assert outcomes == {"timed_out": 1}

    run(test)


def test_who_gives_up_says_nothing_about_the_backend() -> None:
    """A cancelled call is abandoned, not failed."""

    async def test() -> None:
        pool, _, outcomes = pool_of(lambda: asyncio.sleep(60))
        task = asyncio.ensure_future(pool.generate(GENERATE, "alice"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert outcomes == {"abandoned": 1}
        assert pool.members[0].outstanding == 0

    run(test)


def test_one_poisonous_request_cannot_take_a_model_from_everybody() -> None:
    """Equal requests of one caller are one piece of evidence; three different ones open."""

    async def test() -> None:
        pool, (painter,), _ = pool_of(giving(EngineFailure(K.UNUSABLE, "scripted")))
        for _ in range(10):
            await failure_of(pool.generate(GENERATE, "alice"))
        assert pool.members[0].breaker.state is BreakerState.CLOSED
        for prompt in ("another", "and another"):
            call = GenerateCall(request_id="r", prompt=prompt, width=64, height=64)
            await failure_of(pool.generate(call, "alice"))
        assert pool.members[0].breaker.state is BreakerState.OPEN
        assert (await failure_of(pool.generate(GENERATE, "bob"))).kind is K.OFFLINE
        assert painter.calls == 12

    run(test)


def test_evidence_tells_requests_apart_without_reading_their_pixels() -> None:
    """Prompt, sizes and kind of work; 30 megabytes of picture cost no more than none."""
    large = Picture(bytes(30 << 20), "png", 4000, 4000, has_alpha=False)
    calls = [
        GENERATE,
        GenerateCall(request_id="r", prompt="a ship", width=64, height=64),
        GenerateCall(request_id="r", prompt="a boat", width=64, height=128),
        GenerateCall(
            request_id="r",
            prompt="a boat",
            width=64,
            height=64,
            references=(Reference(large, 0.5),),
        ),
        EDIT,
        EditCall(request_id="r", prompt="bluer", pictures=(large,)),
        UPSCALE,
        UpscaleCall(request_id="r", picture=large, width=16, height=16),
        BACKGROUND,
        BackgroundCall(request_id="r", picture=large),
    ]
    hashes = [_evidence(call, "alice").request_hash for call in calls]
    assert len(set(hashes)) == len(calls)
    assert hashes == [_evidence(call, "bob").request_hash for call in calls]
    unread = Picture(_Unhashable(1000), "png", 16, 16, has_alpha=False)
    _evidence(BackgroundCall(request_id="r", picture=unread), "alice")
