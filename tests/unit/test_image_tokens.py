"""What images are taken to cost: a bound that common encoders keep, and a fair estimate."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.engines.image_protocols import Picture
from traghetto.pipeline.image_tokens import image_tokens

SIDES = st.integers(64, 30_000)
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: size[0] * size[1] <= 33_177_600)


def picture(width: int, height: int) -> Picture:
    return Picture(b"", "png", width, height, False)


def qwen(patch: int, pixels_min: int, pixels_max: int) -> Callable[[int, int], int]:
    """`smart_resize` of Qwen2-VL and its successors, and the marks around an image."""

    def count(width: int, height: int) -> int:
        wide, high = (max(patch, round(side / patch) * patch) for side in (width, height))
        if wide * high > pixels_max:
            shrink = math.sqrt(width * height / pixels_max)
            wide, high = (
                max(patch, math.floor(side / shrink / patch) * patch) for side in (width, height)
            )
        elif wide * high < pixels_min:
            grow = math.sqrt(pixels_min / (width * height))
            wide, high = (math.ceil(side * grow / patch) * patch for side in (width, height))
        return wide // patch * (high // patch) + 2

    return count


def gpt_4o(width: int, height: int) -> int:
    """Into a square of 2048, then the shorter side to 768, then tiles of 512."""
    shrink = max(width, height) / 2048
    wide, high = (side / max(shrink, 1) for side in (width, height))
    shrink = max(min(wide, high) / 768, 1)
    return 85 + 170 * math.ceil(wide / shrink / 512) * math.ceil(high / shrink / 512)


def claude(width: int, height: int) -> int:
    """A token for 750 pixels, of at most about 1.15 megapixels."""
    return min(math.ceil(width * height / 750), 1_600)


def pixtral(width: int, height: int) -> int:
    """Patches of 16 pixels within 1024, and a mark after each row."""
    shrink = max(width / 1024, height / 1024, 1)
    across, down = (math.ceil(side / shrink / 16) for side in (width, height))
    return (across + 1) * down


def at_most(tokens: int) -> Callable[[int, int], int]:
    """An encoder of tiles, which can make so many tokens of an image of any size."""
    return lambda _width, _height: tokens


ENCODERS = {
    "Qwen2.5-VL": qwen(28, 3_136, 12_845_056),
    "Qwen3-VL": qwen(32, 65_536, 16_777_216),
    "GPT-4o": gpt_4o,
    "Claude": claude,
    "Pixtral": pixtral,
    "LLaVA-OneVision": at_most(10 * 729 + 81),
    "LLaVA 1.6": at_most(5 * 576 + 48),
    "Llama 3.2": at_most(4 * 1_601),
    "InternVL": at_most(13 * 256 + 2),
    "Gemma 3": at_most(5 * 258),
}


@pytest.mark.parametrize("count", ENCODERS.values(), ids=ENCODERS)
@given(size=SIZES)
def test_no_common_encoder_makes_more_of_an_image_than_the_bound(
    count: Callable[[int, int], int], size: tuple[int, int]
) -> None:
    """Whatever the size: a hold covers it, and the usage that is reported is believed."""
    assert count(*size) <= image_tokens([picture(*size)], None, None).bound


@given(size=SIZES)
def test_an_estimate_is_positive_and_no_more_than_the_bound(size: tuple[int, int]) -> None:
    """Where nobody counts, an image is neither free nor dearer than it can be."""
    tokens = image_tokens([picture(*size)], None, None)
    assert 0 < tokens.estimate <= tokens.bound


def test_images_add_up() -> None:
    """Each image counts for itself."""
    one = image_tokens([picture(640, 480)], None, None)
    assert (one.bound, one.estimate) == (7_424, 23 * 18)
    three = image_tokens([picture(640, 480)] * 3, None, None)
    assert (three.bound, three.estimate) == (3 * one.bound, 3 * one.estimate)
    large = image_tokens([picture(3_584, 3_584)], None, None)
    assert (large.bound, large.estimate) == (16_448, 1_600)


def test_an_operator_who_knows_the_encoder_names_its_most() -> None:
    """The number is for one image; no prompt is longer than its context."""
    gemma = image_tokens([picture(640, 480)] * 3, 256, None)
    assert (gemma.bound, gemma.estimate) == (3 * 256, 3 * 256)
    assert image_tokens([picture(640, 480)] * 3, None, 8_192).bound == 8_192
    assert image_tokens([picture(640, 480)] * 3, 256, 512).estimate == 512
