"""Synthetic pictures with known truth: what a photograph of a product looks like, and its mask."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from traghetto.engines.image_protocols import ImageFormat, Picture

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """A picture, and where its object is: 255 inside, 0 outside."""

    image: Image.Image
    mask: Image.Image


def picture(image: Image.Image, image_format: ImageFormat = "png") -> Picture:
    """`image` as callers send it."""
    file = io.BytesIO()
    image.save(file, image_format)
    return Picture(
        data=file.getvalue(),
        format=image_format,
        width=image.width,
        height=image.height,
        has_alpha=image.mode == "RGBA",
    )


def photograph(side: int = 256, seed: int = 3) -> Image.Image:
    """Shapes, lines and soft structure of all scales and colours: a stand-in for a photograph."""
    rng = random.Random(seed)
    image = Image.new("RGB", (2 * side, 2 * side), (90, 130, 180))
    draw = ImageDraw.Draw(image)
    for _ in range(50):
        x, y = rng.randrange(2 * side), rng.randrange(2 * side)
        extent = rng.randrange(side // 20, side // 2)
        colour = tuple(rng.randrange(256) for _ in range(3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + extent, y + extent), fill=colour)
        end = (rng.randrange(2 * side), rng.randrange(2 * side))
        draw.line((x, y, *end), fill=colour, width=rng.randrange(1, 5))
    soft = _noise((2 * side, 2 * side), side // 2, rng)
    image = Image.blend(image, Image.merge("RGB", (soft,) * 3), 0.15)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _noise(size: tuple[int, int], cells: int, rng: random.Random) -> Image.Image:
    cells = max(2, cells)
    small = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells))
    return small.resize(size, Image.Resampling.BICUBIC)


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def _grainy(image: Image.Image, rng: random.Random, share: float = 0.03) -> Image.Image:
    noise = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
    return Image.blend(image, Image.merge("RGB", (noise,) * 3), share)


def _shaded(mask: Image.Image, left: Colour, right: Colour) -> Image.Image:
    turned = _gradient(mask.size[::-1], left, right).transpose(Image.Transpose.ROTATE_90)
    return turned.resize(mask.size)


def _scene(
    ground: Image.Image, body: Image.Image, mask: Image.Image, rng: random.Random, shadow: float
) -> Scene:
    """`body` on `ground`, with a soft shadow, a little blur as of a lens, and noise."""
    image = ground.copy()
    if shadow:
        offset = ground.width // 60
        dark = ImageChops.offset(mask, offset, offset).filter(ImageFilter.GaussianBlur(offset))
        image.paste((30, 30, 34), mask=dark.point(lambda level: round(level * shadow)))
    image.paste(body, mask=mask.filter(ImageFilter.GaussianBlur(0.6)))
    return Scene(_grainy(image, rng), mask.point(lambda level: 255 * (level > 127)))


def _drawn(
    size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw, int, int], None]
) -> Image.Image:
    large = Image.new("L", (size[0] * 2, size[1] * 2))
    draw(ImageDraw.Draw(large), *large.size)
    return large.reduce(2)


def _mug(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
    pen.ellipse((w * 0.55, h * 0.32, w * 0.82, h * 0.66), fill=255)
    pen.ellipse((w * 0.61, h * 0.39, w * 0.76, h * 0.59), fill=0)
    pen.rounded_rectangle((w * 0.25, h * 0.25, w * 0.65, h * 0.8), w * 0.05, fill=255)


def _bottle(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
    pen.rounded_rectangle((w * 0.36, h * 0.38, w * 0.64, h * 0.92), w * 0.05, fill=255)
    pen.rectangle((w * 0.45, h * 0.12, w * 0.55, h * 0.42), fill=255)
    pen.rectangle((w * 0.43, h * 0.08, w * 0.57, h * 0.14), fill=255)


def _shoe(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
    outline = [
        (0.12, 0.7),
        (0.15, 0.4),
        (0.3, 0.34),
        (0.42, 0.5),
        (0.7, 0.56),
        (0.88, 0.64),
        (0.9, 0.75),
    ]
    pen.polygon([(w * x, h * y) for x, y in outline], fill=255)


def _bust(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
    pen.ellipse((w * 0.36, h * 0.16, w * 0.64, h * 0.55), fill=255)
    pen.ellipse((w * 0.18, h * 0.58, w * 0.82, h * 1.5), fill=255)
    pen.rectangle((w * 0.43, h * 0.5, w * 0.57, h * 0.7), fill=255)


def products(width: int = 480, height: int = 400) -> dict[str, Scene]:
    """Scenes by name, with masks."""
    rng = random.Random(11)
    size = (width, height)
    mug, bottle, shoe, bust = (_drawn(size, each) for each in (_mug, _bottle, _shoe, _bust))
    pattern = Image.merge(
        "RGB",
        [
            _noise(size, 24, rng).point(lambda level, low=low: low + level // 3)
            for low in (120, 90, 60)
        ],
    )
    stripes = _shaded(shoe, (180, 40, 40), (90, 10, 20))
    pen = ImageDraw.Draw(stripes)
    for left in range(0, width, width // 12):
        pen.line((left, 0, left + width // 6, height), fill=(240, 240, 240), width=width // 70)
    head = Image.new("RGB", size, (52, 60, 110))
    ImageDraw.Draw(head).rectangle((0, 0, width, height * 0.56), fill=(206, 160, 132))
    table = _gradient(size, (214, 220, 222), (198, 206, 210))
    table.paste(_shaded(mug, (150, 104, 66), (120, 80, 48)), (0, round(height * 0.62)))
    return {
        "mug on a white sweep": _scene(
            _gradient(size, (246, 246, 248), (214, 214, 218)),
            _shaded(mug, (60, 110, 190), (24, 50, 110)),
            mug,
            rng,
            0.35,
        ),
        "green bottle on grey": _scene(
            _gradient(size, (150, 152, 156), (196, 196, 198)),
            _shaded(bottle, (30, 110, 60), (90, 170, 100)),
            bottle,
            rng,
            0.25,
        ),
        "striped shoe on cardboard": _scene(pattern, stripes, shoe, rng, 0.2),
        "person before a wall": _scene(
            _gradient(size, (196, 214, 226), (150, 176, 196)), head, bust, rng, 0.0
        ),
        "dark mug on black": _scene(
            _gradient(size, (22, 22, 24), (44, 44, 48)),
            _shaded(mug, (220, 190, 120), (150, 110, 60)),
            mug,
            rng,
            0.0,
        ),
        "mug on a table": _scene(table, _shaded(mug, (200, 60, 50), (130, 30, 30)), mug, rng, 0.3),
        "white mug on white": _scene(
            Image.new("RGB", size, (250, 250, 250)),
            _shaded(mug, (226, 226, 230), (196, 196, 204)),
            mug,
            rng,
            0.0,
        ),
    }
