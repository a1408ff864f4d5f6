"""The pool of one image model: what an attempt is, and when its answer counts as good.

Choice of a replica, retries and health are `engines.replicas`'. Work that may still be running is
not repeated: a deadline that passes ends the call.

Invariants: calls raise `EngineFailure`, what `take` raises, and nothing else; every attempt
ends exactly once; cancelling a call closes its connection; an answer has as many images as were
asked for, none of them empty or larger than `IMAGE_BYTES_MAX`; a backend has succeeded when `take`
has taken all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast

from traghetto.engines.breaker import Evidence
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_answers import checked_image
from traghetto.engines.image_protocols import (
    PRINCIPAL,
    BackgroundCall,
    BackgroundRemover,
    EditCall,
    EngineImage,
    GenerateCall,
    ImageBackend,
    ImageCall,
    ImageEditor,
    ImageGenerator,
    ImageUpscaler,
    Picture,
    UpscaleCall,
)
from traghetto.engines.member import Attempt
from traghetto.engines.replicas import ReplicaPool, before

__all__ = ["ImagePool", "Take"]

Take = Callable[[EngineImage], Awaitable[EngineImage]]
"""What becomes of a backend's image; raises EngineFailure where the backend is to blame."""

_CallT = TypeVar("_CallT", GenerateCall, EditCall, UpscaleCall, BackgroundCall)


async def _as_it_is(image: EngineImage) -> EngineImage:
    return image


class _Able(ImageGenerator, ImageEditor, ImageUpscaler, BackgroundRemover, Protocol):
    """A backend of which it is not known yet what it can do."""


class ImagePool(ReplicaPool[ImageBackend]):
    """Everything that serves one image model.

    A call that no replica is made for is refused as REJECTED_INPUT: the catalogue decides which
    calls a model gets, and a backend is no worse for one that went astray.
    """

    async def generate(
        self, call: GenerateCall, principal: str, take: Take = _as_it_is
    ) -> list[EngineImage]:
        """`call.count` images of a description; raises EngineFailure."""
        return await self._images(
            lambda backend: backend.generate, call, principal, take, call.count
        )

    async def edit(self, call: EditCall, principal: str, take: Take = _as_it_is) -> EngineImage:
        """A changed image; raises EngineFailure."""
        return await self._image(lambda backend: backend.edit, call, principal, take)

    async def upscale(
        self, call: UpscaleCall, principal: str, take: Take = _as_it_is
    ) -> EngineImage:
        """A larger image; raises EngineFailure."""
        return await self._image(lambda backend: backend.upscale, call, principal, take)

    async def remove_background(
        self, call: BackgroundCall, principal: str, take: Take = _as_it_is
    ) -> EngineImage:
        """A foreground on transparent ground; raises EngineFailure."""
        return await self._image(lambda backend: backend.remove_background, call, principal, take)

    async def _image(
        self,
        ability: Callable[[_Able], Callable[[_CallT], Awaitable[EngineImage]]],
        call: _CallT,
        principal: str,
        take: Take,
    ) -> EngineImage:
        def of_many(backend: _Able) -> Callable[[_CallT], Awaitable[list[EngineImage]]]:
            make = ability(backend)

            async def make_one(call: _CallT) -> list[EngineImage]:
                return [await make(call)]

            return make_one

        (image,) = await self._images(of_many, call, principal, take, 1)
        return image

    async def _images(
        self,
        ability: Callable[[_Able], Callable[[_CallT], Awaitable[list[EngineImage]]]],
        call: _CallT,
        principal: str,
        take: Take,
        count: int,
    ) -> list[EngineImage]:
        """`count` good images, made by the method that `ability` finds on a backend."""
        PRINCIPAL.set(principal)
        deadline = asyncio.get_running_loop().time() + self._deadlines.total_seconds

        async def attempt_images(attempt: Attempt[ImageBackend]) -> list[EngineImage]:
            try:
                make = ability(cast("_Able", attempt.member.backend))
            except AttributeError:
                raise EngineFailure(
                    FailureKind.REJECTED_INPUT, "the backend cannot do what was asked for"
                ) from None
            images = await before(deadline, make(call))
            if len(images) < count:
                raise EngineFailure(FailureKind.BROKEN, "fewer images than asked for")
            good = [await take(checked_image(image)) for image in images[:count]]
            attempt.succeeded()
            return good

        return await self._run(attempt_images, lambda: _evidence(call, principal), deadline)


def _evidence(call: ImageCall, principal: str) -> Evidence:
    """What a breaker is shown when `call` fails: equal requests of one caller count as one.

    Pictures count by their sizes, because hashing megabytes for each failure would make failing
    the most expensive thing to do.
    """
    sizes = tuple((len(p.data), p.width, p.height) for p in _pictures(call))
    prompt = call.prompt if isinstance(call, GenerateCall | EditCall) else ""
    wanted = () if isinstance(call, BackgroundCall) else (call.width, call.height)
    return Evidence(principal, hash((type(call), prompt, wanted, sizes)))


def _pictures(call: ImageCall) -> tuple[Picture, ...]:
    match call:
        case GenerateCall():
            return tuple(reference.picture for reference in call.references)
        case EditCall():
            return call.pictures
        case UpscaleCall() | BackgroundCall():
            return (call.picture,)
