"""The formats in which images are asked for, answered and handed on."""

from __future__ import annotations

from typing import Final, Literal

ImageFormat = Literal["jpeg", "png", "webp"]

SIDE_PIXELS_MAX: Final[dict[ImageFormat, int]] = {
    "jpeg": 65_500,  # the library's own bound, a little below that of the format
    "png": 2_147_483_647,
    "webp": 16_383,
}
"""How long a side of each can be."""
WEBP_QUALITIES: Final = (90, 75, 50, 25)
"""Tried in turn. WebP has 512 KiB for what it says about its blocks; a large picture with much
noise exceeds that at a high quality, and its encoder then gives up."""
WEBP_METHOD_LARGE: Final = 2
"""The effort for large pictures: with less, they exceed it sooner; with more, they take seconds."""
