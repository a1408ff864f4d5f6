"""Cutting files down to their picture, without a decoder."""

from __future__ import annotations

import zlib

import pytest

from media.hostile import sound_files
from support.pictures import png, png_chunk, png_header
from traghetto.media.structure import Broken, cut_jpeg, cut_png, cut_webp

WIDTH, HEIGHT = 1023, 1024
"""With one byte of filter a row of grey is 1 KiB, and the whole image one MiB."""
PIXELS = 1 << 20


def admit(width: int, height: int) -> None:
    pass


def is_bare(height: int, *pieces: bytes) -> bool:
    data = png(png_header(WIDTH, height, 8, 0), *(png_chunk(b"IDAT", piece) for piece in pieces))
    return cut_png(data, admit).bare is not None


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("height", [1, 1023, 1024, 1025, 2048, 3000])
def test_pixels_are_counted_to_the_byte(height, level):
    """Around the size of the pieces in which they are unpacked, and however they are divided."""
    exact = zlib.compress(bytes(1024 * height), level)
    assert is_bare(height, exact)
    assert is_bare(height, exact[:5], b"", exact[5:-3], exact[-3:])
    assert not is_bare(height, exact[:-1])
    assert not is_bare(height, exact + b"x")
    assert not is_bare(height, exact, b"x")
    assert not is_bare(height, zlib.compress(bytes(1024 * height + 1), level))
    assert not is_bare(height, zlib.compress(bytes(1024 * height - 1), level))
    assert not is_bare(height, zlib.compress(bytes(1024 * height + 5), level) + b"x")
    assert not is_bare(height, b"no zlib at all")


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("png", cut_png),
        ("jpeg", cut_jpeg),
        ("jpeg-progressive", cut_jpeg),
        ("webp", lambda data, _: cut_webp(data)),
        ("webp-lossless", lambda data, _: cut_webp(data)),
    ],
)
def test_a_file_is_whole_or_broken(name, function):
    """A sound file is cut to itself, however much follows it, and no shorter one is taken."""
    data = sound_files()[name]
    assert function(data, admit).decodable == function(data, admit).bare == data
    assert function(data + data + b"x", admit).bare == data
    for length in range(12, len(data)):
        with pytest.raises(Broken):
            function(data[:length], admit)


def test_a_size_is_told_before_the_rest_is_read():
    """What is too large is refused however broken the rest is."""
    told = []

    def refuse(width: int, height: int) -> None:
        told.append((width, height))
        raise ValueError("too large")

    header = png(png_header(70_000, 70_000))[:33]
    for data in (header, header + b"broken"):
        with pytest.raises(ValueError, match="too large"):
            cut_png(data, refuse)
    jpeg = sound_files()["jpeg"]
    with pytest.raises(ValueError, match="too large"):
        cut_jpeg(jpeg[: jpeg.index(b"\xff\xda")], refuse)
    assert told == [(70_000, 70_000)] * 2 + [(96, 64)]
