"""Sizes of images: proportions and tiers of resolution, as pixels."""

from __future__ import annotations

import math
from typing import Final

import msgspec

SIDE_PIXELS_DEFAULT: Final = 1024
SIDE_PIXELS_MAX: Final = 8192
_TIERS: Final = {"0.5K": 512, "1K": 1024, "2K": 2048, "3K": 3072, "4K": 4096}
"""The side of a square of a tier's area."""


class Size(msgspec.Struct, frozen=True):
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """The area."""
        return self.width * self.height

    def multiple_of(self, divisor: int) -> Size:
        """The nearest size whose sides `divisor` divides."""
        return Size(_multiple(self.width, divisor), _multiple(self.height, divisor))

    def scaled_to(self, pixels: int, divisor: int = 1) -> Size:
        """The size of these proportions with about that area."""
        factor = math.sqrt(pixels / self.pixels)
        return Size(
            _multiple(self.width * factor, divisor), _multiple(self.height * factor, divisor)
        )


def tier_pixels(resolution: str | None) -> int:
    """The area that a tier of resolution stands for; that of 1K for one that says no size."""
    side = _TIERS.get((resolution or "").upper(), SIDE_PIXELS_DEFAULT)
    return side * side


def ratio_size(ratio: str) -> Size:
    """Proportions such as `16:9` as a small size; a square for what is none."""
    width, _, height = ratio.partition(":")
    if width.isdecimal() and height.isdecimal() and 0 < int(width) < 100 and 0 < int(height) < 100:
        return Size(int(width), int(height))
    return Size(1, 1)


def size_for(ratio: str | None, resolution: str | None, divisor: int = 1) -> Size:
    """The size in pixels of proportions at a tier, its sides multiples of `divisor`."""
    return ratio_size(ratio or "1:1").scaled_to(tier_pixels(resolution), divisor)


def _multiple(side: float, divisor: int) -> int:
    most = SIDE_PIXELS_MAX // divisor * divisor
    return min(max(divisor, round(side / divisor) * divisor), most)
