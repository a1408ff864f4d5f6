"""Painting a scene: a sky, what stands before it, and what lies at the beholder's feet.

Painters draw on one RGB image, back to front. All chance comes from one seeded generator, always
in the same order: the same seed paints the same picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from traghetto.engines.imaging.brushes import (
    Draw,
    Easel,
    ball,
    below,
    glow,
    gradient,
    ridge_line,
    shapes,
    sky,
    smoothed,
    stars,
    texture,
)
from traghetto.engines.imaging.canvas import Size
from traghetto.engines.imaging.colours import mix, shade
from traghetto.engines.imaging.subjects import Kind


def paint(kind: Kind, easel: Easel) -> None:
    """Paint a scene of `kind` over the whole of the image."""
    _PAINTERS[kind](easel)


def _hills(easel: Easel, *, rough: float = 0.52, first: float = 0.46, swing: float = 0.13) -> None:
    palette, rng = easel.palette, easel.rng
    sky(easel, 0.62)
    layers = 3 + easel.detail // 3
    for index in range(layers):
        depth = index / (layers - 1)
        base = first + (0.86 - first) * depth
        ridge = ridge_line(rng, base, swing * (1 - 0.45 * depth), rough, 3 + easel.detail)
        mask = below(easel.size, ridge)
        colour = mix(mix(palette.low, palette.far, min(1.0, 0.35 + depth)), palette.near, depth)
        # Haze gathers at the foot of every range but the nearest.
        easel.grade(
            mask, colour, mix(colour, palette.low, 0.4 * (1 - depth)), base - 0.1, base + 0.28
        )
        texture(easel, mask, mix(colour, palette.light, 0.35), 0.30, 1.5)
    _subject(easel, 0.8)


def _subject(easel: Easel, height: float) -> None:
    """A small house with a lit window, so that the accent has a place."""
    rng, palette = easel.rng, easel.palette
    x, width = rng.uniform(0.15, 0.8), rng.uniform(0.06, 0.09)
    high = width * 0.7

    def walls(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        side = min(w, h)
        left, foot = x * w, height * h
        pen.rectangle((left, foot - high * side, left + width * side, foot), fill=255)

    def roof(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        side = min(w, h)
        left, eaves = x * w, height * h - high * side
        over = 0.15 * width * side
        pen.polygon(
            [
                (left - over, eaves),
                (left + width * side / 2, eaves - high * 0.7 * side),
                (left + width * side + over, eaves),
            ],
            fill=255,
        )

    def window(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        side = min(w, h)
        left, top = x * w + width * side * 0.38, height * h - high * side * 0.7
        pen.rectangle((left, top, left + width * side * 0.24, top + high * side * 0.3), fill=255)

    easel.fill(shapes(easel.size, walls), palette.accent)
    easel.fill(shapes(easel.size, roof), shade(palette.accent, value=0.55))
    easel.fill(shapes(easel.size, window), palette.light)


def _desert(easel: Easel) -> None:
    palette, rng = easel.palette, easel.rng
    sky(easel, 0.6, cloudiness=0.35)
    layers = 4
    for index in range(layers):
        depth = index / (layers - 1)
        base = 0.5 + 0.34 * depth
        ridge = smoothed(ridge_line(rng, base, 0.1 * (1 - 0.3 * depth), 0.4, 3))
        mask = below(easel.size, ridge)
        lit = mix(mix(palette.low, palette.far, 0.4 + 0.6 * depth), palette.near, 0.25 * depth)
        easel.grade(mask, lit, mix(lit, palette.near, 0.75), base - 0.1, base + 0.22)
        texture(easel, mask, mix(lit, palette.light, 0.5), 0.22, 9.0)
    _subject(easel, 0.84)


def _sea(easel: Easel) -> None:
    palette, rng, (width, height) = easel.palette, easel.rng, easel.size
    horizon = rng.uniform(0.42, 0.56)
    sky(easel, horizon)
    coast = below(easel.size, ridge_line(rng, horizon - 0.02, 0.035, 0.55, 3 + easel.detail))
    easel.fill(coast, mix(palette.far, palette.low, 0.35))
    row = round(horizon * height)
    water = Image.new("L", easel.size)
    water.paste(255, (0, row, width, height))
    # The water has the colours of the sky above it, turned over and darkened.
    above = easel.image.crop((0, 0, width, row)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    reflection = above.resize((width, height - row), Image.Resampling.BICUBIC)
    easel.grade(water, palette.far, palette.near, horizon, 1.0)
    lower = easel.image.crop((0, row, width, height))
    easel.image.paste(Image.blend(lower, reflection, 0.4), (0, row))
    texture(easel, water, mix(palette.far, palette.light, 0.6), 0.55, 12.0)
    texture(easel, water, palette.near, 0.5, 16.0)
    _boat(easel, rng.uniform(0.2, 0.7), horizon + rng.uniform(0.12, 0.22))


def _boat(easel: Easel, x: float, y: float) -> None:
    palette, length = easel.palette, 0.2

    def hull(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        s = min(w, h) * length
        left, top = x * w, y * h
        corners = ((0, 0), (1, 0), (0.84, 0.2), (0.14, 0.2))
        pen.polygon([(left + a * s, top + b * s) for a, b in corners], fill=255)

    def sail(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        s = min(w, h) * length
        left, top = x * w, y * h - 0.06 * s
        pen.polygon(
            [(left + a * s, top + b * s) for a, b in ((0.5, 0), (0.5, -1.1), (0.98, 0))], fill=255
        )
        pen.polygon(
            [(left + a * s, top + b * s) for a, b in ((0.44, 0), (0.44, -0.8), (0.1, 0))], fill=255
        )

    easel.fill(shapes(easel.size, hull), mix(palette.near, (20, 12, 10), 0.5))
    easel.fill(shapes(easel.size, sail), palette.accent)


def _forest(easel: Easel) -> None:
    palette, rng = easel.palette, easel.rng
    sky(easel, 0.6)
    rows = 2 + easel.detail // 2
    for index in range(rows):
        depth = index / max(1, rows - 1)
        colour = mix(mix(palette.low, palette.far, 0.4 + 0.6 * depth), palette.near, depth**1.5)
        foot = 0.58 + 0.32 * depth
        tall = 0.12 + 0.26 * depth
        ground = below(easel.size, ridge_line(rng, foot - 0.25 * tall, 0.02, 0.5, 4))
        trees = _conifers(rng, round(26 - 15 * depth), foot + 0.02, tall)
        mask = ImageChops.lighter(ground, shapes(easel.size, trees))
        easel.grade(
            mask, colour, mix(colour, palette.low, 0.45 * (1 - depth)), foot - 0.2, foot + 0.15
        )
        texture(easel, mask, mix(colour, palette.light, 0.3), 0.35, 0.8)
    _subject(easel, 0.94)


def _conifers(rng: random.Random, count: int, foot: float, tall: float) -> Draw:
    """A row of trees, each of three triangles."""
    places = [
        ((index + rng.random()) / count, tall * rng.uniform(0.6, 1.15)) for index in range(count)
    ]

    def draw(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        for x, size in places:
            for part in range(3):
                top = foot * h - size * h * (1 - 0.24 * part)
                bottom = foot * h - size * h * (0.5 - 0.22 * part)
                half = size * h * (0.12 + 0.06 * part)
                pen.polygon(
                    [(x * w, top), (x * w - half, bottom), (x * w + half, bottom)], fill=255
                )
            pen.rectangle(
                (
                    x * w - size * h * 0.025,
                    foot * h - size * h * 0.1,
                    x * w + size * h * 0.025,
                    foot * h,
                ),
                fill=255,
            )

    return draw


def _city(easel: Easel) -> None:
    palette, rng, size = easel.palette, easel.rng, easel.size
    sky(easel, 0.75)
    rows = 3
    for index in range(rows):
        depth = index / (rows - 1)
        colour = mix(mix(palette.low, palette.far, 0.5 + 0.5 * depth), palette.near, depth)
        blocks = _blocks(rng, round(22 - 9 * depth), 0.3 + 0.2 * depth)

        easel.grade(
            shapes(size, _walls(blocks)),
            colour,
            mix(colour, palette.low, 0.25 * (1 - depth)),
            0.3,
            1.0,
        )
        lights = Image.new("L", size)
        _windows(ImageDraw.Draw(lights), rng, blocks, size, 0.25 + 0.3 * depth)
        easel.fill(lights, mix(palette.light, palette.accent, 0.35 if index == 1 else 0.0))


def _blocks(rng: random.Random, count: int, top: float) -> list[tuple[float, float, float]]:
    """Left, right and top of houses that stand wall to wall."""
    widths = [rng.uniform(0.6, 1.4) for _ in range(count)]
    total, left = sum(widths), 0.0
    blocks = []
    for width in widths:
        right = left + width / total
        blocks.append((left, right, top + rng.uniform(0.0, 0.34)))
        left = right
    return blocks


def _walls(blocks: Sequence[tuple[float, float, float]]) -> Draw:
    def draw(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        for left, right, top in blocks:
            pen.rectangle((left * w, top * h, right * w, h), fill=255)

    return draw


def _windows(
    pen: ImageDraw.ImageDraw,
    rng: random.Random,
    blocks: Sequence[tuple[float, float, float]],
    size: Size,
    lit: float,
) -> None:
    width, height = size
    pitch = max(4, min(size) // 64)
    pane = max(1, pitch // 2)
    for left, right, top in blocks:
        columns = range(round(left * width) + pitch, round(right * width) - pitch + 1, pitch)
        for y in range(round(top * height) + pitch, height, pitch + pane):
            for x in columns:
                if rng.random() < lit:
                    pen.rectangle((x, y, x + pane - 1, y + pane), fill=rng.randrange(110, 240))


def _field(easel: Easel) -> None:
    palette, rng, (width, height) = easel.palette, easel.rng, easel.size
    sky(easel, 0.5)
    horizon = rng.uniform(0.44, 0.54)
    easel.fill(
        below(easel.size, ridge_line(rng, horizon - 0.04, 0.05, 0.5, 6)),
        mix(palette.far, palette.low, 0.4),
    )
    ground = below(easel.size, smoothed(ridge_line(rng, horizon + 0.02, 0.02, 0.5, 2)))
    easel.grade(ground, palette.far, palette.near, horizon, 1.0)
    texture(easel, ground, mix(palette.far, palette.light, 0.3), 0.4, 5.0)
    pen = ImageDraw.Draw(easel.image)
    # Far flowers first: those in front cover them.
    for share in sorted(rng.random() ** 1.6 for _ in range(220 * easel.detail)):
        y = (horizon + 0.04 + (1.04 - horizon) * share) * height
        x, radius = rng.random() * width, (0.0015 + 0.013 * share) * min(width, height)
        colour = mix(
            palette.accent, rng.choice((palette.light, palette.near)), rng.uniform(0.0, 0.4)
        )
        pen.line((x, y, x, y + 4 * radius), fill=palette.near, width=max(1, round(radius / 3)))
        pen.ellipse(
            (x - radius, y - radius, x + radius, y + 0.8 * radius),
            fill=mix(palette.far, colour, 0.5 + share / 2),
        )


def _space(easel: Easel) -> None:
    palette, rng = easel.palette, easel.rng
    easel.image.paste(gradient(easel.size, palette.high, mix(palette.high, palette.low, 0.6)))
    whole = Image.new("L", easel.size, 255)
    for colour, strength in ((palette.low, 0.9), (palette.far, 0.9), (palette.accent, 0.5)):
        texture(easel, whole, colour, strength, rng.uniform(0.7, 1.6))
    stars(easel, 1.0)
    glow(easel, rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.5), 0.012, palette.light)
    ball(
        easel,
        rng.uniform(0.3, 0.7),
        rng.uniform(0.42, 0.6),
        rng.uniform(0.18, 0.28),
        palette.accent,
    )
    ball(easel, rng.uniform(0.1, 0.9), rng.uniform(0.15, 0.8), rng.uniform(0.03, 0.06), palette.far)


def _solids(easel: Easel) -> None:
    """Balls on a table before a wall: a stand-in for every subject that cannot be painted."""
    palette, rng, (width, height) = easel.palette, easel.rng, easel.size
    edge = rng.uniform(0.56, 0.66)
    easel.image.paste(gradient(easel.size, palette.high, palette.low, 0.0, edge))
    wall = Image.new("L", easel.size)
    wall.paste(255, (0, 0, width, round(edge * height)))
    texture(easel, wall, mix(palette.high, palette.light, 0.35), 0.5, 1.0)
    table = ImageChops.invert(wall)
    easel.grade(table, palette.far, mix(palette.far, palette.near, 0.8), edge, 1.0)
    texture(easel, table, mix(palette.far, palette.light, 0.35), 0.4, 14.0)
    colours = (
        palette.accent,
        palette.far,
        mix(palette.accent, palette.light, 0.4),
        shade(palette.accent, hue=0.08),
    )
    count = 3 + rng.randrange(3)
    places = sorted((rng.uniform(edge - 0.02, 0.84), index) for index in range(count))
    for order, (foot, index) in enumerate(places):
        radius = rng.uniform(0.07, 0.11) * (0.75 + 0.7 * (foot - edge) / (0.84 - edge))
        radius = 0.19 if order == count // 2 else radius
        x = (index + rng.uniform(0.3, 0.7)) / count
        _shadow(easel, x + 0.5 * radius, foot, radius)
        lift = radius * min(width, height) / height
        ball(easel, x, foot - lift * 0.93, radius, colours[(order - count // 2) % len(colours)])


def _shadow(easel: Easel, x: float, foot: float, radius: float) -> None:
    def draw(pen: ImageDraw.ImageDraw, w: int, h: int) -> None:
        r = radius * min(w, h)
        pen.ellipse(
            (x * w - 1.3 * r, foot * h - 0.28 * r, x * w + 1.3 * r, foot * h + 0.28 * r), fill=165
        )

    soft = shapes(easel.size, draw).filter(ImageFilter.BoxBlur(radius * min(easel.size) * 0.12))
    easel.fill(soft, mix(easel.palette.near, (0, 0, 0), 0.6))


_PAINTERS: Final[dict[Kind, Callable[[Easel], None]]] = {
    "city": _city,
    "desert": _desert,
    "field": _field,
    "forest": _forest,
    "hills": _hills,
    "sea": _sea,
    "solids": _solids,
    "space": _space,
}
