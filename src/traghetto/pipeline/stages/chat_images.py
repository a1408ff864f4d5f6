"""The images of a chat, read before its prompt is counted (contract A.3, step 14, and B.1.4).

A short request can name many large images, so everything about them is bounded together: how many
are read at once, how long that takes, and how much memory they keep until the request ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from traghetto.engines.image_protocols import Picture
from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.stages.pictures import Media, Wanted, no_room, read_picture
from traghetto.pipeline.stages.receive import Received
from traghetto.wire.images import SourceAt

IMAGES_AT_ONCE: Final = 4
"""How many images of one request are fetched and decoded at the same time."""
IMAGES_SECONDS_MAX: Final = 60.0
"""How long the images of one request may take together."""
IMAGES_BYTES_MAX: Final = 134_217_728
"""The files of one request's images together."""


async def read_chat_images(
    media: Media,
    received: Received,
    exchange: Exchange,
    images: Sequence[SourceAt],
    principal: str,
) -> list[Picture]:
    """The images in their order; of several bad ones the first is told.

    Raises ClientGone, and ApiError: CORRUPTED_IMAGE, IMAGE_TOO_SMALL, IMAGE_TOO_LARGE,
    IMAGE_NOT_ACCEPTED for what cannot be fetched or is no image, INVALID_REQUEST for a format that
    this server was not given a decoder for, PAYLOAD_TOO_LARGE for too many bytes together,
    MODEL_AT_CAPACITY.
    """
    with exchange.watch_disconnect():
        try:
            async with asyncio.timeout(IMAGES_SECONDS_MAX):
                return await _read(media, received, images, principal)
        except TimeoutError:
            reason = f"the images of a request took more than {IMAGES_SECONDS_MAX:g} s"
            raise ApiError(Adjunct.IMAGE_NOT_ACCEPTED, reason=reason) from None


async def _read(
    media: Media, received: Received, images: Sequence[SourceAt], principal: str
) -> list[Picture]:
    turns = asyncio.Semaphore(IMAGES_AT_ONCE)
    sizes: list[int] = []

    async def read(image: SourceAt) -> Picture:
        async with turns:
            picture = await read_picture(media, Wanted(image), principal, is_chat=True)
        sizes.append(len(picture.data))
        if sum(sizes) > IMAGES_BYTES_MAX:
            raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE, reason="its images together")
        if not received.keeps(sizes[-1]):
            raise no_room()
        return picture

    tasks = [asyncio.create_task(read(image)) for image in images]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        # Also takes note of what else went wrong, which nobody is told.
        await asyncio.gather(*tasks, return_exceptions=True)
