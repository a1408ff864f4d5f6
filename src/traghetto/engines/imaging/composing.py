"""Several pictures in one: side by side, stacked, in a grid, or laid over one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PIL import Image

from traghetto.bounds import MADE_PIXELS_MAX
from traghetto.engines.imaging.canvas import Size

_GAP_SHARE: Final = 0.012
"""Between pictures, of the shorter side of the first."""
_ROW_MAX: Final = 3
"""More pictures than these go in a grid, if the prompt leaves it open."""
_WHITE: Final = (255, 255, 255, 255)


def compose(images: Sequence[Image.Image], how: str) -> Image.Image:
    """`images` as one; `how` is a composing verb of the vocabulary, `combine` leaves it open.

    The first picture keeps its size where that fits into the pixels an answer may have; in a row
    all get its height, in a column its width, in a grid and in an overlay both.
    """
    if how == "combine":
        how = "side-by-side" if len(images) <= _ROW_MAX else "grid"
    if how == "overlay":
        return _overlay(images)
    columns = {"side-by-side": len(images), "stack": 1}.get(how, math.ceil(math.sqrt(len(images))))
    return _table(images, columns)


def _overlay(images: Sequence[Image.Image]) -> Image.Image:
    """Each picture over those before it, so transparent that all count the same."""
    first, *others = images
    result = first.convert("RGBa")
    for count, image in enumerate(others, 2):
        result = Image.blend(
            result, cover(image, first.size).convert("RGBA").convert("RGBa"), 1 / count
        )
    return _plain(result.convert("RGBA"), images)


def _table(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows of `columns`, on white ground."""
    rows = math.ceil(len(images) / columns)
    cells = _cells(images, columns, rows)
    gap = max(1, round(_GAP_SHARE * min(images[0].size)))
    widths = [max(size[0] for size in cells[column::columns]) for column in range(columns)]
    heights = [
        max(size[1] for size in cells[row * columns : (row + 1) * columns]) for row in range(rows)
    ]
    total = (sum(widths) + gap * (columns - 1), sum(heights) + gap * (rows - 1))
    scale = min(1.0, math.sqrt(MADE_PIXELS_MAX / (total[0] * total[1])))
    canvas = Image.new(
        "RGBA", (max(1, int(total[0] * scale)), max(1, int(total[1] * scale))), _WHITE
    )
    for index, (image, size) in enumerate(zip(images, cells, strict=True)):
        row, column = divmod(index, columns)
        left = sum(widths[:column]) + gap * column + (widths[column] - size[0]) // 2
        top = sum(heights[:row]) + gap * row + (heights[row] - size[1]) // 2
        fitted = image.resize(
            (max(1, int(size[0] * scale)), max(1, int(size[1] * scale))), Image.Resampling.LANCZOS
        ).convert("RGBA")
        canvas.alpha_composite(fitted, (int(left * scale), int(top * scale)))
    return canvas.convert("RGB")


def _cells(images: Sequence[Image.Image], columns: int, rows: int) -> list[Size]:
    """The size of each picture in the table, before the whole is made to fit."""
    width, height = images[0].size
    if rows == 1:
        return [(max(1, round(each.width * height / each.height)), height) for each in images]
    if columns == 1:
        return [(width, max(1, round(each.height * width / each.width))) for each in images]
    return [inside(each.size, (width, height)) for each in images]


def inside(size: Size, frame: Size) -> Size:
    """The largest size with the proportions of `size` that fits into `frame`."""
    scale = min(frame[0] / size[0], frame[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def cover(image: Image.Image, size: Size) -> Image.Image:
    """`image` scaled and cropped around its middle, so that it fills `size`."""
    scale = max(size[0] / image.width, size[1] / image.height)
    width, height = size[0] / scale, size[1] / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))


def pad(image: Image.Image, size: Size) -> Image.Image:
    """`image` scaled to fit into `size`, in the middle of white ground."""
    fitted = image.resize(inside(image.size, size), Image.Resampling.LANCZOS)
    ground = Image.new("RGB", size, _WHITE[:3])
    place = ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2)
    ground.paste(fitted, place, fitted if fitted.mode == "RGBA" else None)
    return ground


def _plain(result: Image.Image, images: Sequence[Image.Image]) -> Image.Image:
    """Without the alpha that no picture had."""
    return result if any(each.mode == "RGBA" for each in images) else result.convert("RGB")
