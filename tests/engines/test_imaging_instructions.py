"""What the editor finds in a prompt, and what it refuses to pretend."""

from __future__ import annotations

import contextlib
import time

import pytest

from traghetto.engines.imaging.colours import NAMED
from traghetto.engines.imaging.instructions import INSTRUCTIONS_MAX, NotUnderstood, parse
from traghetto.engines.imaging.verbs import VERBS
from traghetto.engines.imaging.vocabulary import COMPOSING, VOCABULARY

FOUND = {
    "Make it black and white": ["grayscale"],
    "convert to grayscale, then add a red border": ["grayscale", "border"],
    "GREYSCALE": ["grayscale"],
    "B&W please": ["grayscale"],
    "old-fashioned sepia look": ["sepia"],
    "invert the colours": ["invert"],
    "Blur it": ["blur"],
    "less blurry": ["sharpen"],
    "make the image sharper and brighter": ["sharpen", "brighter"],
    "increase the brightness": ["brighter"],
    "reduce the exposure a bit": ["darker"],
    "more contrast, less saturation": ["more-contrast", "less-saturated"],
    "high-contrast": ["more-contrast"],
    "make the colors more vivid": ["more-saturated"],
    "warmer tones": ["warmer"],
    "cooler": ["cooler"],
    "mirror it": ["mirror"],
    "flip horizontally": ["mirror"],
    "flip the image vertically": ["flip"],
    "turn it upside down": ["rotate"],
    "crop it to a square": ["square"],
    "darken the corners": ["vignette"],
    "pixel art": ["pixelate"],
    "posterise": ["posterize"],
    "a pencil sketch": ["sketch"],
    "edge detection": ["edges"],
    "tint it blue": ["tint"],
    "with a purple tone": ["tint"],
    "put a frame around it": ["border"],
    "combine these side by side and make them sepia": ["combine", "side-by-side", "sepia"],
    "overlay them": ["overlay"],
    "a collage": ["grid"],
    "brighter, brighter": ["brighter", "brighter"],
}
"""Prompts, and the verbs found in them, in order."""

REFUSED = {
    "": "nothing",
    "hello": "nothing",
    "a photo of a cat": "nothing",
    "rendre plus net": "nothing",
    "do not blur": "nothing",
    "without a border": "nothing",
    "brightness": "nothing",
    "cool": "nothing",
    "add a dragon": "contents",
    "make it sepia and add a hat": "contents",
    "remove the text, then sharpen": "contents",
    "blur the background": "part",
    "make his face brighter": "part",
    "make the sky darker and add contrast": "part",
    "rotate by 45 degrees": "degrees",
    "rotate by 360 degrees": "degrees",
    "tint it": "colour",
    "blur. " * (INSTRUCTIONS_MAX + 1): "more than",
}
"""Prompts, and a word of why they are refused."""


@pytest.mark.parametrize("prompt", FOUND)
def test_verbs_are_found_in_order(prompt: str) -> None:
    """Prompts as people write them name verbs of the vocabulary."""
    assert [each.verb for each in parse(prompt)] == FOUND[prompt]


@pytest.mark.parametrize("prompt", REFUSED)
def test_what_is_not_understood_is_refused(prompt: str) -> None:
    """Nothing is half done, and the reason never quotes the prompt."""
    with pytest.raises(NotUnderstood, match=REFUSED[prompt]) as refusal:
        parse(prompt)
    for word in ("dragon", "hat", "face", "sky", "hello"):
        assert word not in str(refusal.value)


def test_adverbs_and_percentages_give_the_strength() -> None:
    """`slightly` is less than nothing said, and `very` more; a percentage is taken by its word."""
    strengths = [
        parse(prompt)[0].strength
        for prompt in ("slightly brighter", "brighter", "much brighter", "brighter by 25%")
    ]
    assert strengths[0] < strengths[1] < strengths[2]
    assert strengths[3] == 0.5


def test_adverbs_belong_to_their_clause() -> None:
    """`slightly` in one clause does not weaken the next."""
    first, second = parse("slightly warmer, more contrast")
    assert first.strength < second.strength == 1.0


def test_colours_belong_to_their_verb() -> None:
    """The black of `black and white` is not the colour of the border."""
    grey, border = parse("black and white with a thin green border")
    assert (grey.verb, border.colour) == ("grayscale", NAMED["green"])


@pytest.mark.parametrize(
    ("prompt", "degrees"),
    [
        ("rotate", 90),
        ("rotate the picture left", 270),
        ("rotate 90 degrees counter-clockwise", 270),
        ("rotate by 180°", 180),
        ("turn it clockwise by 270", 270),
        ("upside down", 180),
    ],
)
def test_rotations_have_a_direction(prompt: str, degrees: int) -> None:
    """Degrees are clockwise unless the prompt says otherwise."""
    assert [(each.verb, each.degrees) for each in parse(prompt)] == [("rotate", degrees)]


def test_every_verb_of_the_vocabulary_can_be_done() -> None:
    """The table of words and that of pixels are about the same verbs."""
    assert set(VOCABULARY) == VERBS | COMPOSING


@pytest.mark.parametrize(
    "prompt",
    [
        "more " * 6500,
        "more" + " " * 32_000 + "x",
        "blur " * 6500,
        "the " * 8000,
        "rotate " + "9" * 30_000,
    ],
    ids=["more", "spaces", "blur", "the", "digits"],
)
def test_no_prompt_takes_long(prompt: str) -> None:
    """The longest prompt that is let through costs a fraction of a second, whatever is in it."""
    begin = time.process_time()
    with contextlib.suppress(NotUnderstood):
        parse(prompt)
    assert time.process_time() - begin < 1.0
