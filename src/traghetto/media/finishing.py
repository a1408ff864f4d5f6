"""Turning an image of a backend into what a caller asked for. Runs in a worker, and only there.

A backend is trusted no more than a caller: its image is decoded within the same limits, and what
leaves is encoded anew, so that nothing of its file survives but the picture.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import msgspec

from traghetto.media.decoding import decode
from traghetto.media.faults import ImageFault, refusal
from traghetto.wire.image_format import (
    SIDE_PIXELS_MAX,
    WEBP_METHOD_LARGE,
    WEBP_QUALITIES,
    ImageFormat,
)

if TYPE_CHECKING:
    from PIL import Image


_BLURRED_SIDE_PIXELS: Final = 24
"""What is left of a blurred picture is so small that no filter brings a face back."""
_WEBP_THOROUGH_PIXELS_MAX: Final = 2_097_152
"""Above it WebP is encoded with less effort: it takes seconds otherwise."""
_EXIF_BYTES_MAX: Final = 65_000
"""What fits into the segment that JPEG has for it."""
_IMAGE_DESCRIPTION, _SOFTWARE, _EXIF_IFD, _USER_COMMENT = 0x010E, 0x0131, 0x8769, 0x9286


class Finish(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to an image before it is sent."""

    blank: bool = False
    """A black image of the same size instead."""
    blur: bool = False
    """Nothing on it can be recognised."""
    width: int | None = None
    """Together with `height`: the exact size wanted, in pixels."""
    height: int | None = None
    metadata: dict[str, str] | None = None
    """Written into the file: all of it as JSON into EXIF's UserComment (PNG: as texts, too), and
    `ImageDescription` and `Software` into the tags of these names."""
    require_alpha: bool = False
    """Refuse an image that has no transparency to speak of: no alpha channel."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What `finish` is given."""

    data: bytes
    format: ImageFormat
    pixels_max: int
    finish: Finish


def finish(payload: dict[str, Any]) -> bytes:
    """The task: a `Job` as a dict to the encoded image; refuses with an `ImageFault`."""
    job = msgspec.convert(payload, Job)
    wanted = job.finish
    image, _ = decode(job.data, pixels_max=job.pixels_max)
    if wanted.require_alpha and image.mode != "RGBA":
        raise refusal(ImageFault.UNREADABLE, "an image without transparency, where it was wanted")
    image = _resized(image, wanted)
    if wanted.blank:
        image = _blank(image)
    elif wanted.blur:
        image = _blurred(image)
    return _encode(image, job.format, wanted.metadata)


def _resized(image: Image.Image, wanted: Finish) -> Image.Image:
    from PIL.Image import Resampling  # noqa: PLC0415 - only workers pay for it

    if wanted.width is None or wanted.height is None or image.size == (wanted.width, wanted.height):
        return image
    return image.resize((wanted.width, wanted.height), Resampling.LANCZOS)


def _blank(image: Image.Image) -> Image.Image:
    from PIL import Image  # noqa: PLC0415 - only workers pay for it

    return Image.new("RGB", image.size)


def _blurred(image: Image.Image) -> Image.Image:
    """`image` as a few soft spots of colour, opaque."""
    from PIL import ImageFilter  # noqa: PLC0415 - only workers pay for it
    from PIL.Image import Resampling  # noqa: PLC0415 - likewise

    image = _on_white(image)
    scale = _BLURRED_SIDE_PIXELS / max(image.size)
    small = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Resampling.BOX
    )
    soft = small.filter(ImageFilter.GaussianBlur(1.5))
    return soft.resize(image.size, Resampling.BICUBIC)


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image  # noqa: PLC0415 - only workers pay for it

    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image)
    return ground


def _encode(image: Image.Image, name: ImageFormat, metadata: dict[str, str] | None) -> bytes:
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415 - only workers pay for it

    if max(image.size) > SIDE_PIXELS_MAX[name]:
        raise refusal(ImageFault.TOO_LARGE, f"a side is longer than {name} has numbers for")
    options: dict[str, Any] = {}
    kept: dict[str, str] = {}
    if metadata is not None:
        options["exif"], kept = _exif(metadata)
    target = io.BytesIO()
    match name:
        case "png":
            texts = PngInfo()
            for key, value in kept.items():
                texts.add_itxt(key, value)
            image.save(target, "PNG", compress_level=1, pnginfo=texts, **options)
        case "jpeg":
            _on_white(image).save(target, "JPEG", quality=92, **options)
        case "webp":
            return _webp(image, options)
    return target.getvalue()


def _webp(image: Image.Image, options: dict[str, Any]) -> bytes:
    """`image` in the best quality of which the format is capable."""
    is_small = image.width * image.height <= _WEBP_THOROUGH_PIXELS_MAX
    method = 4 if is_small else WEBP_METHOD_LARGE
    for quality in WEBP_QUALITIES:
        target = io.BytesIO()
        try:
            image.save(target, "WEBP", quality=quality, method=method, **options)
        except ValueError:
            continue
        return target.getvalue()
    raise refusal(ImageFault.TOO_LARGE, "more detail than WebP has room for")


def _exif(metadata: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """`metadata` as an EXIF block, and what of it was kept: long values are cut until it fits."""
    from PIL import Image  # noqa: PLC0415 - only workers pay for it

    characters_max = max(map(len, metadata.values()), default=0)
    while True:
        kept = {key: value[:characters_max] for key, value in metadata.items()}
        exif = Image.Exif()  # writes its numbers big end first, and so does the comment below
        if description := kept.get("ImageDescription"):
            exif[_IMAGE_DESCRIPTION] = description.encode()
        if software := kept.get("Software"):
            exif[_SOFTWARE] = software.encode()
        comment = msgspec.json.encode(kept).decode().encode("utf-16-be")
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment
        block = exif.tobytes()
        if len(block) <= _EXIF_BYTES_MAX or characters_max == 0:
            return block, kept
        characters_max //= 2
