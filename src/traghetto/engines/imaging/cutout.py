"""Cutting the foreground out with GrabCut, which needs a first guess of what is foreground.

The guess takes the border of the picture for background, as it is in shots of products and of
people: a pixel is suspect in so far as its colour fits neither a smooth surface laid through the
border (walls, gradients, soft shadows) nor one of the colours that the border consists of
(patterned grounds). The work happens on a small copy; `matte` then finds the edge in full size.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from traghetto.engines.image_protocols import BackgroundCall
from traghetto.engines.imaging.canvas import encode, flatten, open_picture
from traghetto.engines.imaging.matte import refine, with_alpha
from traghetto.engines.imaging.work import FRUITLESS
from traghetto.workers.task import Refusal

_WORKING_PIXELS_MAX: Final = 220_000
"""GrabCut takes about three seconds for a megapixel; edges are found in full size later."""
_BORDER_SHARE: Final = 0.04
"""Of the shorter side, on each side."""
_GROUND_SHARE: Final = 0.75
"""Of the border, at least; objects may reach the rest."""
_BORDER_COLOURS: Final = 5
_SIDE_SHARE: Final = 0.08
"""A colour with less of a side's border is not seen on that side."""
_ROUNDS: Final = 4
_PART_MIN: Final = 0.03
"""Parts smaller than this share of the largest are crumbs."""
_FOREGROUND_MIN: Final = 0.002
_FOREGROUND_MAX: Final = 0.985
_NOTICEABLE: Final = 7.0
"""A distance in CIE Lab that is plainly visible next to one another."""

Floats = NDArray[Any]
"""Of float32; the stubs of OpenCV do not tell."""
Bytes = NDArray[Any]
"""Of uint8."""


def cut_out(payload: dict[str, Any]) -> bytes:
    """Task: a `BackgroundCall` in plain values becomes a PNG with alpha, of the same size.

    Raises Refusal, as not the caller's fault, where no foreground can be told from the ground.
    """
    call = msgspec.convert(payload, BackgroundCall)
    cv2.setNumThreads(1)
    image = open_picture(call.picture)
    pixels = np.asarray(flatten(image))
    mask = foreground(pixels)
    alpha = refine(pixels, mask)
    if image.mode == "RGBA":
        own = np.asarray(image.getchannel("A"))
        alpha = cv2.min(alpha, own)
    return encode(Image.fromarray(with_alpha(pixels, alpha), "RGBA"), "png")


def foreground(pixels: Bytes) -> Bytes:
    """A small mask, 0 or 1, of what stands before the ground in `pixels` (height, width, RGB).

    Raises Refusal if nothing does, or everything.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, (_WORKING_PIXELS_MAX / (height * width)) ** 0.5)
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    guess = _guess(small)
    if not np.any(guess == cv2.GC_FGD):
        raise _nothing_found()
    model = np.zeros((1, 65), np.float64)
    cv2.setRNGSeed(1)
    marks, _, _ = cv2.grabCut(
        small, guess, (0, 0, 1, 1), model, model.copy(), _ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    mask = _tidied(((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8))
    if not _FOREGROUND_MIN < float(mask.mean()) < _FOREGROUND_MAX:
        raise _nothing_found()
    return mask


def _nothing_found() -> Refusal:
    return Refusal(FRUITLESS, "no foreground stands out from the ground of the picture")


def _guess(small: Bytes) -> Bytes:
    """Marks for GrabCut: surely and probably ground, surely and probably foreground."""
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), 1.0)
    border = _border(small.shape[0], small.shape[1])
    strange = np.minimum(_off_surface(lab, border), _off_colours(lab, border))
    usual = float(np.quantile(strange[border], _GROUND_SHARE))
    threshold = max(_NOTICEABLE, 1.8 * usual, _otsu(strange))
    marks = np.full(strange.shape, cv2.GC_PR_BGD, np.uint8)
    suspect = (strange > threshold).astype(np.uint8)
    marks[_closed(suspect) > 0] = cv2.GC_PR_FGD
    core = cv2.erode((strange > 1.3 * threshold).astype(np.uint8), np.ones((3, 3), np.uint8))
    marks[core > 0] = cv2.GC_FGD
    marks[border & (suspect == 0)] = cv2.GC_BGD
    marks[strange < 0.35 * threshold] = cv2.GC_BGD
    return marks


def _thickness(height: int, width: int) -> int:
    """Of the border, in pixels."""
    return max(2, round(_BORDER_SHARE * min(height, width)))


def _border(height: int, width: int) -> NDArray[np.bool_]:
    thickness = _thickness(height, width)
    border = np.ones((height, width), np.bool_)
    border[thickness:-thickness, thickness:-thickness] = False
    return border


def _off_surface(lab: Floats, border: NDArray[np.bool_]) -> Floats:
    """The distance of each pixel from a quadratic surface through the border, per Lab channel.

    The fit is repeated without the pixels that fit worst, because an object may reach the border.
    """
    height, width = border.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    sample, colours = terms[border], lab[border]
    kept = np.ones(len(sample), np.bool_)
    for _ in range(4):
        surface, *_ = np.linalg.lstsq(sample[kept], colours[kept], rcond=None)
        away = np.linalg.norm(colours - sample @ surface, axis=1)
        kept = away <= max(2.5 * float(np.median(away)), 2.0)
    distance = np.linalg.norm(lab - terms @ surface, axis=2)
    return np.asarray(distance, np.float32)


def _off_colours(lab: Floats, border: NDArray[np.bool_]) -> Floats:
    """The distance of each pixel from the nearest of the colours that the border consists of.

    A ground reaches several sides of a picture. A colour that is found on one side only belongs
    to an object that reaches it, such as a person's clothes.
    """
    rows, columns = np.nonzero(border)
    step = max(1, len(rows) // 4000)
    rows, columns = rows[::step], columns[::step]
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
    cv2.setRNGSeed(1)
    _, labels, centres = cv2.kmeans(
        np.ascontiguousarray(lab[rows, columns]),
        min(_BORDER_COLOURS, len(rows)),
        np.empty(0, np.int32),
        criteria,
        2,
        cv2.KMEANS_PP_CENTERS,
    )
    height, width = border.shape
    thickness = _thickness(height, width)
    sides = (
        rows < thickness,
        rows >= height - thickness,
        columns < thickness,
        columns >= width - thickness,
    )
    seen_on = sum(
        (np.bincount(labels[side, 0], minlength=len(centres)) >= _SIDE_SHARE * side.sum()).astype(
            int
        )
        for side in sides
    )
    main = centres[seen_on >= 2] if np.any(seen_on >= 2) else centres
    distances = [np.linalg.norm(lab - centre, axis=2) for centre in main]
    return np.asarray(np.min(distances, axis=0), np.float32)


def _otsu(strange: Floats) -> float:
    """The level that parts `strange` best in two."""
    highest = max(1.0, float(strange.max()))
    levels = (strange * (255 / highest)).astype(np.uint8)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    # Half of it: objects with several colours have parts that differ less from the ground.
    return 0.5 * float(level) * highest / 255


def _closed(mask: Bytes) -> Bytes:
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))


def _tidied(mask: Bytes) -> Bytes:
    """`mask` without crumbs outside and pinholes inside."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    largest = _areas(mask).max(initial=0)
    mask = _without_parts(mask, _PART_MIN * largest)
    return 1 - _without_parts(1 - mask, 0.004 * float(mask.sum()))


def _areas(mask: Bytes) -> NDArray[np.int32]:
    """How many pixels each connected part of `mask` has."""
    stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2]
    return np.asarray(stats[1:, cv2.CC_STAT_AREA], np.int32)


def _without_parts(mask: Bytes, pixels_min: float) -> Bytes:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= pixels_min
    keep[0] = False
    return np.asarray(keep[labels], np.uint8)
