"""Enlarging without a network: exact sizes, better than simpler filters, no halos."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from support.pixels import decoded, deviation, done, largest_difference, means, psnr
from support.scenes import photograph, picture
from traghetto.engines.image_protocols import ImageFormat, Picture, UpscaleCall
from traghetto.engines.imaging.upscaling import enlarge, upscale
from traghetto.workers.task import Refusal


def upscaled(
    source: Picture | Image.Image, width: int, height: int, **options: object
) -> Image.Image:
    if isinstance(source, Image.Image):
        source = picture(source)
    call = UpscaleCall(request_id="r", picture=source, width=width, height=height, **options)
    return decoded(done(upscale, call))


@pytest.mark.parametrize("size", [(200, 150), (203, 151), (400, 300), (100, 75)])
def test_the_size_asked_for_is_exact(size: tuple[int, int]) -> None:
    """Whole factors, odd sizes and no enlargement at all."""
    large = upscaled(photograph(100).crop((0, 0, 100, 75)), *size)
    assert large.size == size
    assert large.format == "PNG"
    assert deviation(large) > 20


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_the_format_asked_for_is_kept_to(image_format: ImageFormat) -> None:
    """Any format comes in, and the one that was asked for goes out."""
    source = picture(photograph(64), image_format)
    large = upscaled(source, 128, 128, format=image_format)
    assert (large.format, large.mode) == (image_format.upper(), "RGB")


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_it_restores_more_than_simpler_filters_do(factor: int) -> None:
    """A picture made small and large again is nearer to itself than by neighbours or Lanczos."""
    original = photograph(252)
    small = original.resize((252 // factor,) * 2, Image.Resampling.BOX)
    ours = psnr(enlarge(small, original.size), original)
    assert ours > psnr(small.resize(original.size, Image.Resampling.NEAREST), original) + 0.8
    assert ours > psnr(small.resize(original.size, Image.Resampling.LANCZOS), original)


def test_edges_do_not_ring() -> None:
    """Beside a hard edge no pixel is darker or brighter than the picture itself."""
    edge = Image.new("RGB", (64, 64), (60, 60, 60))
    edge.paste((190, 190, 190), (32, 0, 64, 64))
    for channel in enlarge(edge, (256, 256)).split():
        assert channel.getextrema() == (60, 190)
    plain = edge.resize((256, 256), Image.Resampling.LANCZOS).getchannel(0)
    assert plain.getextrema() != (60, 190)


def test_edges_are_sharper_than_of_bicubic() -> None:
    """Sharpening shows: there is more contrast between neighbours."""
    small = photograph(96)

    def sharpness(image: Image.Image) -> float:
        grey = image.convert("L")
        return means(ImageChops.difference(grey, grey.filter(ImageFilter.BoxBlur(2))))[0]

    ours = sharpness(enlarge(small, (288, 288)))
    assert ours > 1.08 * sharpness(small.resize((288, 288), Image.Resampling.BICUBIC))


def test_invisible_colours_do_not_bleed() -> None:
    """A red disc on transparent green has a red edge, and no green one."""
    disc = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    ImageDraw.Draw(disc).ellipse((12, 12, 52, 52), fill=(220, 20, 20, 255))
    large = upscaled(disc, 256, 256, creativity=0.0)
    assert large.mode == "RGBA"
    assert large.getchannel("A").getextrema() == (0, 255)
    seen = large.getchannel("A").point(lambda level: 255 * (level > 24))
    _, green, _, _ = large.split()
    assert Image.composite(green, Image.new("L", large.size), seen).getextrema()[1] < 45


def test_grey_stays_grey() -> None:
    """A picture of one channel comes back as one."""
    large = upscaled(photograph(64).convert("L"), 128, 128)
    assert large.mode == "L"


def test_creativity_adds_detail_that_is_repeatable_and_has_no_hue() -> None:
    """More of it changes more; the same request gets the same; hues and flat areas stay."""
    source = photograph(96)
    plain = upscaled(source, 192, 192, creativity=0.0)
    some = upscaled(source, 192, 192, creativity=0.01)
    much = upscaled(source, 192, 192, creativity=0.02)
    assert much.tobytes() == upscaled(source, 192, 192, creativity=0.02).tobytes()
    assert psnr(much, plain) < psnr(some, plain) < 60
    assert psnr(much, plain) > 30
    for channel, before in zip(much.split(), plain.split(), strict=True):
        assert abs(means(channel)[0] - means(before)[0]) < 0.6
    hue = [each.convert("YCbCr").getchannel("Cb") for each in (much, plain)]
    assert psnr(*hue) > psnr(much.convert("L"), plain.convert("L")) + 6
    flat = Image.new("RGB", (64, 64), (120, 130, 140))
    assert (
        largest_difference(upscaled(flat, 128, 128, creativity=0.02), flat.resize((128, 128))) <= 1
    )


def test_the_largest_size_is_made_and_no_larger_one() -> None:
    """16,777,216 pixels are the limit; a pixel row more is refused before any work."""
    source = picture(Image.new("L", (64, 64), 77))
    large = upscaled(source, 4096, 4096, creativity=0.0)
    assert large.getextrema() == (77, 77)
    with pytest.raises(Refusal):
        upscaled(source, 4096, 4097)


@pytest.mark.parametrize(
    "broken",
    [
        Picture(b"", "png", 64, 64, False),
        Picture(b"GIF89a" + bytes(64), "png", 64, 64, False),
        Picture(picture(photograph(64)).data[:900], "png", 64, 64, False),
        Picture(picture(photograph(64)).data, "png", 65, 64, False),
        Picture(picture(photograph(64)).data, "png", 8192, 8192, False),
    ],
    ids=["empty", "another format", "truncated", "another size", "too large"],
)
def test_what_is_no_picture_is_refused(broken: Picture) -> None:
    """The second lock holds although the first should have kept such input away."""
    with pytest.raises(Refusal):
        upscaled(broken, 128, 128)
