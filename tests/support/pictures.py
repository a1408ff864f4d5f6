"""Making image files, also such as no library makes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """`image` as a file of the format that Pillow calls `name`."""
    target = io.BytesIO()
    image.save(target, name, **options)
    return target.getvalue()


def decoded(data: bytes) -> Image.Image:
    """The image in a file, decoded whole."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Blue, and red in the upper left quarter, so that one sees how it is turned.

    RGBA is a little transparent everywhere.
    """
    image = Image.new("RGB", (width, height), (30, 90, 200))
    image.paste((220, 40, 30), (0, 0, width // 2, height // 2))
    if mode == "RGBA":
        image.putalpha(200)
    return image.convert(mode)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    checksum = zlib.crc32(name + body)
    return struct.pack("!I", len(body)) + name + body + struct.pack("!I", checksum)


def png_header(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    """The first chunk; `colours` is 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA."""
    return png_chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, depth, colours, 0, 0, 0))


def png(*chunks: bytes) -> bytes:
    """A file of such chunks, and its end."""
    return PNG_SIGNATURE + b"".join(chunks) + png_chunk(b"IEND", b"")


def png_of_rows(
    width: int, height: int, row: bytes, *, depth: int = 8, colours: int = 2, between: bytes = b""
) -> bytes:
    """A file whose rows are all `row`, packed; `between` comes before its pixels."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(b"\0" + row) for _ in range(height)) + packer.flush()
    return png(png_header(width, height, depth, colours), between, png_chunk(b"IDAT", packed))


def with_png_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks after its header."""
    end = len(PNG_SIGNATURE) + 25
    return data[:end] + b"".join(chunks) + data[end:]


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of an ISO base media file (HEIF, AVIF)."""
    body = b"".join(parts)
    return struct.pack("!I", len(body) + 8) + name + body
