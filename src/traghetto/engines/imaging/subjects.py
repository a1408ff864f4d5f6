"""What a prompt is about, as far as the renderer can tell: one kind of scene, and its mood."""

from __future__ import annotations

import random
import re
from typing import Final, Literal

Kind = Literal["city", "desert", "field", "forest", "hills", "sea", "solids", "space"]

_KINDS: Final[dict[Kind, str]] = {
    "space": r"space|galax(?:y|ies)|planets?|nebula|cosmos|cosmic|asteroids?|astronauts?|universe",
    "city": r"city|cities|skyline|streets?|town|skyscrapers?|buildings?|urban|metropolis|cyberpunk",
    "sea": r"sea|ocean|beach|lake|river|waves?|coast|harbou?r|boats?|ships?|island|gondolas?|canal|"
    r"lagoon|lighthouse",
    "forest": r"forests?|woods?|trees?|jungle|pines?|woodland|park",
    "desert": r"deserts?|dunes?|sahara|camels?|canyon",
    "field": r"meadows?|fields?|flowers?|garden|grass|prairie|lavender|tulips?|farm|vineyard",
    "hills": r"mountains?|hills?|valley|alps|peaks?|landscape|cliffs?|volcano|castle",
    "solids": r"portrait|face|man|woman|girl|boy|person|people|cat|dog|bird|animal|car|robot|"
    r"logo|abstract|product|still life|fruit|bowl|cup|glass|vase|apple|food|icon|pattern",
}
_MOODS: Final[dict[str, str]] = {
    "night": r"night|moon(?:light|lit)?|midnight|stars?|starry|dark|neon",
    "sunset": r"sunset|dusk|evening|golden hour|twilight",
    "dawn": r"dawn|sunrise|morning",
    "snow": r"snow(?:y)?|winter|ice|icy|arctic|frozen|glacier",
    "autumn": r"autumn|fall leaves|october|harvest",
    "rain": r"rain(?:y)?|storm(?:y)?|fog(?:gy)?|mist(?:y)?|overcast|gloomy",
}
_USUAL_MOODS: Final[dict[Kind, str]] = {
    "space": "space",
    "sea": "sea",
    "forest": "forest",
    "desert": "desert",
    "field": "meadow",
}


def _earliest(text: str, table: dict[Kind, str] | dict[str, str]) -> str | None:
    """The key whose words `text` has first."""
    found = {
        key: match.start()
        for key, words in table.items()
        if (match := re.search(rf"\b(?:{words})\b", text, re.IGNORECASE))
    }
    return min(found, key=found.__getitem__) if found else None


def kind_of(prompt: str, rng: random.Random) -> Kind:
    """The scene that `prompt` speaks of; chance decides where it speaks of none."""
    found = _earliest(prompt, _KINDS)
    kinds: tuple[Kind, ...] = ("hills", "solids", "sea", "field")
    return next((kind for kind in _KINDS if kind == found), rng.choice(kinds))


def mood_of(prompt: str, kind: Kind) -> str | None:
    """The mood that `prompt` names, else the usual one of its scene, if that has one."""
    return _earliest(prompt, _MOODS) or _USUAL_MOODS.get(kind)
