"""Pictures as Pillow has them, in a worker process: opened from a call, encoded for an answer."""

from __future__ import annotations

import io
from typing import Any, Final

from PIL import Image

from traghetto.bounds import IMAGE_PIXELS_MAX, MADE_PIXELS_MAX
from traghetto.engines.image_protocols import Picture
from traghetto.wire.image_format import (
    SIDE_PIXELS_MAX,
    WEBP_METHOD_LARGE,
    WEBP_QUALITIES,
    ImageFormat,
)
from traghetto.workers.task import Refusal

_INPUT_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_WHITE: Final = (255, 255, 255)
_ENCODINGS: Final[dict[ImageFormat, tuple[dict[str, Any], ...]]] = {
    # Level 1 takes a fifth of the time of the usual 6, for a fifth more bytes.
    "png": ({"format": "PNG", "compress_level": 1},),
    "jpeg": ({"format": "JPEG", "quality": 92},),
    "webp": tuple(
        {"format": "WEBP", "quality": quality, "method": WEBP_METHOD_LARGE}
        for quality in WEBP_QUALITIES
    ),
}
"""How each format is written; of several ways, the first one that the picture fits into."""

Size = tuple[int, int]
"""Width and height, in pixels."""


def open_picture(picture: Picture) -> Image.Image:
    """The pixels of `picture`: mode L, RGB or RGBA. Raises Refusal for anything else."""
    # Whoever made the picture has decoded it once; this is the second lock, not the first.
    if picture.width * picture.height > IMAGE_PIXELS_MAX:
        raise Refusal("input", "the picture has too many pixels")
    try:
        with Image.open(io.BytesIO(picture.data), formats=_INPUT_FORMATS) as opened:
            if opened.size != (picture.width, picture.height):
                raise Refusal("input", "the picture has another size than was said")
            opened.load()
            image = opened.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refusal("input", "the picture cannot be decoded") from error
    if image.mode in {"L", "RGB", "RGBA"}:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def encode(image: Image.Image, image_format: ImageFormat) -> bytes:
    """`image` as a file; JPEG, which has no alpha, gets white ground.

    Raises Refusal for one that is too long for the format.
    """
    if max(image.size) > SIDE_PIXELS_MAX[image_format]:
        raise Refusal("input", f"a side is longer than {image_format} has numbers for")
    if image_format == "jpeg" and image.mode == "RGBA":
        image = flatten(image)
    attempts = _ENCODINGS[image_format]
    for options in attempts[:-1]:
        file = io.BytesIO()
        try:
            image.save(file, **options)
        except ValueError:
            continue  # it has more detail than the format has room for at this quality
        return file.getvalue()
    file = io.BytesIO()
    image.save(file, **attempts[-1])
    return file.getvalue()


def flatten(image: Image.Image, ground: tuple[int, int, int] = _WHITE) -> Image.Image:
    """`image` without alpha, on `ground`."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    under = Image.new("RGB", image.size, ground)
    under.paste(image, mask=image.getchannel("A"))
    return under


def shrunk(image: Image.Image, pixels_max: int) -> Image.Image:
    """`image`, smaller in its proportions if it has more than `pixels_max`."""
    scale = (pixels_max / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def check_size(size: Size) -> Size:
    """`size`, if an engine may answer with it; raises Refusal."""
    width, height = size
    if width < 1 or height < 1 or width * height > MADE_PIXELS_MAX:
        raise Refusal("input", f"an image of {width} x {height} pixels cannot be made")
    return size
