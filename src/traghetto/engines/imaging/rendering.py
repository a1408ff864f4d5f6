"""Rendering without a model: a simulator of image generation, honest about being one.

A picture is a function of its prompt, seed and size (and of the negative prompt, the steps and the
references). Its scene and colours follow the prompt as far as a table of words reaches, and a strip
at its foot says who made it. No person, animal or text of the prompt's is ever depicted.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from PIL import Image, ImageDraw, ImageFont

from traghetto.engines.image_protocols import Picture
from traghetto.engines.imaging.brushes import Easel
from traghetto.engines.imaging.canvas import check_size, encode, flatten, open_picture
from traghetto.engines.imaging.colours import Colour
from traghetto.engines.imaging.noise import seeded
from traghetto.engines.imaging.palette import drawn_towards, palette_for
from traghetto.engines.imaging.scenery import paint
from traghetto.engines.imaging.subjects import kind_of, mood_of
from traghetto.wire.image_format import ImageFormat

CAPTION: Final = "simulated by Traghetto"
CAPTION_SIDE_PIXELS_MIN: Final = 128
"""Smaller images have no room for a caption."""
_CAPTION_CHARACTERS_MAX: Final = 120
_DETAIL_MIN: Final = 2
_DETAIL_MAX: Final = 7
_STEPS_USUAL: Final = 8
_SAMPLES: Final = 5
_SAMPLING_SIDE_PIXELS: Final = 96


class Rendering(msgspec.Struct, frozen=True, kw_only=True):
    """One image to be rendered."""

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    seed: int
    steps: int | None = None
    styles: tuple[tuple[tuple[Colour, ...], float], ...] = ()
    """Colours of references, as `sample_colours` finds them, and how strongly they count."""
    format: ImageFormat = "png"


def render(payload: dict[str, Any]) -> bytes:
    """Task: a `Rendering` in plain values becomes an encoded image."""
    wanted = msgspec.convert(payload, Rendering)
    return encode(draw(wanted), wanted.format)


def sample_colours(payload: dict[str, Any]) -> list[list[int]]:
    """Task: the main colours of a `Picture` in plain values, the most frequent first."""
    image = flatten(open_picture(msgspec.convert(payload, Picture)))
    side = _SAMPLING_SIDE_PIXELS
    small = image.resize((side, side), Image.Resampling.BOX, reducing_gap=2.0)
    reduced = small.quantize(_SAMPLES, Image.Quantize.MEDIANCUT)
    flat = reduced.getpalette() or []
    counts = reduced.histogram()[:_SAMPLES]
    order = sorted(range(min(_SAMPLES, len(flat) // 3)), key=lambda index: -counts[index])
    return [flat[3 * index : 3 * index + 3] for index in order if counts[index]]


def draw(wanted: Rendering) -> Image.Image:
    """The image (RGB), the same for the same `wanted`."""
    size = check_size((wanted.width, wanted.height))
    rng = seeded(f"{wanted.seed}|{wanted.width}x{wanted.height}|{wanted.prompt}")
    kind = kind_of(wanted.prompt, rng)
    palette = palette_for(wanted.prompt, wanted.negative_prompt, mood_of(wanted.prompt, kind), rng)
    for colours, strength in wanted.styles:
        palette = drawn_towards(palette, colours, strength)
    image = Image.new("RGB", size, palette.low)
    paint(kind, Easel(image, palette, rng, _detail(wanted.steps)))
    if min(size) >= CAPTION_SIDE_PIXELS_MIN:
        _caption(image, wanted.prompt)
    return image


def _detail(steps: int | None) -> int:
    """More steps give more detail, as they would with a model: 1 gives 3, 8 gives 5, 50 gives 7."""
    return min(_DETAIL_MAX, max(_DETAIL_MIN, 2 + (steps or _STEPS_USUAL).bit_length() * 3 // 4))


def _caption(image: Image.Image, prompt: str) -> None:
    """A dark strip at the foot that says what the image is, and what of."""
    width, height = image.size
    points = max(9, min(width, height) // 44)
    strip = round(points * 1.9)
    font = ImageFont.load_default(points)
    foot = image.crop((0, height - strip, width, height))
    image.paste(
        Image.blend(foot, Image.new("RGB", foot.size, (12, 14, 18)), 0.72), (0, height - strip)
    )
    pen = ImageDraw.Draw(image)
    text = CAPTION
    # The built-in font has the letters of Western Europe only.
    words = [
        word
        for word in prompt[: 4 * _CAPTION_CHARACTERS_MAX].split()
        if word.isprintable() and word.isascii()
    ]
    for index, word in enumerate(words):
        longer = f"{text}{' ' if index else ':  '}{word}"
        if (
            len(longer) > _CAPTION_CHARACTERS_MAX
            or pen.textlength(longer + " ...", font) > width - 2 * points
        ):
            text += " ..." if index else ""
            break
        text = longer
    middle = height - strip / 2
    pen.text((points, middle), text, font=font, fill=(226, 230, 236), anchor="lm")
