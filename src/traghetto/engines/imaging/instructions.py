"""What the classical editor makes of a prompt: the instructions that it finds, in their order.

The words are in `vocabulary`; this module decides when a word counts. An editor without a model
must not pretend: a prompt is refused if it names nothing of the vocabulary, asks besides for
something that only a model could do (`add a dragon`), or wants an instruction for a part of the
picture (`blur the background`). Whoever is refused is told so and pays nothing; an unchanged or
half-changed picture would be charged and look like a failure of the model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from traghetto.engines.imaging.colours import COLOUR_PATTERN, Colour, colour_named
from traghetto.engines.imaging.vocabulary import VOCABULARY

INSTRUCTIONS_MAX: Final = 16
"""More than anybody means; each is a pass over the picture."""


class NotUnderstood(ValueError):
    """A prompt asks for something that is not in the vocabulary; the text never quotes it."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step of an edit."""

    verb: str
    """A key of `VOCABULARY`."""
    strength: float = 1.0
    """About 0.4 for `slightly`, 1.8 for `very`; half the percentage where one is given."""
    colour: Colour | None = None
    degrees: int = 0
    """Of a rotation, clockwise: 90, 180 or 270."""


_WORDS: Final = {
    verb: re.compile(rf"(?<![\w-])(?:{'|'.join(phrases)})(?![\w-])", re.IGNORECASE)
    for verb, phrases in VOCABULARY.items()
}
_SPACES: Final = re.compile(r"[^\S\n]+")
_BLACK_AND_WHITE: Final = re.compile(r"black[- ]and[- ]white", re.IGNORECASE)
_CLAUSE_ENDS: Final = re.compile(
    r"[.,;:!?\n]+(?!\d)|\b(?:and then|then|and|but|plus|while)\b|"
    r"\bwith(?=\s+(?:more|less|no|an?\s+(?:\w+\s+){0,2}(?:border|frame|vignette))\b)",
    re.IGNORECASE,
)
_NEGATIONS: Final = re.compile(
    r"\b(?:no|not|never|without|avoid|don'?t|do not|isn'?t|not too)\b[^.]*$", re.IGNORECASE
)
_WEAKENING: Final = re.compile(
    r"\b(?:slight(?:ly)?|a (?:little|bit|touch|tad)|subtl[ey]|mild(?:ly)?|light(?:ly)?|"
    r"gent(?:le|ly)|somewhat|soft)\b",
    re.IGNORECASE,
)
_STRENGTHENING: Final = re.compile(
    r"\b(?:very|much|strong(?:ly)?|a lot|heav(?:y|ily)|extreme(?:ly)?|dramatic(?:ally)?|"
    r"intense(?:ly)?|really|way)\b",
    re.IGNORECASE,
)
_PERCENTAGE: Final = re.compile(r"(\d{1,3})\s?(?:%|percent\b)")
_COLOUR: Final = re.compile(COLOUR_PATTERN, re.IGNORECASE)
_DEGREES: Final = re.compile(r"(-?\d{1,4})\s?(?:°|deg(?:rees?)?\b)?")
_ANTICLOCKWISE: Final = re.compile(
    r"\b(?:left|anti-?clockwise|counter-?clockwise)\b", re.IGNORECASE
)
_UPSIDE_DOWN: Final = re.compile(r"upside[- ]down", re.IGNORECASE)
_FOR_A_MODEL: Final = re.compile(
    r"\b(?:add|remove|replace|insert|erase|delete|put|place|draw|paint|write|swap|exchange|generate|"
    r"turn \w+ into|transform|restore|extend|wear(?:ing)?)\b",
    re.IGNORECASE,
)
"""Verbs that ask for contents; in a clause without a word of the vocabulary nothing can be done."""
_PART: Final = re.compile(
    r"\b(?:the|his|her|their|my|its|this|that|these|those|all|each)\s+"
    r"(?!(?:whole|entire|full|original|first|second|third|two|three|four|same|overall)\b)([a-z]+)",
    re.IGNORECASE,
)
_WHOLE_PICTURE: Final = re.compile(
    r"(?:image|picture|photo|photograph|shot|pic|colou?r|tone|brightness|contrast|saturation|"
    r"exposure|light|lighting|temperature|warmth|sharpness|edge|outline|corner|side|left|right|"
    r"result|output|one|other|of|effect|look|style|detail|hue|border|frame|vignette|way)s?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Found:
    verb: str
    start: int
    end: int


def parse(prompt: str) -> list[Instruction]:
    """The instructions of `prompt`, in its order; raises `NotUnderstood`."""
    instructions: list[Instruction] = []
    for clause in _clauses(prompt):
        found = [each for each in _find(clause) if not _NEGATIONS.search(clause[: each.start])]
        if not found:
            if _FOR_A_MODEL.search(clause) and not _NEGATIONS.search(clause):
                raise NotUnderstood("the prompt asks for contents, which takes a model")
            continue
        _check_whole(clause)
        instructions.extend(_instruction(each, found, clause) for each in found)
    if not instructions:
        raise NotUnderstood("the prompt names nothing of the editor's vocabulary")
    if len(instructions) > INSTRUCTIONS_MAX:
        raise NotUnderstood(f"the prompt has more than {INSTRUCTIONS_MAX} instructions")
    return instructions


def _clauses(prompt: str) -> list[str]:
    """The parts of `prompt` in which adverbs, colours and numbers belong together."""
    spaced = _SPACES.sub(" ", prompt)
    protected = _BLACK_AND_WHITE.sub("black & white", spaced)
    return [clause for clause in _CLAUSE_ENDS.split(protected) if clause.strip()]


def _find(clause: str) -> list[_Found]:
    """The words of the vocabulary in `clause`; of those that overlap, the longest."""
    candidates = [
        _Found(verb, match.start(), match.end())
        for verb, words in _WORDS.items()
        for match in words.finditer(clause)
    ]
    candidates.sort(key=lambda each: (each.start, -each.end))
    chosen: list[_Found] = []
    for each in candidates:
        if not chosen or each.start >= chosen[-1].end:
            chosen.append(each)
        elif each.end - each.start > chosen[-1].end - chosen[-1].start:
            chosen[-1] = each
    return list({each.verb: each for each in chosen}.values())


def _check_whole(clause: str) -> None:
    """Raises `NotUnderstood` if `clause` speaks of something in the picture."""
    for match in _PART.finditer(clause):
        if not _WHOLE_PICTURE.fullmatch(match.group(1)):
            raise NotUnderstood("the prompt wants a part of the picture changed")


def _instruction(found: _Found, all_found: list[_Found], clause: str) -> Instruction:
    for other in all_found:
        if other is not found:  # the black of `black & white` is not the colour of a border
            clause = clause[: other.start] + " " * (other.end - other.start) + clause[other.end :]
    colour = _COLOUR.search(clause)
    if found.verb == "tint" and not colour:
        raise NotUnderstood("a tint needs the name of a colour")
    return Instruction(
        found.verb,
        strength=_strength(clause),
        colour=colour_named(colour.group()) if colour else None,
        degrees=_rotation(clause) if found.verb == "rotate" else 0,
    )


def _strength(clause: str) -> float:
    if percentage := _PERCENTAGE.search(clause):
        return min(100, int(percentage.group(1))) / 50
    if _WEAKENING.search(clause):
        return 0.4
    return 1.8 if _STRENGTHENING.search(clause) else 1.0


def _rotation(clause: str) -> int:
    """Degrees clockwise; raises `NotUnderstood` for anything but quarter turns."""
    if _UPSIDE_DOWN.search(clause):
        return 180
    number = _DEGREES.search(clause)
    degrees = int(number.group(1)) if number else 90
    if _ANTICLOCKWISE.search(clause):
        degrees = -degrees
    if degrees % 90 or degrees % 360 == 0:
        raise NotUnderstood("pictures can only be rotated by 90, 180 or 270 degrees")
    return degrees % 360
