"""Images of a request, read: fetched where they are URLs, decoded whole, and judged by their size.

Contract A.3, step 14, and A.2, codes 16, 17, 22 and 26. Nothing that a caller sends is decoded in
this process, and no backend is given a URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from traghetto.engines.image_protocols import Picture
from traghetto.errors import Adjunct, ApiError, Code, ErrorCode, sentences
from traghetto.media.fetching import Fetcher, FetchFault, FetchRefused
from traghetto.media.images import (
    Finish,
    ImageFault,
    ImageReader,
    ImageRefused,
    ImageRules,
    ReadImage,
)
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.stages.receive import Received
from traghetto.wire.image_files import sniff
from traghetto.wire.images import Source, SourceAt
from traghetto.wire.zod import custom_issue, refusal
from traghetto.workers.failures import WorkersBusy

SIDE_PIXELS_MIN: Final = 64
EDITED_PIXELS_MIN: Final = 65_536
"""Of images that are changed or enlarged; those that are only looked at have no such bound."""
REFERENCE_BYTES_MAX: Final = 8 << 20
BUSY_SECONDS: Final = 2
"""When to try again while every worker is taken."""

FAULT_CODES: Final[dict[ImageFault, Code]] = {
    ImageFault.UNREADABLE: ErrorCode.CORRUPTED_IMAGE,
    ImageFault.UNSUPPORTED_HEIF: ErrorCode.INVALID_REQUEST,
    ImageFault.TOO_SMALL: ErrorCode.IMAGE_TOO_SMALL,
    ImageFault.TOO_LARGE: ErrorCode.IMAGE_TOO_LARGE,
    ImageFault.FILE_TOO_LARGE: ErrorCode.PAYLOAD_TOO_LARGE,
}
"""What a caller is told of an image (a test holds it total)."""


class Media(msgspec.Struct, frozen=True):
    """What reads images: built once."""

    reader: ImageReader
    fetcher: Fetcher
    image_bytes_max: int
    image_pixels_max: int
    fetch_seconds_max: float


class Wanted(msgspec.Struct, frozen=True):
    """An image to be read, and what it must be like."""

    source: SourceAt
    pixels_min: int = 0
    bytes_max: int | None = None
    """The largest file; None for the gateway's own bound."""


async def read_pictures(
    media: Media,
    received: Received,
    exchange: Exchange,
    wanted: Iterable[Wanted],
    principal: str,
) -> Sequence[Picture]:
    """The images in the order in which they were asked for; the first bad one ends it.

    A small file can be a large picture: what it becomes counts beside the body that it came in.

    Raises ClientGone, and ApiError: CORRUPTED_IMAGE, IMAGE_TOO_SMALL, IMAGE_TOO_LARGE,
    PAYLOAD_TOO_LARGE, IMAGE_NOT_ACCEPTED for a URL that cannot be fetched, INVALID_REQUEST for a
    format that this server was not given a decoder for, MODEL_AT_CAPACITY.
    """
    pictures = []
    with exchange.watch_disconnect():
        for image in wanted:
            picture = await read_picture(media, image, principal)
            if picture.data is not image.source.source and not received.keeps(len(picture.data)):
                raise no_room()
            pictures.append(picture)
    return pictures


async def read_picture(
    media: Media, wanted: Wanted, principal: str, *, is_chat: bool = False
) -> Picture:
    """One image, for `principal`, an account.

    `is_chat` has every failure before its decoding told alike (contract A.2, code 16), and makes a
    WebP a PNG or JPEG, because some servers of chat models read no other format.
    """
    source = wanted.source.source
    bytes_max = min(wanted.bytes_max or media.image_bytes_max, media.image_bytes_max)
    rules = ImageRules(
        file_bytes_max=bytes_max,
        side_pixels_min=SIDE_PIXELS_MIN,
        pixels_min=wanted.pixels_min,
        pixels_max=media.image_pixels_max,
    )
    try:
        if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
            source = await media.fetcher.fetch(
                source,
                bytes_max=bytes_max,
                seconds_max=media.fetch_seconds_max,
                principal=principal,
            )
        if isinstance(source, bytes):
            read = await media.reader.read(source, rules, principal=principal)
        else:
            read = await media.reader.read_base64(source, rules, principal=principal)
        if is_chat and read.format == "webp":
            read = await _without_webp(media.reader, read, principal)
    except FetchRefused as refused:
        is_too_large = refused.kind is FetchFault.TOO_LARGE and not is_chat
        code = ErrorCode.PAYLOAD_TOO_LARGE if is_too_large else Adjunct.IMAGE_NOT_ACCEPTED
        raise ApiError(code, reason=refused.reason) from refused
    except ImageRefused as refused:
        if refused.fault is ImageFault.UNSUPPORTED_HEIF:
            issue = custom_issue(wanted.source.path, sentences.HEIF_NOT_READ)
            raise refusal([issue]) from refused
        fault = _chat_code(refused.fault, source) if is_chat else FAULT_CODES[refused.fault]
        raise ApiError(fault, reason=refused.reason) from refused
    except WorkersBusy as busy:
        raise workers_busy() from busy
    return Picture(read.data, read.format, read.width, read.height, read.has_alpha)


def workers_busy() -> ApiError:
    """What a request is told for which no process is free to look at an image."""
    return ApiError(
        ErrorCode.MODEL_AT_CAPACITY,
        retry_after_seconds=BUSY_SECONDS,
        reason="every worker for images is busy",
    )


def no_room() -> ApiError:
    """What a request is told whose images would be more than there is memory for."""
    return ApiError(
        ErrorCode.MODEL_AT_CAPACITY,
        retry_after_seconds=BUSY_SECONDS,
        reason="the images of other requests fill the memory meant for them",
    )


def _chat_code(fault: ImageFault, source: Source) -> Code:
    """What a chat is told: a file that is too large, or never was an image, is not accepted; one
    that broke is corrupted."""
    if fault is ImageFault.FILE_TOO_LARGE:
        return Adjunct.IMAGE_NOT_ACCEPTED
    if fault is ImageFault.UNREADABLE and not _is_meant_as_image(source):
        return Adjunct.IMAGE_NOT_ACCEPTED
    return FAULT_CODES[fault]


def _is_meant_as_image(source: Source) -> bool:
    """Whether a file begins as an image does, or a data URL says that it is one."""
    if isinstance(source, bytes):
        return sniff(source) is not None
    return source[:11].lower() == "data:image/"


async def _without_webp(reader: ImageReader, read: ReadImage, principal: str) -> ReadImage:
    form: Literal["jpeg", "png"] = "png" if read.has_alpha else "jpeg"
    data = await reader.finish(read.data, format=form, finish=Finish(), principal=principal)
    return msgspec.structs.replace(read, data=data, format=form)
