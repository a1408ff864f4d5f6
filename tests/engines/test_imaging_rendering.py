"""The renderer paints what the prompt lets it, repeatably, and says that it is a simulator."""

from __future__ import annotations

import time

import pytest
from PIL import Image, ImageChops

from support.pixels import decoded, deviation, done, means, psnr
from support.scenes import photograph, picture
from traghetto.engines.image_protocols import ImageFormat
from traghetto.engines.imaging import rendering
from traghetto.engines.imaging.colours import NAMED, Colour, distance
from traghetto.engines.imaging.noise import seeded
from traghetto.engines.imaging.rendering import Rendering, render, sample_colours
from traghetto.engines.imaging.subjects import kind_of, mood_of

PROMPTS = {
    "a gondola on a calm lagoon at sunset": ("sea", "sunset"),
    "snowy mountains in the morning": ("hills", "snow"),
    "a cyberpunk city at night, neon": ("city", "night"),
    "misty pine forest": ("forest", "rain"),
    "desert dunes": ("desert", "desert"),
    "a field of red tulips": ("field", "meadow"),
    "a galaxy with planets": ("space", "space"),
    "portrait of an old man": ("solids", None),
}
"""Prompts with the scene and the mood that they mean."""


def rendered(prompt: str, side: int = 192, seed: int = 1, **options: object) -> Image.Image:
    size = {"width": side, "height": side} | options
    return decoded(done(render, Rendering(prompt=prompt, seed=seed, **size)))


def share_near(image: Image.Image, colour: Colour, within: float = 110.0) -> float:
    """The share of pixels whose colour is nearly `colour`."""
    small = image.convert("RGB").resize((48, 48), Image.Resampling.BOX)
    counts = small.getcolors(48 * 48) or []
    return sum(count for count, each in counts if distance(each, colour) < within) / 48**2


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_choose_scene_and_mood(prompt: str) -> None:
    """By the words that come first."""
    kind = kind_of(prompt, seeded("1"))
    assert (kind, mood_of(prompt, kind)) == PROMPTS[prompt]


@pytest.mark.parametrize("prompt", [*PROMPTS, "", "ein Traum", "\x00\u202e\ud7ff\U0001f600 " * 50])
def test_images_are_never_blank(prompt: str) -> None:
    """Every scene has structure, in every part."""
    image = rendered(prompt)
    assert image.size == (192, 192)
    assert deviation(image) > 12
    assert image.entropy() > 4
    for box in ((0, 0, 192, 96), (0, 96, 192, 192)):
        assert deviation(image.crop(box)) > 3


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (16, 9), (127, 400), (640, 128), (1280, 720), (768, 1280)]
)
def test_any_size_can_be_had(width: int, height: int) -> None:
    """From a pixel up, in any proportions."""
    image = rendered("hills", width=width, height=height)
    assert image.size == (width, height)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_any_format_can_be_had(image_format: ImageFormat) -> None:
    """In the format asked for."""
    assert rendered("hills", format=image_format).format == image_format.upper()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_same_is_painted_for_the_same(prompt: str) -> None:
    """Prompt, seed and size decide everything; each of them changes the picture."""
    image = rendered(prompt)
    assert image.tobytes() == rendered(prompt).tobytes()
    assert psnr(image, rendered(prompt, seed=2)) < 35
    assert image.tobytes() != rendered(prompt + " ").resize(image.size).tobytes()


def test_steps_change_detail_and_not_the_scene() -> None:
    """More steps give finer noise over the same composition."""
    few, many = (rendered("abstract", 256, steps=steps) for steps in (1, 40))
    assert few.tobytes() != many.tobytes()
    assert psnr(few, many) > 12


@pytest.mark.parametrize("name", ["red", "green", "blue", "orange", "purple", "pink", "teal"])
def test_named_colours_are_seen(name: str) -> None:
    """More of the picture has the colour than of one whose prompt names none."""
    named = sum(share_near(rendered(f"a {name} car", seed=seed), NAMED[name]) for seed in range(3))
    plain = sum(share_near(rendered("a car", seed=seed), NAMED[name]) for seed in range(3))
    assert named / 3 > 0.06
    assert named > plain + 0.05


def test_a_colour_before_a_thing_colours_it() -> None:
    """`blue sky` makes the top blue, `orange sky` orange."""
    for name, channel in (("blue", 2), ("orange", 0)):
        top = rendered(f"mountains under a {name} sky").crop((0, 0, 192, 24))
        assert max(means(top)) == means(top)[channel]


@pytest.mark.parametrize("name", ["red", "green", "blue", "orange"])
def test_excluded_colours_are_avoided(name: str) -> None:
    """The negative prompt takes a colour out, also of a picture that would be full of it."""
    prompt = f"a {name} car on {name} ground"
    full = share_near(rendered(prompt), NAMED[name])
    assert full > 0.06
    assert share_near(rendered(prompt, negative_prompt=f"{name}, text"), NAMED[name]) < full / 6


def test_references_give_their_colours() -> None:
    """The stronger a reference, the nearer the picture's mean comes to it."""
    reference = picture(Image.new("RGB", (64, 64), (200, 40, 160)))
    colours = done(sample_colours, reference)
    assert colours == [[200, 40, 160]]

    def away(strength: float) -> float:
        image = rendered("hills", styles=[[colours, strength]])
        return distance(tuple(round(mean) for mean in means(image)), (200, 40, 160))  # type: ignore[arg-type]

    assert away(1.0) < away(0.5) < away(0.1)


def test_references_are_sampled_by_frequency() -> None:
    """The most frequent colour comes first."""
    image = Image.new("RGB", (100, 100), (10, 20, 200))
    image.paste((240, 240, 20), (0, 0, 100, 30))
    first, second, *_ = done(sample_colours, picture(image, "png"))
    assert distance(tuple(first), (10, 20, 200)) < 20
    assert distance(tuple(second), (240, 240, 20)) < 20
    assert 1 <= len(done(sample_colours, picture(photograph(64).convert("RGBA")))) <= 5


def test_every_picture_says_that_it_is_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caption stands at the foot, with the first words; small images have no room for one."""
    for side, is_captioned in ((512, True), (128, True), (127, False)):
        image = rendered("a long way home", side)
        with monkeypatch.context() as patch:
            patch.setattr(rendering, "_caption", lambda *_: None)
            bare = rendered("a long way home", side)
        changed = ImageChops.difference(image, bare).getbbox()
        assert (changed is not None) == is_captioned
        if changed:
            assert changed[1] > 0.85 * side
            strip = image.crop((0, changed[1], side, side)).convert("L")
            assert strip.getextrema()[1] > 180
    words = rendered("a long way home", 512), rendered("another long way home", 512)
    assert words[0].tobytes() != words[1].tobytes()


def test_a_megapixel_is_fast() -> None:
    """Well under a second of one processor, so that a simulator is no bottleneck of tests."""
    begin = time.process_time()
    rendered("misty pine forest at sunset", 1024, format="jpeg")
    assert time.process_time() - begin < 1.5
