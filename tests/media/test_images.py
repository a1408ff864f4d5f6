"""Reading images of callers: what comes out has one form, whatever went in."""

from __future__ import annotations

import asyncio
import base64
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from support.pictures import (
    decoded,
    encoded,
    png,
    png_chunk,
    png_header,
    png_of_rows,
    scene,
    with_png_chunks,
)
from traghetto.media.images import ImageFault, ImageReader, ImageRefused, ImageRules
from traghetto.wire.image_files import ImageFileFormat, sniff
from traghetto.workers.failures import WorkersBusy
from traghetto.workers.limits import WorkerLimits
from traghetto.workers.pool import Workers

FILES = Path(__file__).parent / "files"
RED, BLUE = (220, 40, 30), (30, 90, 200)


def fault_of(desk, data: bytes, **rules: int) -> ImageFault:
    with pytest.raises(ImageRefused) as caught:
        desk.read(data, **rules)
    return caught.value.fault


def is_near(one, other) -> bool:
    return all(abs(a - b) <= 24 for a, b in zip(one, other, strict=True))


def corners(image: Image.Image) -> tuple[str, ...]:
    """The colours of the corners, clockwise from the upper left."""
    image = image.convert("RGB")
    width, height = image.size
    places = ((5, 5), (width - 6, 5), (width - 6, height - 6), (5, height - 6))
    return tuple("red" if is_near(image.getpixel(at), RED) else "blue" for at in places)


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack("!I", len(body) + 4) + body + bytes(32)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n", ImageFileFormat.PNG),
        (b"\xff\xd8\xff\xe0", ImageFileFormat.JPEG),
        (b"RIFF\0\0\0\0WEBPVP8 ", ImageFileFormat.WEBP),
        (b"GIF87a", ImageFileFormat.GIF),
        (b"GIF89a", ImageFileFormat.GIF),
        (ftyp(b"avif", b"mif1"), ImageFileFormat.AVIF),
        (ftyp(b"mif1", b"avif"), ImageFileFormat.AVIF),
        (ftyp(b"heic"), ImageFileFormat.HEIF),
        (ftyp(b"mif1", b"miaf", b"heic"), ImageFileFormat.HEIF),
        (ftyp(b"msf1", b"hevc"), ImageFileFormat.HEIF),
        (ftyp(b"mif1", b"miaf"), None),
        (ftyp(b"isom", b"heic"), None),
        (ftyp(b"mp42", b"isom"), None),
        (b"\0\0\0\x08ftypheic", None),
        (b"\0\0\xff\xffftypheic" + bytes(70_000), None),
        (b"\x89PNG\n", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"GIF88a", None),
        (b" <svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"II*\0", None),
        (b"MM\0*", None),
        (b"BM", None),
        (b"\0\0\1\0", None),
        (b"8BPS", None),
        (b"%PDF-1.7", None),
        (b"%!PS", None),
        (b"", None),
    ],
)
def test_a_format_is_told_by_its_bytes(data, expected):
    """Six formats are known; everything else is none, also other images."""
    assert sniff(data) is expected


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *(("PNG", "L"), ("PNG", "RGB"), ("PNG", "RGBA")),
        *(("JPEG", "L"), ("JPEG", "RGB")),
        *(("WEBP", "RGB"), ("WEBP", "RGBA")),
    ],
)
def test_an_image_in_its_normal_form_stays_as_it_is(desk, name, mode):
    """The caller's own bytes are handed on where nothing is wrong with them."""
    data = encoded(scene(96, 64, mode), name)
    read = desk.read(data)
    assert read.data is data
    assert (read.format, read.width, read.height) == (name.lower(), 96, 64)
    assert read.has_alpha is (mode == "RGBA")
    assert str(read) == f"ReadImage({name.lower()}, 96 x 64)"


@pytest.mark.parametrize("name", ["AVIF", "GIF"])
def test_other_formats_are_encoded_anew(desk, name):
    """Backends get a format that they read."""
    read = desk.read(encoded(scene(96, 64), name))
    assert (read.format, read.width, read.height, read.has_alpha) == ("png", 96, 64, False)
    assert corners(decoded(read.data)) == ("red", "blue", "blue", "blue")


@pytest.mark.parametrize(
    ("name", "size", "mode", "red_corner"),
    [
        ("scene-64x64", (64, 64), "RGB", 0),
        ("rotated-irot-96x64", (64, 96), "RGB", 1),
        ("two-images-64x64", (64, 64), "RGB", 0),
        ("alpha-64x64", (64, 64), "RGBA", 0),
        ("grey-64x64", (64, 64), "L", None),
    ],
)
def test_heif_is_read(desk, name, size, mode, red_corner):
    """Upright, its first image, with alpha or grey as it is."""
    read = desk.read((FILES / f"{name}.heic").read_bytes())
    assert (read.format, (read.width, read.height)) == ("png", size)
    image = decoded(read.data)
    assert image.mode == mode
    expected = ["blue"] * 4
    if red_corner is not None:
        expected[red_corner] = "red"
    assert corners(image) == tuple(expected)


def test_the_sizes_of_heif_are_its_own_words(desk):
    """Below and above the limits, and just at them."""
    files = {path.stem: path.read_bytes() for path in FILES.glob("*.heic")}
    assert fault_of(desk, files["scene-63x64"]) is ImageFault.TOO_SMALL
    assert fault_of(desk, files["large-7681x4320"]) is ImageFault.TOO_LARGE
    read = desk.read(files["largest-7680x4320"])
    assert (read.format, read.width, read.height) == ("jpeg", 7680, 4320)


def test_without_its_decoder_heif_is_refused_as_such(tmp_path):
    """The fault names the format, and the reason the extra to install."""
    # The import is made to fail as it does where the package is not installed.
    script = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from traghetto.media.decoding import read\n"
        "from traghetto.workers.task import Refusal\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "try:\n"
        "    read(dict(data=data, file_bytes_max=9999, side_pixels_min=64, pixels_min=0,"
        " pixels_max=99999))\n"
        "except Refusal as refusal:\n"
        "    print(refusal.kind, refusal.reason)\n"
    )
    file = FILES / "scene-64x64.heic"
    out = subprocess.run(
        [sys.executable, "-c", script, file], capture_output=True, text=True, check=True
    )
    assert out.stdout == ("unsupported_heif HEIF is read with `pip install 'traghetto[heif]'`\n")


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_they_are_to_be_shown(desk, name, orientation):
    """All eight orientations of EXIF, in every format that has them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"speed": 10} if name == "AVIF" else {}
    data = encoded(scene(96, 64), name, exif=exif, **options)
    read = desk.read(data)
    image = decoded(read.data)
    assert image.getexif().get(0x0112, 1) == 1
    assert image.size == (read.width, read.height)
    assert image.size == ((96, 64) if orientation < 5 else (64, 96))
    corner = (0, 1, 2, 3, 0, 1, 2, 3)[orientation - 1]
    assert corners(image) == tuple("red" if n == corner else "blue" for n in range(4))


def grey_16(width: int, height: int) -> bytes:
    return png_of_rows(width, height, struct.pack("!H", 0x8012) * width, depth=16, colours=0)


@pytest.mark.parametrize(
    ("data", "mode", "pixel"),
    [
        pytest.param(encoded(scene(64, 64, "CMYK"), "JPEG"), "RGB", RED, id="CMYK"),
        pytest.param(encoded(scene(64, 64, "LA"), "PNG"), "RGBA", (93, 93, 93, 255), id="LA"),
        pytest.param(encoded(scene(64, 64, "1"), "PNG"), "L", None, id="1 bit"),
        pytest.param(encoded(scene(64, 64).quantize(4), "PNG"), "RGB", RED, id="palette"),
        pytest.param(
            encoded(Image.new("P", (64, 64), 1), "PNG", transparency=1),
            *("RGBA", None),
            id="palette with transparency",
        ),
        pytest.param(
            encoded(Image.new("RGB", (64, 64), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
            *("RGBA", (1, 2, 3, 0)),
            id="RGB with a transparent colour",
        ),
        pytest.param(
            encoded(Image.new("L", (64, 64), 7), "PNG", transparency=7),
            *("RGBA", (7, 7, 7, 0)),
            id="grey with a transparent shade",
        ),
        pytest.param(
            encoded(Image.new("P", (64, 64), 3), "GIF", transparency=3),
            *("RGBA", None),
            id="GIF with transparency",
        ),
        pytest.param(grey_16(64, 64), "L", 0x80, id="16 bit grey"),
        pytest.param(
            png_of_rows(64, 64, struct.pack("!3H", 0x1234, 0x80FF, 0xFFFE) * 64, depth=16),
            *("RGB", (0x12, 0x80, 0xFF)),
            id="16 bit RGB",
        ),
        pytest.param(
            png_of_rows(64, 64, struct.pack("!4H", 0, 0, 0xFFFF, 0x8000) * 64, depth=16, colours=6),
            *("RGBA", (0, 0, 0xFF, 0x80)),
            id="16 bit RGBA",
        ),
        pytest.param(
            png_of_rows(64, 64, b"\x1b" * 16, depth=2, colours=0), "L", 85, id="2 bit grey"
        ),
    ],
)
def test_pixels_have_eight_bits(desk, data, mode, pixel):
    """Whatever a file counts in, grey, RGB or RGBA with eight bits comes out."""
    read = desk.read(data)
    assert read.format == "png"
    image = decoded(read.data)
    assert image.mode == mode
    assert read.has_alpha is (mode == "RGBA")
    assert "transparency" not in image.info
    found = image.getpixel((5, 5))
    if isinstance(pixel, tuple):
        assert is_near(found, pixel)
    elif pixel is not None:
        assert found == pixel


def swapped_profile() -> bytes:
    """A colour profile in which red is called green, and green red."""
    # The primaries of sRGB are columns of the profile; two of its tags change their places.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"\0tmp").replace(b"gXYZ", b"rXYZ")
    swapped = swapped.replace(b"\0tmp", b"gXYZ")
    name = "sRGB".encode("utf-16-be")
    assert name in swapped
    return swapped.replace(name, "swap".encode("utf-16-be")).replace(b"sRGB", b"swap")


@pytest.mark.parametrize(
    ("name", "mode"),
    [("PNG", "RGB"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("WEBP", "RGBA")],
)
def test_colours_are_what_their_profile_means(desk, name, mode):
    """They are converted, and the profile is gone; alpha stays."""
    ground = Image.new(mode, (64, 64), (255, 0, 0, 77)[: len(mode)])
    options = {"lossless": True} if name == "WEBP" else {}
    data = encoded(ground, name, icc_profile=swapped_profile(), **options)
    image = decoded(desk.read(data).data)
    assert "icc_profile" not in image.info
    red, green, blue, *alpha = image.getpixel((9, 9))
    assert green > 200 > 60 > red
    assert blue < 60
    assert alpha == ([77] if mode == "RGBA" else [])


def test_the_usual_profile_costs_nothing(desk):
    """What says that it is sRGB is not encoded anew; the profile is cut out."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = encoded(scene(64, 64), "JPEG")
    assert desk.read(encoded(scene(64, 64), "JPEG", icc_profile=profile)).data == plain
    assert desk.read(encoded(scene(64, 64), "PNG", icc_profile=profile)).data == encoded(
        scene(64, 64), "PNG"
    )


def test_a_broken_profile_is_dropped(desk):
    """An image is an image without it."""
    for profile in (b"nonsense", swapped_profile()[:300]):
        data = encoded(scene(64, 64), "JPEG", icc_profile=profile)
        assert corners(decoded(desk.read(data).data)) == ("red", "blue", "blue", "blue")


@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "AVIF"])
def test_of_an_animation_the_first_frame_is_read(desk, name):
    """And nothing of the others is handed on."""
    frames = [Image.new("RGB", (64, 64), (n * 60, 0, 0)) for n in range(4)]
    options = {"speed": 10} if name == "AVIF" else {}
    data = encoded(scene(64, 64), name, save_all=True, append_images=frames, **options)
    read = desk.read(data)
    image = decoded(read.data)
    assert getattr(image, "n_frames", 1) == 1
    assert corners(image) == ("red", "blue", "blue", "blue")


def jpeg_with_segments(*segments: tuple[int, bytes]) -> bytes:
    data = encoded(scene(64, 64), "JPEG")
    added = b"".join(
        bytes((0xFF, marker)) + struct.pack("!H", len(body) + 2) + body for marker, body in segments
    )
    return data[:2] + added + data[2:]


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        pytest.param(
            jpeg_with_segments((0xFE, b"<script>"), (0xE1, b"Exif\0\0nonsense"), (0xED, b"8BIM")),
            encoded(scene(64, 64), "JPEG"),
            id="JPEG with comments",
        ),
        pytest.param(
            encoded(scene(64, 64), "JPEG") + b"PK\3\4 and more",
            encoded(scene(64, 64), "JPEG"),
            id="JPEG and an archive",
        ),
        pytest.param(
            encoded(scene(64, 64), "MPO", save_all=True, append_images=[scene(64, 64)]),
            encoded(scene(64, 64), "JPEG"),
            id="JPEG and another JPEG",
        ),
        pytest.param(
            with_png_chunks(
                encoded(scene(64, 64), "PNG"),
                png_chunk(b"tEXt", b"Comment\0<script>"),
                png_chunk(b"prVt", b"private"),
                png_chunk(b"tIME", bytes(7)),
            ),
            encoded(scene(64, 64), "PNG"),
            id="PNG with texts",
        ),
        pytest.param(
            encoded(scene(64, 64), "PNG") + b"PK\3\4 and more",
            encoded(scene(64, 64), "PNG"),
            id="PNG and an archive",
        ),
        pytest.param(
            encoded(scene(64, 64), "WEBP") + b"PK\3\4 and more",
            encoded(scene(64, 64), "WEBP"),
            id="WebP and an archive",
        ),
    ],
)
def test_nothing_is_handed_on_but_the_picture(desk, data, plain):
    """What is behind it or beside it is cut out, and the picture stays as it was encoded."""
    assert desk.read(data).data == plain


def test_a_text_cannot_pass_for_a_property(desk):
    """A PNG's text called `transparency` or `icc_profile` is only a text."""
    data = with_png_chunks(
        encoded(scene(64, 64), "PNG"),
        png_chunk(b"tEXt", b"transparency\0yes"),
        png_chunk(b"tEXt", b"icc_profile\0yes"),
        png_chunk(b"tEXt", b"exif\0yes"),
    )
    assert desk.read(data).data == encoded(scene(64, 64), "PNG")


def bilevel(width: int, height: int) -> bytes:
    """A black image in one bit per pixel, which takes little to write."""
    return png_of_rows(width, height, bytes((width + 7) // 8), depth=1, colours=0)


@pytest.mark.parametrize(
    ("width", "height", "rules", "expected"),
    [
        (64, 64, {}, None),
        (63, 64, {}, ImageFault.TOO_SMALL),
        (64, 63, {}, ImageFault.TOO_SMALL),
        (1, 1, {}, ImageFault.TOO_SMALL),
        (1, 1, {"side_pixels_min": 1}, None),
        (256, 256, {"pixels_min": 65_536}, None),
        (255, 257, {"pixels_min": 65_536}, ImageFault.TOO_SMALL),
        (1024, 64, {"pixels_min": 65_536}, None),
        (7680, 4320, {}, None),
        (7680, 4321, {}, ImageFault.TOO_LARGE),
        (7681, 4320, {}, ImageFault.TOO_LARGE),
        (100, 100, {"pixels_max": 10_000}, None),
        (100, 101, {"pixels_max": 10_000}, ImageFault.TOO_LARGE),
        (300, 300, {"pixels_max": 10_000}, ImageFault.TOO_LARGE),
        (2, 20_000, {}, ImageFault.TOO_SMALL),
    ],
)
def test_sizes_at_and_around_the_limits(desk, width, height, rules, expected):
    """A limit itself is taken; one pixel beyond it is not."""
    data = bilevel(width, height)
    if expected is None:
        read = desk.read(data, **rules)
        assert (read.width, read.height) == (width, height)
    else:
        assert fault_of(desk, data, **rules) is expected


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "GIF", "AVIF"])
def test_every_format_is_measured_by_its_header(desk, name):
    """Too small and too large, for formats other than PNG."""
    options = {"speed": 10} if name == "AVIF" else {}
    small = encoded(scene(63, 64), name, **options)
    assert fault_of(desk, small) is ImageFault.TOO_SMALL
    image = encoded(scene(100, 101), name, **options)
    assert fault_of(desk, image, pixels_max=10_000) is ImageFault.TOO_LARGE
    assert fault_of(desk, image, pixels_max=1_000) is ImageFault.TOO_LARGE
    assert desk.read(image, pixels_max=10_100).width == 100


def test_the_size_of_a_file_is_bounded(desk):
    """The last byte that is taken, and the first that is not; of the file, not of its base64."""
    plain = encoded(scene(64, 64), "PNG")
    reader = ImageReader(desk.workers, file_bytes_max=len(plain), seconds_max=60)
    rules, less = ImageRules(), ImageRules(file_bytes_max=len(plain) - 1)
    assert desk.run(reader.read(plain, rules)).data is plain
    assert desk.run(desk.reader.read(plain, ImageRules(file_bytes_max=len(plain)))).data is plain
    text = base64.b64encode(plain).decode()
    assert desk.run(reader.read_base64(text, rules)).data == plain
    for work in (
        lambda: reader.read(plain + b"x", rules),
        lambda: reader.read_base64(base64.b64encode(plain + b"x").decode(), rules),
        lambda: reader.read_base64(text + " " * len(plain), rules),
        lambda: desk.reader.read(plain, less),
        lambda: desk.reader.read_base64(text, less),
        lambda: reader.read(plain + b"x", ImageRules(file_bytes_max=len(plain) + 1)),
    ):
        with pytest.raises(ImageRefused) as caught:
            desk.run(work())
        assert caught.value.fault is ImageFault.FILE_TOO_LARGE


PLAIN = encoded(scene(64, 64), "PNG")
TEXT = base64.b64encode(PLAIN).decode()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="raw"),
        pytest.param(f"data:image/png;base64,{TEXT}", id="data URL"),
        pytest.param(f"DATA:image/png;BASE64,{TEXT}", id="capitals"),
        pytest.param(f"data:text/html;base64,{TEXT}", id="another type"),
        pytest.param(f"data:;base64,{TEXT}", id="no type"),
        pytest.param(f"data:image/svg+xml;charset=utf-8;base64,{TEXT}", id="parameters"),
        pytest.param("\n".join(TEXT[n : n + 76] for n in range(0, len(TEXT), 76)), id="lines"),
        pytest.param(f" \t\r\n{TEXT} ", id="blanks around"),
        pytest.param(f"\n data:image/png;base64,\n {TEXT}", id="blanks around a data URL"),
        pytest.param(base64.urlsafe_b64encode(PLAIN).decode(), id="URL-safe"),
        pytest.param(TEXT.rstrip("="), id="without padding"),
    ],
)
def test_base64_is_read_as_people_write_it(desk, text):
    """Raw or in a data URL; the type that it declares means nothing."""
    assert desk.run(desk.reader.read_base64(text, ImageRules())).data == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "=", "data:", "data:image/png;base64,", "data:image/png,rawbytes"),
        *(TEXT[:-8] + "!" + TEXT[-8:], TEXT + "====", "=" + TEXT, TEXT + "ABCD", "é" + TEXT),
        *(f"data:image/png;base64{TEXT}", f"data:{'x' * 300};base64,{TEXT}"),
        *(f"data:image/png;base64,data:image/png;base64,{TEXT}", "https://example.com/a.png"),
        pytest.param(TEXT.replace("A", "%41"), id="percent"),
        pytest.param(TEXT[:-5], id="cut"),
        pytest.param(TEXT[:400] + "\0" + TEXT[400:], id="zero"),
    ],
    ids=lambda text: text[:20] + text[-5:],
)
def test_what_is_not_base64_of_an_image_is_unreadable(desk, text):
    """One fault for all of it."""
    if text == TEXT + "ABCD":  # bytes after the image are cut off, as always
        text = "ABCD" + TEXT
    with pytest.raises(ImageRefused) as caught:
        desk.run(desk.reader.read_base64(text, ImageRules()))
    assert caught.value.fault is ImageFault.UNREADABLE


@pytest.mark.parametrize(("width", "name"), [(65_500, "jpeg"), (65_501, "png"), (70_000, "png")])
def test_pictures_that_are_too_long_for_jpeg_are_handed_on_as_png(desk, width, name):
    """However large they are: no JPEG can hold them."""
    data = encoded(Image.new("P", (width, 65)), "PNG")
    read = desk.read(data)
    assert (read.format, read.width, read.height) == (name, width, 65)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_large_pictures_are_handed_on_compactly(desk, mode):
    """As JPEG where nothing is transparent, because a PNG of a photograph would be huge."""
    data = encoded(Image.new(mode, (2100, 2000), 99), "GIF" if mode == "RGB" else "AVIF", speed=10)
    read = desk.read(data)
    assert read.format == ("jpeg" if mode == "RGB" else "png")
    assert read.has_alpha is (mode == "RGBA")


def test_a_decoder_that_takes_too_long_makes_the_image_unreadable(desk):
    """The deadline is a property of the image, and the next image is read."""
    hasty = ImageReader(desk.workers, seconds_max=0.01)
    with pytest.raises(ImageRefused) as caught:
        desk.run(hasty.read(encoded(Image.new("RGB", (7680, 4320)), "GIF"), ImageRules()))
    assert caught.value.fault is ImageFault.UNREADABLE
    assert desk.read(PLAIN).data is PLAIN


def test_a_decoder_without_memory_makes_the_image_unreadable():
    """The worker is bounded, and its failure is told as the image's."""
    large = encoded(Image.new("RGB", (7680, 4320)), "GIF")

    async def test():
        workers = Workers(
            WorkerLimits(memory_bytes_max=150 << 20), processes_max=1, idle_seconds_max=60
        )
        reader = ImageReader(workers, seconds_max=60)
        try:
            with pytest.raises(ImageRefused) as caught:
                await reader.read(large, ImageRules())
            assert caught.value.fault is ImageFault.UNREADABLE
            assert (await reader.read(PLAIN, ImageRules())).data is PLAIN
        finally:
            await workers.aclose()

    asyncio.run(test())


def test_busy_workers_are_not_the_fault_of_an_image():
    """Who comes when nobody can read is told so, and may come again."""

    async def test():
        workers = Workers(WorkerLimits(), processes_max=1, idle_seconds_max=60)
        await workers.aclose()
        with pytest.raises(WorkersBusy):
            await ImageReader(workers).read(PLAIN, ImageRules())

    asyncio.run(test())


def test_a_chat_only_gateway_imports_no_decoder():
    """Neither the reader nor its parts import Pillow in the gateway's process."""
    script = (
        "import sys, traghetto.cli, traghetto.media.images, traghetto.media.fetching\n"
        "print(sorted({'PIL', 'numpy', 'cv2', 'onnxruntime', 'pi_heif'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_a_png_without_pixels_is_unreadable(desk):
    """A header alone is no image, and neither is one of no width."""
    for data in (
        png(png_header(64, 64)),
        png(png_header(0, 64), png_chunk(b"IDAT", b"")),
        png(png_header(64, 0)),
    ):
        assert fault_of(desk, data) is ImageFault.UNREADABLE


def test_the_bytes_of_a_picture_are_in_no_text(desk):
    """What is raised says nothing of what was sent."""
    with pytest.raises(ImageRefused) as caught:
        desk.read(b"\x89PNG\r\n\x1a\n" + b"secret" * 100)
    assert "secret" not in str(caught.value)
