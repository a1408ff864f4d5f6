"""Images as the gateway sees them: bytes in, bytes out, and everything between in a worker.

Invariants: no byte of an image is decoded in this process; a `ReadImage` was decoded whole;
what no worker gets done with is the fault of the image, and never of the gateway.
"""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from typing import Any, Final, TypeVar

import msgspec

from traghetto.bounds import IMAGE_FILE_BYTES_MAX, IMAGE_PIXELS_MAX, MADE_FILE_BYTES_MAX
from traghetto.media.decoding import Answer
from traghetto.media.faults import ImageFault, ImageRefused
from traghetto.media.finishing import Finish
from traghetto.wire.image_files import sniff
from traghetto.wire.image_format import ImageFormat
from traghetto.workers.failures import TaskFailed, TaskRefused, TaskTimedOut, WorkerDied
from traghetto.workers.pool import Workers

__all__ = [
    "Finish",
    "ImageFault",
    "ImageFormat",
    "ImageReader",
    "ImageRefused",
    "ImageRules",
    "ReadImage",
]


_ONE_PIXEL: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A black PNG."""
_PIECE_CHARACTERS: Final = 1 << 20
_READ: Final = "traghetto.media.decoding:read"
_FINISH: Final = "traghetto.media.finishing:finish"
_FAULTS: Final = defaultdict(
    lambda: ImageFault.UNREADABLE, {fault.value: fault for fault in ImageFault}
)
_Answer = TypeVar("_Answer")


class ImageRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which sizes of an image are taken."""

    file_bytes_max: int | None = None
    """None for the bound of the reader; never more than that."""
    side_pixels_min: int = 64
    pixels_min: int = 0
    pixels_max: int = IMAGE_PIXELS_MAX


class ReadImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that was decoded whole and is in its normal form.

    One frame, upright, 8 bits per channel, grey, RGB or RGBA, without anything beside the picture.
    """

    data: bytes
    """The encoded image: the caller's own bytes where they were that already."""
    format: ImageFormat
    width: int
    """In pixels."""
    height: int
    has_alpha: bool

    def __repr__(self) -> str:
        """Without the bytes."""
        return f"ReadImage({self.format}, {self.width} x {self.height})"


class ImageReader:
    """Reads images of callers and finishes images of backends, in worker processes.

    `principal` is for whom: accounts take turns where they have to wait.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        file_bytes_max: int = IMAGE_FILE_BYTES_MAX,
        seconds_max: float = 10.0,
    ) -> None:
        """`seconds_max` bounds each image, not counting the time that it waits for a worker."""
        self._workers = workers
        self._file_bytes_max = file_bytes_max
        self._seconds_max = seconds_max

    async def read(self, data: bytes, rules: ImageRules, *, principal: str = "") -> ReadImage:
        """The image in a file; raises ImageRefused and WorkersBusy."""
        if len(data) > (file_bytes_max := self._bound(rules)):
            raise _file_too_large(file_bytes_max)
        if sniff(data) is None:
            raise ImageRefused(ImageFault.UNREADABLE, "not an image of a format that is read here")
        return await self._read(data, rules, principal, given=data)

    async def read_base64(self, text: str, rules: ImageRules, *, principal: str = "") -> ReadImage:
        """The image in raw base64 or a data URL; raises ImageRefused and WorkersBusy.

        The media type that a data URL declares is ignored: the bytes decide. White space and the
        URL-safe alphabet are taken, and padding may be missing.
        """
        if len(text) > (file_bytes_max := self._bound(rules)) // 2 * 3:
            raise _file_too_large(file_bytes_max)
        if not text.isascii():
            raise ImageRefused(ImageFault.UNREADABLE, "not base64")
        pieces = []
        for start in range(0, len(text), _PIECE_CHARACTERS):
            pieces.append(text[start : start + _PIECE_CHARACTERS].encode())
            await asyncio.sleep(0)  # a long text is copied in turns with everything else
        return await self._read(pieces, rules, principal)

    async def finish(
        self,
        data: bytes,
        *,
        format: ImageFormat,  # noqa: A002 - it is the word
        finish: Finish,
        principal: str = "",
    ) -> bytes:
        """A backend's image, encoded anew as `format` and changed as `finish` says.

        Raises ImageRefused and WorkersBusy.
        """
        if len(data) > MADE_FILE_BYTES_MAX:
            raise ImageRefused(ImageFault.FILE_TOO_LARGE, "the backend's file is too large")
        job = {
            "data": data,
            "format": format,
            "pixels_max": IMAGE_PIXELS_MAX,
            "finish": msgspec.structs.asdict(finish),
        }
        return await self._run(_FINISH, job, bytes, principal)

    async def blank(
        self,
        width: int,
        height: int,
        *,
        format: ImageFormat,  # noqa: A002 - as above
        principal: str = "",
    ) -> bytes:
        """A black image of a size in pixels; raises WorkersBusy, and ImageRefused if no worker
        gets done with it."""
        return await self.finish(
            _ONE_PIXEL,
            format=format,
            finish=Finish(blank=True, width=width, height=height),
            principal=principal,
        )

    async def _read(
        self, data: bytes | list[bytes], rules: ImageRules, principal: str, given: bytes = b""
    ) -> ReadImage:
        job = {
            **msgspec.structs.asdict(rules),
            "data": data,
            "file_bytes_max": self._bound(rules),
        }
        answer = await self._run(_READ, job, Answer, principal)
        return ReadImage(
            data=given if answer.data is None else answer.data,
            format=answer.format,
            width=answer.width,
            height=answer.height,
            has_alpha=answer.has_alpha,
        )

    async def _run(
        self, task: str, job: dict[str, Any], answers: type[_Answer], principal: str
    ) -> _Answer:
        try:
            answer = await self._workers.run(
                task, job, seconds_max=self._seconds_max, principal=principal
            )
            return msgspec.convert(answer, answers)
        except TaskRefused as refused:
            raise ImageRefused(_FAULTS[refused.kind], refused.reason) from None
        except (TaskFailed, WorkerDied, TaskTimedOut) as failure:
            raise ImageRefused(ImageFault.UNREADABLE, str(failure)) from failure
        except msgspec.ValidationError as error:
            raise ImageRefused(ImageFault.UNREADABLE, "the worker answered nonsense") from error

    def _bound(self, rules: ImageRules) -> int:
        """The largest file that may be read."""
        return min(self._file_bytes_max, rules.file_bytes_max or self._file_bytes_max)


def _file_too_large(bytes_max: int) -> ImageRefused:
    return ImageRefused(ImageFault.FILE_TOO_LARGE, f"a file of more than {bytes_max} bytes")
