"""Finishing images of backends: what was asked for, and nothing else of the backend's file."""

from __future__ import annotations

import io
import itertools
import json
import random

import pytest
from PIL import Image, ImageStat

from support.pictures import decoded, encoded, png_chunk, scene, with_png_chunks
from traghetto.media import finishing
from traghetto.media.images import ImageFault, ImageRefused

FORMATS = ("png", "jpeg", "webp")


def fault_of(desk, data: bytes, to: str = "png", **finish) -> ImageFault:
    with pytest.raises(ImageRefused) as caught:
        desk.finish(data, to, **finish)
    return caught.value.fault


def comment_of(image: Image.Image) -> dict[str, str]:
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    return json.loads(comment[8:].decode("utf-16-be"))


@pytest.mark.parametrize(
    ("name", "to"), list(itertools.product(("PNG", "JPEG", "WEBP", "GIF", "AVIF"), FORMATS))
)
def test_every_format_becomes_every_other(desk, name, to):
    """The size and the picture stay."""
    options = {"speed": 10} if name == "AVIF" else {}
    image = decoded(desk.finish(encoded(scene(96, 64), name, **options), to))
    assert (image.format, image.size, image.mode) == (to.upper(), (96, 64), "RGB")
    red, _, blue = image.getpixel((10, 10))
    assert red > 180 > 60 > blue


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_of_the_backends_file_survives_but_the_picture(desk, to):
    """Texts, EXIF and comments of a backend can hold prompts, paths and names."""
    exif = Image.Exif()
    exif[0x010E] = "secret prompt"
    data = with_png_chunks(
        encoded(scene(96, 64), "PNG", exif=exif, dpi=(300, 300)),
        png_chunk(b"tEXt", b"parameters\0secret prompt"),
    )
    for source in (
        data,
        encoded(scene(96, 64), "JPEG", exif=exif, comment=b"secret prompt"),
        encoded(scene(96, 64), "WEBP", exif=exif, xmp=b"secret prompt"),
    ):
        finished = desk.finish(source, to)
        assert b"secret" not in finished
        assert not decoded(finished).getexif()


@pytest.mark.parametrize("to", FORMATS)
def test_transparency(desk, to):
    """It is kept by the formats that have it; JPEG shows it on white."""
    data = encoded(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "PNG")
    image = decoded(desk.finish(data, to))
    if to == "jpeg":
        assert image.mode == "RGB"
        assert min(image.getpixel((9, 9))) > 250
    else:
        assert image.mode == "RGBA"
        assert image.getpixel((9, 9))[3] == 0


def test_an_opaque_image_is_no_cut_out(desk):
    """Where transparency was wanted, an image without any is refused."""
    opaque = encoded(scene(64, 64), "PNG")
    assert fault_of(desk, opaque, require_alpha=True) is ImageFault.UNREADABLE
    cut_out = encoded(scene(64, 64, "RGBA"), "PNG")
    assert decoded(desk.finish(cut_out, require_alpha=True)).mode == "RGBA"


@pytest.mark.parametrize("to", FORMATS)
def test_a_blank_image_is_black_and_of_the_same_size(desk, to):
    """Not a pixel of the picture is in it."""
    for mode in ("RGB", "RGBA"):
        image = decoded(desk.finish(encoded(scene(96, 64, mode), "PNG"), to, blank=True))
        assert (image.size, image.mode) == ((96, 64), "RGB")
        assert image.getextrema() == ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize("to", FORMATS)
def test_on_a_blurred_image_nothing_can_be_recognised(desk, to):
    """Large areas keep their shade, and what is on them is gone."""
    picture = Image.new("L", (512, 512), 255)
    for x, y in itertools.product(range(0, 512, 32), range(0, 512, 32)):
        picture.paste(0, (x, y, x + 16, y + 16))
    picture.paste(0, (256, 0, 512, 512))
    image = decoded(desk.finish(encoded(picture, "PNG"), to, blur=True)).convert("L")
    assert image.size == (512, 512)
    left, right = image.crop((40, 40, 200, 470)), image.crop((312, 40, 470, 470))
    low, high = left.getextrema()
    assert high - low < 60, "the pattern can still be seen"
    assert ImageStat.Stat(left).mean[0] > ImageStat.Stat(right).mean[0] + 100


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (100, 50), (96, 64), (333, 777)])
def test_an_image_gets_the_exact_size(desk, to, size):
    """Larger or smaller, in whatever proportions."""
    width, height = size
    data = encoded(scene(96, 64), "PNG")
    assert decoded(desk.finish(data, to, width=width, height=height)).size == size


@pytest.mark.parametrize("to", FORMATS)
def test_metadata_are_written(desk, to):
    """Two tags by their names, everything as JSON, and texts of their own in PNG."""
    metadata = {
        "ImageDescription": "Ätna at night \U0001f30b",
        "Software": "Traghetto",
        "model": "m",
        "seed": "-1",
    }
    image = decoded(desk.finish(encoded(scene(96, 64), "PNG"), to, metadata=metadata))
    exif = image.getexif()
    assert exif[0x0131] == "Traghetto"
    assert exif[0x010E].encode("latin-1").decode() == metadata["ImageDescription"]
    assert comment_of(image) == metadata
    if to == "png":
        assert image.text == metadata


@pytest.mark.parametrize("to", FORMATS)
def test_metadata_that_do_not_fit_are_cut(desk, to):
    """A prompt of the longest kind, in the longest characters, costs nobody an image."""
    metadata = {"ImageDescription": "\U0001f30b" * 32_768, "negative": "ß" * 7_500, "seed": "1"}
    image = decoded(desk.finish(encoded(scene(96, 64), "PNG"), to, metadata=metadata))
    kept = comment_of(image)
    assert kept["seed"] == "1"
    assert metadata["ImageDescription"].startswith(kept["ImageDescription"])
    assert len(kept["ImageDescription"]) > 4_000


@pytest.mark.parametrize("to", FORMATS)
def test_no_metadata_are_no_trouble(desk, to):
    """An empty table writes an empty comment."""
    image = decoded(desk.finish(encoded(scene(96, 64), "PNG"), to, metadata={}))
    assert comment_of(image) == {}


def test_a_backend_is_trusted_no_more_than_a_caller(desk):
    """Junk, scripts and giants are refused as such."""
    sound = encoded(scene(96, 64), "PNG")
    assert fault_of(desk, b"") is ImageFault.UNREADABLE
    assert fault_of(desk, b"<svg/>") is ImageFault.UNREADABLE
    assert fault_of(desk, encoded(scene(96, 64), "TIFF")) is ImageFault.UNREADABLE
    assert fault_of(desk, sound[:-30]) is ImageFault.UNREADABLE
    giant = encoded(Image.new("1", (7680, 4321)), "PNG")
    assert fault_of(desk, giant) is ImageFault.TOO_LARGE
    assert fault_of(desk, sound + bytes(67_108_864)) is ImageFault.FILE_TOO_LARGE


def test_a_side_that_webp_cannot_count_is_refused(desk):
    """WebP ends at 16,383 pixels; the other formats do not."""
    long = encoded(Image.new("L", (16_384, 1)), "PNG")
    assert fault_of(desk, long, "webp") is ImageFault.TOO_LARGE
    assert decoded(desk.finish(long, "png")).size == (16_384, 1)


def test_the_largest_output_is_finished_in_time(desk):
    """16,777,216 pixels, the largest that is made, in the most expensive format."""
    noise = Image.effect_noise((1024, 1024), 60).resize((4096, 4096))
    data = encoded(noise, "JPEG", quality=80)
    image = Image.open(io.BytesIO(desk.finish(data, "webp")))
    assert image.size == (4096, 4096)
    assert desk.worker_bytes_max() < 1_610_612_736


def test_detail_that_webp_has_no_room_for_takes_a_lower_quality(monkeypatch):
    """The encoder gives up at the best quality; what is sent is a picture all the same."""
    monkeypatch.setattr(finishing, "WEBP_METHOD_LARGE", 0)  # where it gives up soonest
    grain = Image.frombytes("L", (1024, 1024), random.Random(7).randbytes(1 << 20))
    noise = grain.resize((7680, 4320)).convert("RGB")
    with pytest.raises(ValueError, match="encoding error"):
        noise.save(io.BytesIO(), "WEBP", quality=90, method=0)
    assert Image.open(io.BytesIO(finishing._webp(noise, {}))).size == noise.size
