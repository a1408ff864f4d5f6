"""What each verb of the editor's vocabulary does to pixels.

A verb gets an RGB or RGBA image and returns one. Verbs of colour and tone change the colours and
keep the alpha as it is; verbs of structure and shape treat both alike. Strengths are those of
`Instruction`: 1 is plainly visible, 2 is as much as makes sense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from traghetto.engines.imaging.colours import NAMED, Colour
from traghetto.engines.imaging.instructions import Instruction
from traghetto.engines.imaging.noise import GREY, grain, seeded

Verb = Callable[[Image.Image, Instruction], Image.Image]

# Rows of red, green and blue, each with an offset: the usual sepia of photo editors.
_SEPIA: Final = (0.393, 0.769, 0.189, 0, 0.349, 0.686, 0.168, 0, 0.272, 0.534, 0.131, 0)
_GRAIN_LEVELS: Final = 22.0
_PIXELS_ACROSS: Final = 56
"""How many big pixels lie along the shorter side after pixelating."""


def apply(image: Image.Image, instruction: Instruction) -> Image.Image:
    """`image` (RGB or RGBA) after one instruction that is not about composing."""
    verb = instruction.verb
    if verb in _OF_COLOUR:
        if image.mode != "RGBA":
            return _OF_COLOUR[verb](image, instruction)
        changed = _OF_COLOUR[verb](image.convert("RGB"), instruction)
        changed.putalpha(image.getchannel("A"))
        return changed
    return _OF_SHAPE[verb](image, instruction)


def _curve(image: Image.Image, *curves: Callable[[float], float]) -> Image.Image:
    """`image` with one curve for all channels, or one for each; values go from 0 to 1."""
    tables = [
        [round(255 * min(1.0, max(0.0, curve(level / 255)))) for level in range(256)]
        for curve in (curves if len(curves) > 1 else curves * 3)
    ]
    return image.point([level for table in tables for level in table])


def _power(exponent: float) -> Callable[[float], float]:
    return lambda value: value**exponent


def _times(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


def _greys(image: Image.Image, _: Instruction) -> Image.Image:
    return image.convert("L").convert("RGB")


def _sepia(image: Image.Image, _: Instruction) -> Image.Image:
    return image.convert("RGB", _SEPIA)


def _inverted(image: Image.Image, _: Instruction) -> Image.Image:
    return ImageOps.invert(image)


def _tinted(image: Image.Image, instruction: Instruction) -> Image.Image:
    """Shadows stay black and lights white; what lies between takes the colour."""
    colour = instruction.colour or NAMED["gray"]
    coloured = ImageOps.colorize(image.convert("L"), "black", "white", colour)
    return Image.blend(image, coloured, min(0.9, 0.6 * instruction.strength))


def _warmed(image: Image.Image, instruction: Instruction) -> Image.Image:
    return _temperature(image, instruction.strength)


def _cooled(image: Image.Image, instruction: Instruction) -> Image.Image:
    return _temperature(image, -instruction.strength)


def _temperature(image: Image.Image, step: float) -> Image.Image:
    # Powers rather than factors: black and white keep their places, and nothing clips.
    return _curve(image, _power(0.84**step), _power(0.98**step), _power(1.18**step))


def _saturated(factor: float) -> Verb:
    def change(image: Image.Image, instruction: Instruction) -> Image.Image:
        return ImageEnhance.Color(image).enhance(factor**instruction.strength)

    return change


def _brightened(exponent: float) -> Verb:
    def change(image: Image.Image, instruction: Instruction) -> Image.Image:
        # A power never clips; the factor moves what a power cannot, pure white included.
        gain = (1 / exponent) ** 0.25
        step = instruction.strength
        return _curve(image, lambda value: (value ** (exponent**step)) * gain**step)

    return change


def _contrasted(factor: float) -> Verb:
    def change(image: Image.Image, instruction: Instruction) -> Image.Image:
        return ImageEnhance.Contrast(image).enhance(factor**instruction.strength)

    return change


def _stretched(image: Image.Image, _: Instruction) -> Image.Image:
    return ImageOps.autocontrast(image, cutoff=0.5, preserve_tone=True)


def _posterized(image: Image.Image, instruction: Instruction) -> Image.Image:
    return ImageOps.posterize(image, 2 if instruction.strength > 1 else 3)


def _solarized(image: Image.Image, _: Instruction) -> Image.Image:
    return ImageOps.solarize(image, threshold=128)


def _sketched(image: Image.Image, instruction: Instruction) -> Image.Image:
    """Dark lines on white paper, where brightness differs from that of the surroundings."""
    near = _soft(image, 0.0016)
    far = near.filter(ImageFilter.GaussianBlur(3 * _radius(image, 0.0016)))
    gain = 12 * instruction.strength
    lines = ImageChops.subtract(far, near).point(_ramp(2, gain))
    return ImageChops.invert(lines).convert("RGB")


def _edges(image: Image.Image, instruction: Instruction) -> Image.Image:
    """White lines on black, where brightness changes."""
    grey = _soft(image, 0.002)
    thick = ImageChops.subtract(
        grey.filter(ImageFilter.MaxFilter(3)), grey.filter(ImageFilter.MinFilter(3))
    )
    return thick.point(_ramp(3, 7 * instruction.strength)).convert("RGB")


def _embossed(image: Image.Image, instruction: Instruction) -> Image.Image:
    """Grey relief, lit from the upper left."""
    grey = _soft(image, 0.001)
    step = max(1, round(_radius(image, 0.002)))
    moved = ImageOps.invert(ImageChops.offset(grey, step, step))
    relief = ImageChops.add(grey, moved, scale=1, offset=-127)
    gain = 1.8 * instruction.strength
    levels = [min(255, max(0, round(GREY + (level - GREY) * gain))) for level in range(256)]
    return relief.point(levels).convert("RGB")


def _soft(image: Image.Image, share: float) -> Image.Image:
    """The brightness of `image` without its noise; `share` is a radius, see `_radius`."""
    return image.convert("L").filter(ImageFilter.GaussianBlur(_radius(image, share)))


def _ramp(floor: int, gain: float) -> list[int]:
    """A table that takes `floor` from levels and amplifies the rest."""
    return [min(255, round(gain * max(0, level - floor))) for level in range(256)]


def _grained(image: Image.Image, instruction: Instruction) -> Image.Image:
    # The same picture gets the same grain.
    rng = seeded(f"{image.width} x {image.height}")
    noise = grain(image.size, rng, _GRAIN_LEVELS * instruction.strength)
    return ImageChops.add(image, Image.merge("RGB", (noise,) * 3), scale=1, offset=-GREY)


def _vignetted(image: Image.Image, instruction: Instruction) -> Image.Image:
    """Corners at about a third of their light; the middle as it was."""
    depth = min(0.95, 0.65 * instruction.strength)
    falloff = Image.radial_gradient("L").point(
        [
            round(255 * (1 - depth * max(0.0, (level / 255 - 0.35) / 0.65) ** 1.6))
            for level in range(256)
        ]
    )
    light = falloff.resize(image.size, Image.Resampling.BICUBIC)
    return ImageChops.multiply(image, Image.merge("RGB", (light,) * 3))


def _sharpened(image: Image.Image, instruction: Instruction) -> Image.Image:
    percent = round(120 * instruction.strength)
    return image.filter(ImageFilter.UnsharpMask(_radius(image, 0.0015), percent, 2))


def _blurred(image: Image.Image, instruction: Instruction) -> Image.Image:
    blur = ImageFilter.GaussianBlur(_radius(image, 0.012 * instruction.strength))
    return _premultiplied(image, lambda pixels: pixels.filter(blur))


def _pixelated(image: Image.Image, instruction: Instruction) -> Image.Image:
    across = _PIXELS_ACROSS / max(0.5, instruction.strength)
    factor = max(2, round(min(image.size) / across))
    small = (-(-image.width // factor), -(-image.height // factor))

    def change(pixels: Image.Image) -> Image.Image:
        coarse = pixels.reduce(factor)
        assert coarse.size == small
        large = coarse.resize((small[0] * factor, small[1] * factor), Image.Resampling.NEAREST)
        return large.crop((0, 0, *pixels.size))

    return _premultiplied(image, change)


def _transposed(method: Image.Transpose) -> Verb:
    return lambda image, _: image.transpose(method)


def _rotated(image: Image.Image, instruction: Instruction) -> Image.Image:
    clockwise = {
        90: Image.Transpose.ROTATE_270,
        180: Image.Transpose.ROTATE_180,
        270: Image.Transpose.ROTATE_90,
    }
    return image.transpose(clockwise[instruction.degrees])


def _squared(image: Image.Image, _: Instruction) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _bordered(image: Image.Image, instruction: Instruction) -> Image.Image:
    """A frame around the picture, which grows by it."""
    colour: Colour = instruction.colour or (255, 255, 255)
    width = max(1, round(0.04 * min(image.size) * instruction.strength))
    fill = (*colour, 255) if image.mode == "RGBA" else colour
    return ImageOps.expand(image, border=width, fill=fill)


def _radius(image: Image.Image, share: float) -> float:
    """A radius in pixels that looks the same at every size."""
    return max(1.0, share * min(image.size))


def _premultiplied(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`change` applied so that the colours of invisible pixels do not spread."""
    if image.mode != "RGBA":
        return change(image)
    return change(image.convert("RGBa")).convert("RGBA")


_OF_COLOUR: Final[dict[str, Verb]] = {
    "grayscale": _greys,
    "sepia": _sepia,
    "invert": _inverted,
    "tint": _tinted,
    "warmer": _warmed,
    "cooler": _cooled,
    "more-saturated": _saturated(1.6),
    "less-saturated": _saturated(0.4),
    "brighter": _brightened(0.72),
    "darker": _brightened(1.4),
    "more-contrast": _contrasted(1.45),
    "less-contrast": _contrasted(0.6),
    "auto-contrast": _stretched,
    "posterize": _posterized,
    "solarize": _solarized,
    "sketch": _sketched,
    "edges": _edges,
    "emboss": _embossed,
    "grain": _grained,
    "vignette": _vignetted,
    "sharpen": _sharpened,
}
_OF_SHAPE: Final[dict[str, Verb]] = {
    "blur": _blurred,
    "pixelate": _pixelated,
    "mirror": _transposed(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip": _transposed(Image.Transpose.FLIP_TOP_BOTTOM),
    "rotate": _rotated,
    "square": _squared,
    "border": _bordered,
}
VERBS: Final = frozenset(_OF_COLOUR) | frozenset(_OF_SHAPE)
"""Every verb that `apply` knows."""
