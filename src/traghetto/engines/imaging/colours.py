"""Colours that a prompt can name, and the few computations on colours that need no library."""

from __future__ import annotations

import colorsys
import re
from typing import Final

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255, in sRGB."""

NAMED: Final[dict[str, Colour]] = {
    "black": (16, 16, 18),
    "white": (250, 250, 248),
    "gray": (128, 128, 130),
    "silver": (192, 194, 198),
    "red": (208, 32, 38),
    "crimson": (176, 20, 52),
    "maroon": (110, 16, 30),
    "orange": (244, 132, 28),
    "amber": (250, 178, 36),
    "gold": (222, 176, 52),
    "yellow": (250, 220, 50),
    "olive": (122, 124, 44),
    "lime": (150, 220, 40),
    "green": (44, 150, 66),
    "emerald": (22, 158, 110),
    "teal": (14, 128, 130),
    "turquoise": (50, 200, 196),
    "cyan": (40, 200, 228),
    "blue": (36, 92, 214),
    "navy": (20, 32, 92),
    "indigo": (66, 40, 150),
    "violet": (132, 70, 206),
    "purple": (118, 44, 152),
    "magenta": (214, 38, 160),
    "pink": (244, 140, 182),
    "beige": (226, 210, 178),
    "brown": (118, 74, 40),
    "cream": (248, 238, 208),
}
_SPELLINGS: Final = {"grey": "gray", "golden": "gold"}
_NAMES: Final = re.compile(rf"\b(?:{'|'.join((*NAMED, *_SPELLINGS))})\b", re.IGNORECASE)
COLOUR_PATTERN: Final = _NAMES.pattern
"""A regular expression for the names, without groups."""


def colour_named(name: str) -> Colour:
    """The colour of a name that `COLOUR_PATTERN` matched, in any case."""
    lower = name.lower()
    return NAMED[_SPELLINGS.get(lower, lower)]


def colours_in(text: str) -> list[Colour]:
    """The colours that `text` names, in order, each once."""
    return list(dict.fromkeys(colour_named(match.group()) for match in _NAMES.finditer(text)))


def luminance(colour: Colour) -> float:
    """How bright a colour looks, 0 to 255, after ITU-R BT.601."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` (0 to 1) of `other`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def shade(
    colour: Colour, *, hue: float = 0.0, saturation: float = 1.0, value: float = 1.0
) -> Colour:
    """`colour` with its hue turned by `hue` (1 is a full turn), the others multiplied."""
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    red, green, blue = (
        round(255 * channel)
        for channel in colorsys.hsv_to_rgb(
            (h + hue) % 1.0, min(1.0, s * saturation), min(1.0, v * value)
        )
    )
    return red, green, blue


def distance(one: Colour, other: Colour) -> float:
    """How different two colours look, 0 to about 765, weighted by the mean of their red."""
    mean_red = (one[0] + other[0]) / 2
    red, green, blue = (a - b for a, b in zip(one, other, strict=True))
    return float(
        ((2 + mean_red / 256) * red**2 + 4 * green**2 + (2 + (255 - mean_red) / 256) * blue**2)
        ** 0.5
    )
