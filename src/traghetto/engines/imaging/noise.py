"""Seeded randomness in two dimensions, in mode L: grain, and noise of several scales."""

from __future__ import annotations

import random
from typing import Final

from PIL import Image, ImageFilter

from traghetto.engines.imaging.canvas import Size

GREY: Final = 128
"""The middle, around which grain lies."""
_TILE_SIDE_PIXELS: Final = 512
_COARSEST_CELLS: Final = 3


def seeded(seed: str) -> random.Random:
    """Randomness that is the same for the same `seed`, in every process and on every machine."""
    return random.Random(seed)  # noqa: S311 - it draws pictures, and no secret


def grain(size: Size, rng: random.Random, levels: float) -> Image.Image:
    """Noise of `size` around the middle grey, finer than a soft picture, coarser than a pixel.

    `levels` is about twice its standard deviation.
    """
    side = _TILE_SIDE_PIXELS
    noise = Image.frombytes("L", (side, side), rng.randbytes(side * side))
    # The blur leaves about half of the deviation of uniform noise, which is 74 levels.
    noise = noise.filter(ImageFilter.GaussianBlur(0.7))
    gain = levels / 64
    noise = noise.point([_byte(GREY + (level - GREY) * gain) for level in range(256)])
    tiled = Image.new("L", size)
    for top in range(0, size[1], side):
        for left in range(0, size[0], side):
            tiled.paste(noise, (left, top))
    return tiled


def clouds(size: Size, rng: random.Random, octaves: int, *, stretch: float = 1.0) -> Image.Image:
    """Noise of `octaves` scales, each half as coarse and half as strong as the one before.

    `stretch` above 1 makes shapes wider than high. All levels from 0 to 255 occur.
    """
    total: Image.Image | None = None
    weight = 0.0
    for octave in range(octaves):
        across = _COARSEST_CELLS * 2**octave
        cells = (
            min(size[0], max(2, round(across * size[0] / size[1] / stretch))),
            min(size[1], max(2, across)),
        )
        layer = Image.frombytes("L", cells, rng.randbytes(cells[0] * cells[1]))
        layer = layer.resize(size, Image.Resampling.BICUBIC)
        weight += 0.5**octave
        total = layer if total is None else Image.blend(total, layer, 0.5**octave / weight)
    assert total is not None
    histogram = total.histogram()
    present = [level for level in range(256) if histogram[level]]
    low, high = present[0], present[-1]
    span = max(1, high - low)
    return total.point([_byte(255 * (level - low) / span) for level in range(256)])


def _byte(value: float) -> int:
    return min(255, max(0, round(value)))
