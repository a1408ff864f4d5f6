"""Image files that mean harm: bombs, ruins, chimeras and disguises, each with how it has to end.

Deterministic: the same seed gives the same files. Files are made when they are asked for, because
together they are large. Nothing of the product is imported, so that tests of a running gateway can
use them as well.
"""

from __future__ import annotations

import functools
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from support.pictures import (
    PNG_SIGNATURE,
    box,
    encoded,
    png,
    png_chunk,
    png_header,
    png_of_rows,
    scene,
    with_png_chunks,
)

FILES = Path(__file__).parent / "files"
PAYLOAD = b"<script>alert('payload')</script>"
"""What must not be in any image that is handed on."""
FILE_BYTES_MAX = 26_214_400

UNREADABLE, TOO_SMALL, TOO_LARGE, FILE_TOO_LARGE = (
    *("unreadable", "too_small", "too_large", "file_too_large"),
)
SOUND = "sound"
"""Not a fault: the file may turn out to be a good image, which is then handed on without the rest."""


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    make: Callable[[], bytes]
    ends: frozenset[str]
    """How it may end: names of faults, or SOUND."""


def cases(seed: int = 1, *, flips: int = 30) -> list[Case]:
    """All of them, with `flips` damaged files of each format."""
    return [
        *_declared_giants(),
        *_real_giants(),
        *_bombs(),
        *_truncations(),
        *_chimeras(),
        *_disguises(),
        *_other_formats(),
        *_odd_boxes(),
        *_odd_files(),
        *_flips(random.Random(seed), flips),
    ]


def _case(name: str, make: Callable[[], bytes] | bytes, *ends: str) -> Case:
    if isinstance(make, bytes):
        make = functools.partial(bytes, make)
    return Case(name, make, frozenset(ends or (UNREADABLE,)))


@functools.cache
def sound_files() -> dict[str, bytes]:
    """A small good file of each format, with noise in it so that its data are long."""
    noise = Image.effect_noise((96, 64), 40).convert("RGB")
    noise.paste(scene(48, 32), (0, 0))
    return {
        "png": encoded(noise, "PNG"),
        "jpeg": encoded(noise, "JPEG"),
        "jpeg-progressive": encoded(noise, "JPEG", progressive=True),
        "webp": encoded(noise, "WEBP"),
        "webp-lossless": encoded(noise, "WEBP", lossless=True),
        "gif": encoded(noise, "GIF"),
        "avif": encoded(noise, "AVIF", speed=10),
        "heif": (FILES / "scene-64x64.heic").read_bytes(),
    }


# Sizes.


def _declared_giants() -> Iterator[Case]:
    """Headers that promise more than anybody could decode, with next to nothing behind them."""
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    for side in (5761, 65_535, 1_000_000, 2**31 - 1):
        for depth, colours in ((1, 0), (8, 2), (16, 6)):
            header = png_header(side, side, depth, colours)
            yield _case(f"png-declares-{side}-{depth}-{colours}", png(header, pixels), TOO_LARGE)
    yield _case("png-declares-4294967295", png(png_header(2**32 - 1, 2**32 - 1), pixels), TOO_LARGE)
    yield _case("png-wide", png(png_header(33_177_601, 1), pixels), TOO_LARGE)
    yield _case("jpeg-declares-65535", _jpeg_of_size(65_535, 65_535), TOO_LARGE)
    yield _case("jpeg-declares-no-height", _jpeg_of_size(96, 0), UNREADABLE)
    yield _case("gif-screen-65535", _gif_of_size(65_535, 65_535), TOO_LARGE, UNREADABLE)
    yield _case("gif-frame-65535", _gif_with_large_frame(), TOO_LARGE, UNREADABLE)
    yield _case("webp-lossless-16384", _webp_lossless_of_size(16_384), TOO_LARGE, UNREADABLE)
    yield _case("webp-canvas-16777216", _webp_canvas(2**24, 100), TOO_LARGE, UNREADABLE)
    yield _case("webp-canvas-65535", _webp_canvas(65_535, 65_535), TOO_LARGE, UNREADABLE)
    for name in ("avif", "heif"):
        for side in (8_192, 65_535, 2**31 - 1, 2**32 - 1):
            patched = _of_size_in_boxes(sound_files()[name], side)
            yield _case(f"{name}-declares-{side}", patched, TOO_LARGE, UNREADABLE)


def _real_giants() -> Iterator[Case]:
    """Files that keep what they promise."""
    rows = functools.partial(png_of_rows, depth=1, colours=0)
    yield _case("png-16384", lambda: rows(16_384, 16_384, bytes(2048)), TOO_LARGE)
    yield _case("png-7681x4320", lambda: rows(7681, 4320, bytes(961)), TOO_LARGE)
    one_bit = functools.partial(Image.new, "1")
    yield _case("gif-8000", lambda: encoded(one_bit((8000, 8000)), "GIF"), TOO_LARGE)
    grey = functools.partial(Image.new, "L")
    yield _case("jpeg-10000", lambda: encoded(grey((10_000, 10_000)), "JPEG"), TOO_LARGE)
    yield _case("avif-7681x4320", lambda: encoded(grey((7681, 4320)), "AVIF", speed=10), TOO_LARGE)
    yield _case("heif-7681x4320", (FILES / "large-7681x4320.heic").read_bytes, TOO_LARGE)
    yield _case("heif-63x64", (FILES / "scene-63x64.heic").read_bytes, TOO_SMALL)
    for name in ("PNG", "JPEG", "WEBP", "GIF"):
        yield _case(f"{name.lower()}-1x1", encoded(Image.new("RGB", (1, 1)), name), TOO_SMALL)


# Files that cost more than they look like.


def _bombs() -> Iterator[Case]:
    sound = sound_files()["png"]
    zeros = functools.partial(_packed_zeros, 100 << 20)
    yield _case(
        "png-largest-16-bit-rgba",
        lambda: png_of_rows(7680, 4320, bytes(7680 * 8), depth=16, colours=6),
        *(SOUND, UNREADABLE),
    )
    yield _case(
        "png-text-bomb",
        lambda: with_png_chunks(sound, png_chunk(b"zTXt", b"Comment\0\0" + zeros())),
        SOUND,
    )
    yield _case(
        "png-unicode-text-bomb",
        lambda: with_png_chunks(sound, png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zeros())),
        SOUND,
    )
    yield _case(
        "png-many-text-bombs",
        lambda: with_png_chunks(sound, *[png_chunk(b"zTXt", b"Comment\0\0" + zeros())] * 50),
        SOUND,
    )
    yield _case(
        "png-profile-bomb",
        lambda: with_png_chunks(sound, png_chunk(b"iCCP", b"icc\0\0" + zeros())),
        *(SOUND, UNREADABLE),
    )
    yield _case(
        "png-long-text",
        lambda: with_png_chunks(sound, png_chunk(b"tEXt", b"Comment\0" + PAYLOAD * 600_000)),
        SOUND,
    )
    yield _case(
        "png-many-chunks",
        lambda: with_png_chunks(sound, *[png_chunk(b"prVt", b"")] * 200_000),
        UNREADABLE,
    )
    yield _case(
        "png-many-empty-data-chunks",
        lambda: with_png_chunks(sound, *[png_chunk(b"IDAT", b"")] * 90_000),
        UNREADABLE,
    )
    yield _case(
        "png-more-data-than-pixels",
        lambda: png(png_header(96, 64), png_chunk(b"IDAT", _packed_zeros(500 << 20))),
        *(SOUND, UNREADABLE),
    )
    yield _case(
        "png-bomb-behind-its-pixels",
        lambda: png(png_header(4000, 4000), png_chunk(b"IDAT", _packed_zeros(200 << 20))),
        *(SOUND, UNREADABLE),
    )
    yield _case(
        "png-long-exif",
        lambda: with_png_chunks(
            sound, png_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(10**6))
        ),
        *(SOUND, UNREADABLE),
    )
    yield _case("apng-5000-frames", functools.partial(_animated_png, 5000), SOUND)
    yield _case("gif-5000-frames", functools.partial(_animated_gif, 5000), SOUND)
    yield _case("jpeg-1000-scans", functools.partial(_jpeg_with_scans, 1000), UNREADABLE)
    yield _case("jpeg-5000-comments", functools.partial(_jpeg_with_comments, 5000), UNREADABLE)
    yield _case("jpeg-one-colour-at-the-limit", _jpeg_at_the_limit, SOUND)


def _packed_zeros(count: int) -> bytes:
    packer = zlib.compressobj(1)
    piece = bytes(1 << 20)
    return b"".join(packer.compress(piece) for _ in range(count >> 20)) + packer.flush()


def _animated_png(frames: int) -> bytes:
    data = zlib.compress(b"".join(b"\0" + bytes(64 * 3) for _ in range(64)))
    control = struct.Struct("!IIIIIHHBB")
    chunks = [png_header(64, 64), png_chunk(b"acTL", struct.pack("!II", frames, 0))]
    chunks.append(png_chunk(b"fcTL", control.pack(0, 64, 64, 0, 0, 1, 10, 0, 0)))
    chunks.append(png_chunk(b"IDAT", data))
    for number in range(1, frames):
        chunks.append(png_chunk(b"fcTL", control.pack(2 * number - 1, 64, 64, 0, 0, 1, 10, 0, 0)))
        chunks.append(png_chunk(b"fdAT", struct.pack("!I", 2 * number) + data))
    return png(*chunks)


def _animated_gif(frames: int) -> bytes:
    one = encoded(Image.new("L", (64, 64)), "GIF")
    start = 13 + (3 << (one[10] & 7) + 1 if one[10] & 0x80 else 0)  # after the table of colours
    return one[:start] + one[start:-1] * frames + b";"


def _jpeg_with_scans(count: int) -> bytes:
    data = sound_files()["jpeg-progressive"]
    start = data.index(b"\xff\xda")
    end = data.index(b"\xff\xc4", start)
    return data[:end] + data[start:end] * count + data[end:]


def _jpeg_with_comments(count: int) -> bytes:
    data = sound_files()["jpeg"]
    comment = b"\xff\xfe\0\x23" + PAYLOAD
    return data[:2] + comment * count + data[2:]


def _jpeg_at_the_limit() -> bytes:
    return encoded(Image.new("RGB", (7680, 4320), (9, 99, 200)), "JPEG")


# Sizes written into files that are otherwise sound.


def _jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(sound_files()["jpeg"])
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack("!HH", height, width)
    return bytes(data)


def _gif_of_size(width: int, height: int) -> bytes:
    data = sound_files()["gif"]
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def _gif_with_large_frame() -> bytes:
    data = bytearray(sound_files()["gif"])
    start = data.index(struct.pack("<BHHHH", 0x2C, 0, 0, 96, 64))
    data[start : start + 9] = struct.pack("<BHHHH", 0x2C, 0, 0, 65_535, 65_535)
    return bytes(data)


def _webp_lossless_of_size(side: int) -> bytes:
    bits = (side - 1) | (side - 1) << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes(100)
    return _webp(b"VP8L" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))


def _webp_canvas(width: int, height: int) -> bytes:
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return _webp(b"VP8X" + struct.pack("<I", 10) + bytes(4) + sizes, sound_files()["webp"][12:])


def _webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _of_size_in_boxes(data: bytes, side: int) -> bytes:
    """With another size in every `ispe` box."""
    patched = bytearray(data)
    start = patched.find(b"ispe")
    while start >= 0:
        patched[start + 8 : start + 16] = struct.pack("!II", side, side)
        start = patched.find(b"ispe", start + 4)
    return bytes(patched)


# Ruins.


def _truncations() -> Iterator[Case]:
    """Files that end early, at places all over them."""
    for name, data in sound_files().items():
        is_strict = name.partition("-")[0] in ("png", "jpeg", "webp")
        for part in range(24):
            length = max(1, len(data) * part // 24) if part else 13
            ends = (UNREADABLE,) if is_strict else (UNREADABLE, SOUND)
            yield _case(f"{name}-cut-at-{length}", data[:length], *ends)
        for missing in (1, 2, 4, 12):
            ends = (UNREADABLE,) if is_strict else (UNREADABLE, SOUND)
            yield _case(f"{name}-cut-by-{missing}", data[:-missing], *ends)


def _flips(chance: random.Random, count: int) -> Iterator[Case]:
    """Files with damaged bytes, above all in their first part, where headers are."""
    for name, data in sound_files().items():
        for number in range(count):
            damaged = bytearray(data)
            reach = len(data) if number % 3 == 0 else min(len(data), 160)
            for _ in range(chance.choice((1, 1, 2, 8))):
                damaged[chance.randrange(reach)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
            yield _case(
                f"{name}-damaged-{number}",
                bytes(damaged),
                *(SOUND, UNREADABLE, TOO_SMALL, TOO_LARGE),
            )
    damaged = bytearray(sound_files()["png"])
    damaged[-20] ^= 1
    yield _case("png-wrong-checksum", bytes(damaged))


# Chimeras: one kind of file to us, another one to somebody else.


def _chimeras() -> Iterator[Case]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("payload.html", PAYLOAD)
    for name, data in sound_files().items():
        yield _case(f"{name}-and-archive", data + archive.getvalue(), SOUND, UNREADABLE)
        yield _case(f"{name}-and-page", data + b"<html>" + PAYLOAD, SOUND, UNREADABLE)
        yield _case(f"{name}-twice", data + data, SOUND, UNREADABLE)
        yield _case(f"archive-and-{name}", archive.getvalue() + data)
        yield _case(f"page-and-{name}", PAYLOAD + data)
        yield _case(f"document-and-{name}", b"%PDF-1.7\n" + data)
        yield _case(f"program-and-{name}", b"MZ\x90\0" + data)
        yield _case(f"blank-and-{name}", b" " + data)
    jpeg = sound_files()["jpeg"]
    segment = b"\xff\xfe" + struct.pack("!H", len(PAYLOAD) + 2) + PAYLOAD
    yield _case("jpeg-with-page-in-comment", jpeg[:2] + segment + jpeg[2:], SOUND)
    yield _case("jpeg-with-page-in-exif", encoded(scene(96, 64), "JPEG", exif=PAYLOAD), SOUND)
    yield _case(
        "png-with-page", with_png_chunks(sound_files()["png"], png_chunk(b"tEXt", PAYLOAD)), SOUND
    )
    script = bytearray(sound_files()["gif"])
    yield _case(
        "gif-and-script",
        bytes(script[:6]) + b"/*" + bytes(script[8:]) + b"*/=1;" + PAYLOAD,
        SOUND,
        UNREADABLE,
        TOO_LARGE,
    )
    for one, other in (("png", "jpeg"), ("jpeg", "png"), ("gif", "png"), ("webp", "jpeg")):
        begin, rest = sound_files()[one][:12], sound_files()[other][12:]
        yield _case(f"{one}-head-on-{other}", begin + rest, UNREADABLE, TOO_SMALL, TOO_LARGE)


# Disguises, and formats that are not taken.


def _disguises() -> Iterator[Case]:
    """SVG, which is a document with a language in it."""
    plain = b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100">%s</svg>' % PAYLOAD
    variants = {
        "plain": plain,
        "declared": b'<?xml version="1.0"?>' + plain,
        "typed": b"<!DOCTYPE svg>" + plain,
        "marked": b"\xef\xbb\xbf" + plain,
        "indented": b"\r\n\t " * 100 + plain,
        "commented": b"<!-- " + b"x" * 5000 + b" -->" + plain,
        "utf-16": plain.decode().encode("utf-16"),
        "utf-32": plain.decode().encode("utf-32"),
        "packed": gzip.compress(plain),
        "in-a-page": b"<!doctype html><body>" + plain,
        "prefixed": plain.replace(b"<svg", b"<s:svg").replace(b"xmlns=", b"xmlns:s="),
        "after-png-signature": PNG_SIGNATURE + plain,
        "after-jpeg-signature": b"\xff\xd8\xff\xe0" + plain,
        "after-gif-signature": b"GIF89a" + plain,
        "after-webp-signature": b"RIFF\xff\xff\0\0WEBP" + plain,
        "after-heif-signature": box(b"ftyp", b"heic\0\0\0\0", b"mif1") + plain,
        "after-avif-signature": box(b"ftyp", b"avif\0\0\0\0", b"mif1") + plain,
    }
    for name, data in variants.items():
        # GIF takes the letters after its signature for a screen size.
        yield _case(f"svg-{name}", data, UNREADABLE, TOO_LARGE)


def _other_formats() -> Iterator[Case]:
    picture = scene(96, 64)
    for name in (
        "TIFF",
        "BMP",
        "ICO",
        "PCX",
        "TGA",
        "PPM",
        "DDS",
        "JPEG2000",
        "SGI",
        "PDF",
        "EPS",
        "ICNS",
    ):
        yield _case(f"format-{name.lower()}", functools.partial(encoded, picture, name))
    heads = {
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack("!HIIHH", 3, 64, 96, 8, 3),
        "fits": b"SIMPLE  =                    T".ljust(2880),
        "jpeg-xl": b"\xff\x0a" + bytes(100),
        "jpeg-xl-boxes": box(b"JXL ", b"\r\n\x87\n") + bytes(100),
        "mp4": box(b"ftyp", b"isom\0\0\2\0", b"isomiso2mp41") + bytes(100),
        "quicktime": box(b"ftyp", b"qt  \0\0\2\0", b"qt  ") + bytes(100),
        "raw": box(b"ftyp", b"crx \0\0\0\1", b"crx isom") + bytes(100),
        "wav": b"RIFF\x64\0\0\0WAVEfmt " + bytes(92),
        "mp3": b"ID3\4" + bytes(100),
        "elf": b"\x7fELF" + bytes(100),
        "wasm": b"\0asm\1\0\0\0",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "metafile": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "xbm": b"#define x_width 96\n#define x_height 64\nstatic char x_bits[] = {0};",
        "html": b"<!doctype html>" + PAYLOAD,
        "json": b'{"error": "not found"}',
        "text": b"Not Found",
    }
    for name, data in heads.items():
        yield _case(f"format-{name}", data)


def _odd_boxes() -> Iterator[Case]:
    """HEIF and AVIF whose boxes are sheer nonsense."""
    for brand in (b"heic", b"avif"):
        name = brand.decode()
        start = box(b"ftyp", brand, bytes(4), b"mif1", brand)
        handler = box(b"hdlr", bytes(8), b"pict", bytes(13))
        nested = b""
        for _ in range(500):
            nested = box(b"meta", bytes(4), nested)
        yield _case(f"{name}-alone", start)
        yield _case(f"{name}-nested", start + nested)
        yield _case(f"{name}-endless-box", start + struct.pack("!I4s", 0, b"meta") + bytes(100))
        yield _case(f"{name}-huge-box", start + struct.pack("!I4sQ", 1, b"meta", 2**63) + bytes(99))
        yield _case(f"{name}-small-boxes", start + struct.pack("!I4s", 8, b"free") * 100_000)
        items = box(b"iinf", bytes(4), struct.pack("!H", 65_535))
        places = box(b"iloc", bytes(4), b"\x44\x40", struct.pack("!H", 65_535), b"\xff" * 4000)
        properties = box(b"iprp", box(b"ipco", box(b"ispe", bytes(4), b"\xff" * 8) * 5000))
        for label, parts in {
            "items": (handler, items),
            "places": (handler, places),
            "properties": (handler, properties),
            "everything": (handler, items, places, properties),
        }.items():
            yield _case(f"{name}-absurd-{label}", start + box(b"meta", bytes(4), *parts))


def _odd_files() -> Iterator[Case]:
    yield _case("empty", b"")
    for data in (b"\0", b"\xff", b" ", b"\n" * 1000, b"\0" * 1_000_000, b"\xff" * 1_000_000):
        yield _case(f"{len(data)}-times-{data[0]:02x}", data)
    sound = sound_files()["png"]
    yield _case("largest-file", lambda: sound.ljust(FILE_BYTES_MAX, b"\0"), SOUND)
    yield _case("larger-file", lambda: sound.ljust(FILE_BYTES_MAX + 1, b"\0"), FILE_TOO_LARGE)
    yield _case("much-larger-file", lambda: bytes(2 * FILE_BYTES_MAX), FILE_TOO_LARGE)
