"""The colours of a rendered picture: named in the prompt, implied by it, or drawn by chance."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from traghetto.engines.imaging.colours import (
    COLOUR_PATTERN,
    NAMED,
    Colour,
    colour_named,
    colours_in,
    distance,
    luminance,
    mix,
    shade,
)

_EXCLUDED_WITHIN: Final = 230.0
"""A colour as near as this to an excluded one is not used."""
_HUE_STEP: Final = 0.09


class Palette(NamedTuple):
    """The roles that colours play in a picture."""

    high: Colour
    """The top of the sky."""
    low: Colour
    """The sky at the horizon."""
    far: Colour
    near: Colour
    light: Colour
    """Sun, moon, windows, highlights."""
    accent: Colour
    """What the eye is to find first."""


def _palette(text: str) -> Palette:
    """The palette of six colours in hexadecimal, in the order of the roles."""
    values = [bytes.fromhex(each) for each in text.split()]
    return Palette(*((red, green, blue) for red, green, blue in values))


MOODS: Final[dict[str, Palette]] = {
    "autumn": _palette("96b4c8 f6e2be ba6e32 60301a fff0c8 ce3c1e"),
    "dawn": _palette("7896c8 facebe 8282a0 3c4254 fff0d2 ec8278"),
    "desert": _palette("70aadc f6e2b8 dea664 9e6030 fff4d6 963c28"),
    "forest": _palette("96bece e2ecd6 5a8462 1c3e28 fcf6d2 d67832"),
    "meadow": _palette("68a4de dcecf0 80b05c 2c5c2e fffae2 e0606e"),
    "night": _palette("0a0e28 2c3868 18203c 080c1a ececd6 7896e6"),
    "rain": _palette("606c7a aab2ba 68747e 323a42 e2e6e8 dcb450"),
    "sea": _palette("5ea0d8 d6eaf0 3c82aa 104a70 fffae6 f0785a"),
    "snow": _palette("6e9ccc e2ecf6 9cb4ce ecf2f8 fffffa c83c3c"),
    "space": _palette("060612 1e123a 3c1e5a 0c081c f0f0ff c85ac8"),
    "sunset": _palette("46306e fa9650 784664 2c1c34 ffe296 f05a3c"),
}
"""Palettes by mood; `subjects` says which words of a prompt mean which."""

_THINGS: Final[dict[str, str]] = {
    "high": r"sky|skies|heaven|background|wall",
    "low": r"clouds?|horizon|fog|mist",
    "far": r"sea|ocean|water|lake|river|mountains?|hills?|fields?|meadow|forest|trees?",
    "near": r"grass|ground|sand|earth|floor|table|rocks?|leaves",
    "light": r"sun|moon|stars?|lights?|lamps?|windows?",
}
"""What in a prompt plays which role, so that the sky of `a blue sky` is blue."""
_COLOURED_THINGS: Final = {
    role: re.compile(rf"({COLOUR_PATTERN})\s+(?:{things})\b", re.IGNORECASE)
    for role, things in _THINGS.items()
}


def palette_for(prompt: str, negative_prompt: str, mood: str | None, rng: random.Random) -> Palette:
    """The palette of a prompt: that of its mood, with the colours it names in the main roles."""
    palette = _map(MOODS[mood], _jittered(rng)) if mood else _by_chance(rng)
    banned = colours_in(negative_prompt)
    palette = _with_named(palette, prompt, banned, 0.2 if mood else 0.6)
    return _map(palette, lambda own: _away_from(own, banned)) if banned else palette


def drawn_towards(palette: Palette, colours: Sequence[Colour], strength: float) -> Palette:
    """`palette` with `strength` (0 to 1) of the colours of a reference.

    A role takes the colour that is closest to it in brightness, so that skies stay brighter than
    the ground before them.
    """

    def towards(own: Colour) -> Colour:
        nearest = min(colours, key=lambda each: abs(luminance(each) - luminance(own)))
        return mix(own, nearest, strength)

    return _map(palette, towards) if colours else palette


def _map(palette: Palette, change: Callable[[Colour], Colour]) -> Palette:
    return Palette(*(change(colour) for colour in palette))


def _jittered(rng: random.Random) -> Callable[[Colour], Colour]:
    hue, value = rng.uniform(-0.025, 0.025), rng.uniform(0.92, 1.06)
    return lambda colour: shade(colour, hue=hue, value=value)


def _by_chance(rng: random.Random) -> Palette:
    """Colours in harmony: neighbours of one hue, and its opposite for what stands out."""
    return _around(shade((226, 64, 60), hue=rng.random()), rng)


def _around(base: Colour, rng: random.Random) -> Palette:
    beside = _HUE_STEP * rng.choice((-1, 1))
    return Palette(
        high=shade(base, saturation=0.8, value=0.8),
        low=mix(shade(base, hue=beside, saturation=0.5), NAMED["cream"], 0.5),
        far=shade(base, hue=beside / 2, saturation=0.75, value=0.66),
        near=shade(base, hue=beside, saturation=0.9, value=0.3),
        light=mix(NAMED["cream"], base, 0.1),
        accent=shade(base, hue=0.5, saturation=0.95),
    )


def _with_named(
    palette: Palette, prompt: str, banned: Sequence[Colour], tone_share: float
) -> Palette:
    """`palette` with the colours that `prompt` names, unless they are `banned`.

    A colour before a thing colours it. Of the others, the first is that of the subject, and
    whole scenes take `tone_share` of their tone from it if it is the only one.
    """
    roles: dict[str, Colour] = {}
    rest = prompt
    for role, pattern in _COLOURED_THINGS.items():
        match = pattern.search(rest)
        if match and (colour := colour_named(match.group(1))) not in banned:
            roles[role] = colour
            rest = rest[: match.start()] + rest[match.end() :]
    free = [colour for colour in colours_in(rest) if colour not in banned]
    if len(free) == 1 and not roles:
        tone = free[0]
        palette = _map(
            palette, lambda own: mix(own, shade(tone, value=luminance(own) / 255), tone_share)
        )
    for role, colour in zip(("accent", "far", "high", "near"), free, strict=False):
        roles.setdefault(role, colour)
    return palette._replace(**roles)


def _away_from(own: Colour, banned: Sequence[Colour]) -> Colour:
    """`own`, or what is left of it, at a distance from every colour in `banned`."""

    def clearance(colour: Colour) -> float:
        return min(distance(colour, each) for each in banned)

    if clearance(own) > _EXCLUDED_WITHIN:
        return own
    turned = [shade(own, hue=step / 6) for step in (1, -1, 2, -2, 3)]
    lightened = [mix(own, NAMED["white"], 0.6), mix(own, NAMED["black"], 0.6)]
    fitting = (each for each in (*turned, *lightened) if clearance(each) > _EXCLUDED_WITHIN)
    return next(fitting, max((*turned, *lightened), key=clearance))
