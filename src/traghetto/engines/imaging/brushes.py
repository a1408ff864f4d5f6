"""What painters of scenes share: an easel, masks with smooth edges, skies, ridges and balls.

Shapes are masks drawn in double size, so that their edges are smooth. Places are shares of the
image's width and height, radii of its shorter side.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from PIL import Image, ImageChops, ImageDraw

from traghetto.engines.imaging.canvas import Size
from traghetto.engines.imaging.colours import Colour, mix
from traghetto.engines.imaging.noise import clouds
from traghetto.engines.imaging.palette import Palette

Draw = Callable[[ImageDraw.ImageDraw, int, int], None]
"""Draws in white, given a pen, and the width and height of what it draws on."""
_DARK: Final = 130
"""Skies without a stronger channel have stars."""


@dataclass(frozen=True, slots=True)
class Easel:
    """What a painter works with."""

    image: Image.Image
    palette: Palette
    rng: random.Random
    detail: int
    """2 to 7: octaves of noise, and how many things there are."""

    @property
    def size(self) -> Size:
        return self.image.size

    def fill(self, mask: Image.Image, colour: Colour) -> None:
        """Lay `colour` where `mask` (mode L) says."""
        self.image.paste(colour, (0, 0), mask)

    def grade(
        self, mask: Image.Image, top: Colour, bottom: Colour, begin: float, end: float
    ) -> None:
        """Lay a gradient, from `top` at height `begin` to `bottom` at `end`, where `mask` says."""
        self.image.paste(gradient(self.size, top, bottom, begin, end), (0, 0), mask)


def gradient(
    size: Size, top: Colour, bottom: Colour, begin: float = 0.0, end: float = 1.0
) -> Image.Image:
    """A vertical gradient; heights are shares of the image's, from its top."""
    column = Image.new("RGB", (1, 256))
    for row in range(256):
        share = min(1.0, max(0.0, (row / 255 - begin) / max(1e-6, end - begin)))
        column.putpixel((0, row), mix(top, bottom, share))
    return column.resize(size, Image.Resampling.BILINEAR)


def shapes(size: Size, draw: Draw) -> Image.Image:
    """A mask of what `draw` draws, given a pen, width and height; edges are smooth."""
    large = Image.new("L", (2 * size[0], 2 * size[1]))
    draw(ImageDraw.Draw(large), *large.size)
    return large.reduce(2)


def ridge_line(
    rng: random.Random, base: float, swing: float, rough: float, octaves: int
) -> list[float]:
    """Heights (shares from the top) of a ridge from left to right, by midpoint displacement."""
    heights = [base + rng.uniform(-swing, swing), base + rng.uniform(-swing, swing)]
    for _ in range(octaves):
        between = [(a + b) / 2 + rng.uniform(-swing, swing) for a, b in pairwise(heights)]
        heights = [value for pair in zip(heights, [*between, 0.0], strict=True) for value in pair][
            :-1
        ]
        swing *= rough
    return heights


def smoothed(heights: Sequence[float]) -> list[float]:
    """A curve through the means of neighbours, with eight times the points."""
    points: list[float] = []
    for a, b in pairwise(heights):
        points += [a + (b - a) * (0.5 - 0.5 * math.cos(math.pi * step / 8)) for step in range(8)]
    return [*points, heights[-1]]


def below(size: Size, heights: Sequence[float]) -> Image.Image:
    """The mask of everything under a ridge."""

    def draw(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        last = len(heights) - 1
        ridge = [(w * index / last, h * value) for index, value in enumerate(heights)]
        pen.polygon([*ridge, (w, h), (0, h)], fill=255)

    return shapes(size, draw)


def texture(
    easel: Easel, mask: Image.Image, colour: Colour, strength: float, stretch: float
) -> None:
    """Uneven `colour` within `mask`."""
    noise = clouds(easel.size, easel.rng, easel.detail, stretch=stretch)
    uneven = noise.point(
        [round(max(0, level - 110) / 145 * 255 * strength) for level in range(256)]
    )
    easel.fill(ImageChops.multiply(uneven, mask), colour)


def sky(easel: Easel, horizon: float, *, cloudiness: float = 0.8) -> None:
    palette, rng = easel.palette, easel.rng
    easel.image.paste(gradient(easel.size, palette.high, palette.low, 0.0, horizon))
    if max(palette.high) < _DARK:
        stars(easel, horizon)
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.18, 0.7) * horizon
    glow(easel, x, y, rng.uniform(0.035, 0.075), palette.light)
    noise = clouds(easel.size, rng, easel.detail, stretch=2.6)
    start = rng.uniform(120, 150)
    density = noise.point(
        [round(min(1.0, max(0.0, (level - start) / 90)) * 255 * cloudiness) for level in range(256)]
    )
    fade = gradient(easel.size, (230, 230, 230), (20, 20, 20), 0.1, horizon).getchannel(0)
    lit = mix(palette.low, palette.light, 0.45)
    easel.fill(ImageChops.multiply(density, fade), lit)


def stars(easel: Easel, horizon: float) -> None:
    rng, (width, height) = easel.rng, easel.size
    pen = ImageDraw.Draw(easel.image)
    for _ in range(60 * easel.detail):
        x, y = rng.random() * width, rng.random() ** 1.3 * height * horizon
        radius = rng.choice((0, 0, 0, 1)) * min(width, height) / 700
        colour = mix(easel.palette.high, easel.palette.light, rng.uniform(0.3, 1.0))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def glow(easel: Easel, x: float, y: float, radius: float, colour: Colour) -> None:
    """A disc of light, at shares of width and height, and of the shorter side for its radius."""
    width, height = easel.size
    short = min(width, height)
    halo = Image.radial_gradient("L").point(
        [round(150 * max(0.0, 1 - level / 128) ** 2.2) for level in range(256)]
    )
    reach = max(4, round(short * radius * 14))
    mask = Image.new("L", easel.size)
    mask.paste(
        halo.resize((reach, reach), Image.Resampling.BICUBIC),
        (round(x * width - reach / 2), round(y * height - reach / 2)),
    )
    easel.fill(mask, colour)

    def disc(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        r = radius * min(w, h)
        pen.ellipse((x * w - r, y * h - r, x * w + r, y * h + r), fill=255)

    easel.fill(shapes(easel.size, disc), mix(colour, (255, 255, 255), 0.25))


def ball(easel: Easel, x: float, y: float, radius: float, colour: Colour) -> None:
    """A sphere lit from the upper left, banded by noise."""
    width, height = easel.size
    side = max(8, round(2 * radius * min(width, height)))
    light = Image.radial_gradient("L").resize((2 * side, 2 * side), Image.Resampling.BICUBIC)
    # The gradient's middle, the highlight, comes to lie at a third of the ball.
    light = light.crop(
        (round(0.67 * side), round(0.67 * side), round(1.67 * side), round(1.67 * side))
    )
    face = Image.merge(
        "RGB",
        [
            light.point([_byte(_lit(part, level / 255)) for level in range(256)]).resize(
                (side, side)
            )
            for part in colour
        ],
    )
    bands = clouds((side, side), easel.rng, easel.detail, stretch=4.0)
    dark = face.point([level * 3 // 5 for level in range(256)] * 3)
    face.paste(dark, (0, 0), bands.point([max(0, level - 130) for level in range(256)]))

    def disc(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        pen.ellipse((1, 1, w - 2, h - 2), fill=255)

    place = (round(x * width - side / 2), round(y * height - side / 2))
    easel.image.paste(face, place, shapes((side, side), disc))


def _lit(part: int, dark: float) -> float:
    """A channel of a surface, from its highlight (0) to its shadow (1)."""
    if dark < 0.25:
        return part + (255 - part) * 0.7 * (1 - dark / 0.25) ** 2
    return part * max(0.06, 1 - math.pow((dark - 0.25) / 0.62, 1.5))


def _byte(value: float) -> int:
    return min(255, max(0, round(value)))
