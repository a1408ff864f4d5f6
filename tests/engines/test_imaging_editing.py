"""Each verb of the editor does to the pixels what it says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from support.pixels import decoded, deviation, done, largest_difference, means, psnr
from support.scenes import photograph, picture
from traghetto.engines.image_protocols import EditCall, ImageFormat
from traghetto.engines.imaging.editing import edit
from traghetto.engines.imaging.verbs import VERBS
from traghetto.workers.task import Refusal

PHOTO = photograph(160).resize((160, 120))
BLACK = Image.new("RGB", (96, 64), (0, 0, 0))


def edited(prompt: str, *images: Image.Image, **options: object) -> Image.Image:
    call = EditCall(
        request_id="r",
        prompt=prompt,
        pictures=tuple(picture(each) for each in images or (PHOTO,)),
        **options,
    )
    return decoded(done(edit, call))


def saturation(image: Image.Image) -> float:
    return means(image.convert("HSV"))[1]


def detail(image: Image.Image) -> float:
    """How much neighbours differ."""
    grey = image.convert("L")
    return means(ImageChops.difference(grey, grey.filter(ImageFilter.BoxBlur(2))))[0]


def test_grayscale_has_no_colour() -> None:
    """Brightness stays, and the channels are equal."""
    grey = edited("make it black and white")
    assert largest_difference(grey, PHOTO.convert("L").convert("RGB")) == 0


def test_sepia_is_brown() -> None:
    """Every pixel is as red as it is green or more, and as green as blue or more."""
    red, green, blue = edited("sepia").split()
    assert ImageChops.subtract(green, red).getextrema()[1] == 0
    assert ImageChops.subtract(blue, green).getextrema()[1] == 0
    assert means(red)[0] > means(blue)[0] + 15


def test_invert_is_its_own_opposite() -> None:
    """Inverted twice, a picture is what it was."""
    once = edited("invert the colors")
    assert largest_difference(once, ImageOps.invert(PHOTO)) == 0
    assert largest_difference(edited("invert the colors", once), PHOTO) == 0


@pytest.mark.parametrize(("prompt", "sign"), [("brighter", 1), ("darker", -1)])
def test_brightness_follows(prompt: str, sign: int) -> None:
    """A little, plainly, and much: each step further in the direction asked for."""
    steps = [
        means(edited(f"{adverb} {prompt}").convert("L"))[0] for adverb in ("slightly", "", "much")
    ]
    changes = [sign * (step - means(PHOTO.convert("L"))[0]) for step in steps]
    assert 3 < changes[0] < changes[1] - 5 < changes[2] - 10


@pytest.mark.parametrize(("prompt", "sign"), [("more contrast", 1), ("less contrast", -1)])
def test_contrast_follows(prompt: str, sign: int) -> None:
    """Levels spread or draw together; the mean hardly moves."""
    changed = edited(prompt)
    assert sign * (deviation(changed) - deviation(PHOTO)) > 8
    assert abs(means(changed.convert("L"))[0] - means(PHOTO.convert("L"))[0]) < 12


@pytest.mark.parametrize(
    ("prompt", "sign"), [("more vibrant", 1), ("less saturation", -1), ("muted colors", -1)]
)
def test_saturation_follows(prompt: str, sign: int) -> None:
    """Colours become stronger or weaker; brightness stays."""
    changed = edited(prompt)
    assert sign * (saturation(changed) - saturation(PHOTO)) > 10
    assert abs(means(changed.convert("L"))[0] - means(PHOTO.convert("L"))[0]) < 6


@pytest.mark.parametrize(("prompt", "sign"), [("warmer", 1), ("cooler", -1)])
def test_temperature_follows(prompt: str, sign: int) -> None:
    """Red gains on blue, or blue on red; black and white stay."""
    red, _, blue = means(edited(prompt))
    before_red, _, before_blue = means(PHOTO)
    assert sign * ((red - blue) - (before_red - before_blue)) > 15
    for plain in (BLACK, ImageOps.invert(BLACK)):
        assert largest_difference(edited(prompt, plain), plain) == 0


def test_tint_takes_the_colour_named() -> None:
    """Blue gains on red; brightness stays about the same."""
    red, _, blue = means(edited("tint it blue"))
    before_red, _, before_blue = means(PHOTO)
    assert (blue - red) - (before_blue - before_red) > 30


def test_blur_and_sharpen_change_detail() -> None:
    """Less of it, or more."""
    assert detail(edited("blur")) < 0.7 * detail(PHOTO)
    assert detail(edited("very blurry")) < detail(edited("blur"))
    assert detail(edited("sharpen")) > 1.25 * detail(PHOTO)


def test_pixelate_makes_squares() -> None:
    """The picture has far fewer colours, and squares of one colour."""
    blocks = edited("pixelate", photograph(224))
    assert len({blocks.getpixel((x, y)) for x in range(4) for y in range(4)}) == 1
    assert len(blocks.getcolors(1 << 20) or ()) <= 56 * 56


def test_posterize_and_solarize_change_levels() -> None:
    """Few levels remain of a channel; bright levels turn over."""
    assert len(edited("posterize").getchannel(0).getcolors() or ()) <= 8
    assert edited("solarize").getchannel(0).getextrema()[1] <= 128


def test_edges_and_sketches_are_lines() -> None:
    """White on black, or dark on white, where brightness changes."""
    edges, sketch = edited("edges only"), edited("pencil sketch")
    assert means(edges)[0] < 110 < 170 < means(sketch)[0]
    assert min(deviation(edges), deviation(sketch)) > 20
    square = BLACK.copy()
    square.paste((200, 200, 200), (32, 16, 64, 48))
    assert edited("edges", square).getpixel((48, 32)) == (0, 0, 0)
    assert edited("edges", square).getpixel((32, 32))[0] > 100


def test_emboss_grain_and_auto_contrast_show() -> None:
    """Relief is grey, grain is even, and automatic contrast uses all levels."""
    assert saturation(edited("emboss")) == 0
    flat = Image.new("RGB", (128, 128), (120, 120, 120))
    assert 5 < deviation(edited("film grain", flat)) < 30
    dull = PHOTO.point(lambda level: 90 + level // 5)
    assert deviation(edited("auto contrast", dull)) > 2 * deviation(dull)


def test_vignette_darkens_corners_only() -> None:
    """The middle stays, and corners lose more than half of their light."""
    white = ImageOps.invert(BLACK)
    dark = edited("vignette", white)
    assert dark.getpixel((48, 32)) == (255, 255, 255)
    assert max(dark.getpixel((0, 0))) < 120


def test_mirrors_and_rotations_move_every_pixel() -> None:
    """They are exact."""
    turns = Image.Transpose
    for prompt, method in {
        "mirror": turns.FLIP_LEFT_RIGHT,
        "flip vertically": turns.FLIP_TOP_BOTTOM,
        "rotate 90 degrees": turns.ROTATE_270,
        "rotate left": turns.ROTATE_90,
        "upside down": turns.ROTATE_180,
    }.items():
        assert largest_difference(edited(prompt), PHOTO.transpose(method)) == 0


def test_square_crops_the_middle() -> None:
    """The shorter side decides."""
    assert largest_difference(edited("crop to square"), PHOTO.crop((20, 0, 140, 120))) == 0


def test_border_grows_the_picture() -> None:
    """The frame has the colour named, and the picture is all there."""
    framed = edited("add a red border")
    assert framed.size == (170, 130)
    assert framed.getpixel((2, 2)) == (208, 32, 38)
    assert largest_difference(framed.crop((5, 5, 165, 125)), PHOTO) == 0


def test_instructions_follow_one_another() -> None:
    """Grey first and a red border then is not the same as the other way round."""
    assert saturation(edited("grayscale and a red border")) > 0
    assert saturation(edited("a red border, then grayscale")) == 0


@pytest.mark.parametrize("verb", sorted(VERBS - {"tint"}))
def test_transparency_survives_every_verb(verb: str) -> None:
    """What was invisible is invisible afterwards, and what was seen is seen."""
    prompts = {
        "more-saturated": "more saturation",
        "less-saturated": "less saturation",
        "more-contrast": "more contrast",
        "less-contrast": "less contrast",
        "square": "square crop",
        "flip": "flip vertically",
    }
    glass = PHOTO.convert("RGBA")
    glass.putalpha(
        Image.radial_gradient("L").point(lambda level: 255 * (level < 100)).resize(PHOTO.size)
    )
    changed = edited(prompts.get(verb, verb.replace("-", " ")), glass)
    assert changed.mode == "RGBA"
    assert changed.getchannel("A").getextrema() == (0, 255)


def test_blurring_does_not_spread_invisible_colours() -> None:
    """A red square on transparent green blurs to red."""
    square = Image.new("RGBA", (96, 96), (0, 255, 0, 0))
    ImageDraw.Draw(square).rectangle((32, 32, 64, 64), fill=(255, 0, 0, 255))
    _red, green, _, alpha = edited("very strong blur", square).split()
    seen = alpha.point(lambda level: 255 * (level > 16))
    assert Image.composite(green, Image.new("L", green.size), seen).getextrema()[1] < 30
    assert 0 < means(alpha)[0] < 60


def test_composing_keeps_every_picture() -> None:
    """Side by side, stacked and in a grid, each colour has its share; laid over, they mix."""
    colours = ((220, 30, 30), (30, 200, 40), (40, 50, 220))
    images = [Image.new("RGB", (90, 60), colour) for colour in colours]

    def shares(image: Image.Image) -> Sequence[float]:
        pixels = image.width * image.height
        counts = {colour: count for count, colour in image.getcolors(1 << 20) or ()}
        return [counts.get(colour, 0) / pixels for colour in colours]

    row = edited("put them side by side", *images)
    column = edited("stack them", *images)
    grid = edited("make a grid", *images)
    assert (row.height, column.width) == (60, 90)
    assert row.width > 270 < 3 * 90 + 10
    for composed in (row, column):
        assert min(shares(composed)) > 0.3
    assert min(shares(grid)) > 0.22
    assert row.size == edited("combine them", *images).size
    mixed = edited("overlay them", *images)
    assert mixed.size == (90, 60)
    assert all(
        abs(channel - mean) < 6 for channel, mean in zip(means(mixed), (97, 93, 97), strict=True)
    )


def test_composing_makes_heights_alike() -> None:
    """In a row, pictures get the height of the first, in their own proportions."""
    wide, tall = Image.new("RGB", (120, 60), (9, 9, 9)), Image.new("RGB", (100, 200), (99, 9, 9))
    row = edited("side by side", wide, tall)
    assert row.size == (120 + 30 + 1, 60)


def test_a_composition_that_no_file_can_hold_is_refused() -> None:
    """By what was sent, and not as a defect."""
    long = Image.new("L", (9000, 64))
    assert edited("side by side", long, long).width > 18_000
    with pytest.raises(Refusal, match="webp") as refused:
        edited("side by side", long, long, format="webp")
    assert refused.value.kind == "input"


def test_compositions_are_bounded() -> None:
    """Many large pictures are shrunk to what an answer may have."""
    large = [Image.new("L", (2600, 2600), level) for level in (10, 120, 240)]
    row = edited("side by side", *large)
    assert 15_000_000 < row.width * row.height <= 16_777_216
    assert abs(row.width / row.height - 3) < 0.05


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        ((64, 64), (64, 64)),
        ((320, None), (320, 240)),
        ((None, 60), (80, 60)),
        ((300, 80), (300, 80)),
    ],
)
def test_sizes_are_honoured(wanted: tuple[int | None, int | None], size: tuple[int, int]) -> None:
    """Both sides, or one and the proportions; a single picture fills what is asked for."""
    changed = edited("grayscale", width=wanted[0], height=wanted[1])
    assert changed.size == size
    assert deviation(changed.crop((0, 0, 20, size[1]))) > 5


def test_a_composition_is_padded_and_not_cropped() -> None:
    """In a size with other proportions all pictures are still seen, on white."""
    images = [Image.new("RGB", (60, 60), colour) for colour in ((200, 0, 0), (0, 0, 200))]
    padded = edited("side by side", *images, width=128, height=128)
    assert padded.size == (128, 128)
    assert padded.getpixel((64, 5)) == (255, 255, 255)
    assert (padded.getpixel((20, 64)), padded.getpixel((108, 64))) == ((200, 0, 0), (0, 0, 200))


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_formats_are_honoured(image_format: ImageFormat) -> None:
    """Transparency goes where the format has it, and lies on white where it has not."""
    glass = Image.new("RGBA", (80, 80), (250, 0, 0, 0))
    ImageDraw.Draw(glass).rectangle((20, 20, 60, 60), fill=(0, 0, 90, 255))
    changed = edited("blur", glass, format=image_format)
    assert changed.format == image_format.upper()
    if image_format == "jpeg":
        assert min(changed.getpixel((2, 2))) > 245
    else:
        assert changed.getpixel((2, 2))[3] == 0


@pytest.mark.parametrize("prompt", ["", "add a dragon", "blur the background", "side by side"])
def test_a_prompt_that_cannot_be_followed_is_refused(prompt: str) -> None:
    """Also one that wants pictures composed where there is one only."""
    with pytest.raises(Refusal):
        edited(prompt)


def test_impossible_sizes_are_refused() -> None:
    """Above what an answer may have."""
    with pytest.raises(Refusal):
        edited("grayscale", width=8192, height=8192)


def test_repeated_edits_are_the_same() -> None:
    """Grain, too, is the same every time."""
    assert psnr(edited("film grain"), edited("film grain")) == float("inf")
