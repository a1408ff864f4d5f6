"""From a small, hard mask to an alpha channel in full size: a guided filter, strip by strip.

Near the mask's edge, alpha is locally a linear function of the picture's brightness, as in K. He,
J. Sun and X. Tang, "Guided Image Filtering" (2013); its two coefficients are computed on the small
copy ("Fast Guided Filter", 2015). Full size is worked on in strips, so that memory stays bounded.
Colours at the edge are mixed with the ground; they are replaced by those of the foreground nearby,
so that no fringe of the old ground shows on a new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

_RADIUS_PIXELS: Final = 4
"""Of the filter, on the small copy."""
_EPSILON: Final = 2e-4
"""How little contrast counts as an edge, in squared brightness."""
_BAND_PIXELS: Final = 3
"""How far from its edge the mask may be wrong, on the small copy."""
_STRIP_ROWS: Final = 512
_SOLID: Final = 0.94
"""Alphas above are taken for 1, and those as near to 0 for 0."""

Floats = NDArray[Any]
"""Of float32; the stubs of OpenCV do not tell."""
Bytes = NDArray[Any]
"""Of uint8."""


def refine(pixels: Bytes, mask: Bytes) -> Bytes:
    """The alpha of `pixels` (height, width, RGB) that a smaller `mask` of 0 and 1 stands for."""
    small = cv2.resize(pixels, (mask.shape[1], mask.shape[0]), interpolation=cv2.INTER_AREA)
    guide = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    slope, offset = _coefficients(guide, mask.astype(np.float32))
    element = np.ones((2 * _BAND_PIXELS + 1,) * 2, np.uint8)
    inside = cv2.erode(mask, element).astype(np.float32)
    outside = cv2.dilate(mask, element).astype(np.float32)
    alpha = np.empty(pixels.shape[:2], np.uint8)
    for top, bottom in _strips(pixels.shape[0]):
        grey = cv2.cvtColor(pixels[top:bottom], cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        strip = [_enlarged(each, pixels, top, bottom) for each in (slope, offset, inside, outside)]
        rows = strip[0] * grey + strip[1]
        rows = (rows - (1 - _SOLID)) / (2 * _SOLID - 1)
        rows = np.clip(rows, strip[2], strip[3])
        alpha[top:bottom] = (np.clip(rows, 0, 1) * 255 + 0.5).astype(np.uint8)
    return alpha


def with_alpha(pixels: Bytes, alpha: Bytes) -> Bytes:
    """RGBA of `pixels`, with foreground colours at the edge and none where nothing is seen."""
    height, width = alpha.shape
    result = np.empty((height, width, 4), np.uint8)
    reach = max(5, round(min(height, width) / 150)) | 1
    for top, bottom in _strips(height):
        above, below = max(0, top - reach), min(height, bottom + reach)
        colours = _decontaminated(pixels[above:below], alpha[above:below], reach)
        result[top:bottom, :, :3] = colours[top - above : bottom - above]
    result[:, :, 3] = alpha
    return result


def _decontaminated(pixels: Bytes, alpha: Bytes, reach: int) -> Bytes:
    """Colours in which half-transparent pixels have the mean of the solid ones within `reach`."""
    mixed = (alpha > 0) & (alpha < 250)
    if not mixed.any():
        return np.where(alpha[:, :, None] > 0, pixels, 0).astype(np.uint8)
    weight = (alpha >= 250).astype(np.float32)
    size = (2 * reach + 1, 2 * reach + 1)
    total = cv2.boxFilter(weight, -1, size, normalize=False)
    colours = pixels.copy()
    for channel in range(3):
        sums = cv2.boxFilter(pixels[:, :, channel] * weight, -1, size, normalize=False)
        nearby = sums / np.maximum(total, 1)
        # Solid pixels nearby say what the foreground's colour is; the more opaque, the less so.
        share = np.where(total > 0, 1 - alpha / 255, 0)
        own = pixels[:, :, channel]
        blended = own + (nearby - own) * share
        colours[:, :, channel] = np.where(mixed, blended + 0.5, own).astype(np.uint8)
    colours[alpha == 0] = 0
    return colours


def _coefficients(guide: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Slope and offset of the linear function that locally takes `guide` to `target`."""
    mean_guide, mean_target = _mean(guide), _mean(target)
    variance = _mean(guide * guide) - mean_guide * mean_guide
    covariance = _mean(guide * target) - mean_guide * mean_target
    slope = covariance / (variance + np.float32(_EPSILON))
    offset = mean_target - slope * mean_guide
    return _mean(slope), _mean(offset)


def _mean(values: Floats) -> Floats:
    size = 2 * _RADIUS_PIXELS + 1
    mean = cv2.boxFilter(values, -1, (size, size), borderType=cv2.BORDER_REFLECT)
    return np.asarray(mean, np.float32)


def _enlarged(small: Floats, pixels: Bytes, top: int, bottom: int) -> Floats:
    """Rows `top` to `bottom` of `small` enlarged to the size of `pixels`."""
    across, down = small.shape[1] / pixels.shape[1], small.shape[0] / pixels.shape[0]
    # Centres of pixels coincide, as in a resize of the whole.
    matrix = np.array(
        [[across, 0, (across - 1) / 2], [0, down, (top + 0.5) * down - 0.5]], np.float64
    )
    rows = cv2.warpAffine(
        small,
        matrix,
        (pixels.shape[1], bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(rows, np.float32)


def _strips(height: int) -> Iterator[tuple[int, int]]:
    for top in range(0, height, _STRIP_ROWS):
        yield top, min(height, top + _STRIP_ROWS)
