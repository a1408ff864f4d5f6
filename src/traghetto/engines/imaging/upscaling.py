"""Enlarging without a network: Lanczos, sharpened, held within what its neighbours allow.

Enlarging happens in the encoded (gamma) values and not in linear light: there the dark side of
every edge would ring visibly, and eight bits would not hold the shadows. Sharpening happens before,
on the small picture, where it costs a sixteenth and undoes just the blur that enlarging adds. Both
overshoot at edges; the result is therefore clamped to the extremes of the 3 x 3 pixels around its
origin. Alpha is premultiplied throughout, so that colours of invisible pixels do not bleed.
"""

from __future__ import annotations

import random
import zlib
from typing import Any, Final

import msgspec
from PIL import Image, ImageChops, ImageFilter

from traghetto.engines.image_protocols import UpscaleCall
from traghetto.engines.imaging.canvas import Size, check_size, encode, open_picture
from traghetto.engines.imaging.noise import GREY, grain, seeded

_SHARPENING: Final = ImageFilter.UnsharpMask(radius=1.0, percent=55, threshold=2)
"""The threshold leaves flat areas and their noise alone."""
_CREATIVITY_MAX: Final = 0.02
_GRAIN_LEVELS: Final = 11.0
"""At full creativity, where the picture is busiest."""


def upscale(payload: dict[str, Any]) -> bytes:
    """Task: an `UpscaleCall` in plain values becomes an encoded image of the size asked for."""
    call = msgspec.convert(payload, UpscaleCall)
    size = check_size((call.width, call.height))
    image = open_picture(call.picture)
    enlarged = enlarge(image, size)
    if call.creativity > 0:
        # The grain depends on the picture alone: the same request gets the same answer.
        rng = seeded(str(zlib.crc32(call.picture.data)))
        enlarged = add_detail(enlarged, image, call.creativity, rng)
    return encode(enlarged, call.format)


def enlarge(image: Image.Image, size: Size) -> Image.Image:
    """`image` (L, RGB or RGBA) in `size`, without halos and without ringing."""
    if image.size == size:
        return image
    small = image.convert("RGBa") if image.mode == "RGBA" else image
    large = small.filter(_SHARPENING).resize(size, Image.Resampling.LANCZOS)
    bilinear = Image.Resampling.BILINEAR
    highest = small.filter(ImageFilter.MaxFilter(3)).resize(size, bilinear)
    large = ImageChops.darker(large, highest)
    del highest
    lowest = small.filter(ImageFilter.MinFilter(3)).resize(size, bilinear)
    large = ImageChops.lighter(large, lowest)
    return large.convert("RGBA") if image.mode == "RGBA" else large


def add_detail(
    enlarged: Image.Image, original: Image.Image, creativity: float, rng: random.Random
) -> Image.Image:
    """`enlarged` with fine luminance grain where `original` is busy.

    `creativity` is 0 to 0.02. Flat areas stay flat, and hues stay as they are, because all
    channels change alike.
    """
    share = min(creativity, _CREATIVITY_MAX) / _CREATIVITY_MAX
    busy = _busyness(original, share).resize(enlarged.size, Image.Resampling.BILINEAR)
    flat = Image.new("L", enlarged.size, GREY)
    detail = Image.composite(grain(enlarged.size, rng, _GRAIN_LEVELS), flat, busy)
    if enlarged.mode == "L":
        return ImageChops.add(enlarged, detail, scale=1, offset=-GREY)
    colours = enlarged.convert("RGB")
    colours = ImageChops.add(colours, Image.merge("RGB", (detail,) * 3), scale=1, offset=-GREY)
    if enlarged.mode == "RGBA":
        colours.putalpha(enlarged.getchannel("A"))
    return colours


def _busyness(original: Image.Image, share: float) -> Image.Image:
    """How much detail there is around each pixel, 0 to 255 times `share`."""
    grey = original.convert("L")
    detail = ImageChops.difference(grey, grey.filter(ImageFilter.BoxBlur(1)))
    spread = detail.filter(ImageFilter.BoxBlur(2))
    return spread.point([round(min(255, 16 * level) * share) for level in range(256)])
