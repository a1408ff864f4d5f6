"""What bytes are, told by how they begin, and never by what somebody says that they are.

The table is short on purpose: a format that is not here does not reach a decoder. SVG is not an
image here but a document with a language in it, and TIFF, BMP, ICO, PSD, EPS and PDF are decoders
with a history.
"""

from __future__ import annotations

import enum
from typing import Final


class ImageFileFormat(enum.Enum):
    """The formats that are read; the values are what the decoding library calls them."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"
    GIF = "GIF"
    AVIF = "AVIF"
    HEIF = "HEIF"


_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})
_HEIF_BRANDS: Final = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
)
_STRUCTURAL_BRANDS: Final = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})
"""What HEIF and AVIF share: they say how the file is laid out and not how it is coded."""
_FTYP_BYTES_MIN: Final = 16
_FTYP_BYTES_MAX: Final = 1024


def sniff(data: bytes) -> ImageFileFormat | None:
    """The format of an image file; None for anything else, also for other images."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ImageFileFormat.PNG
    if data.startswith(b"\xff\xd8\xff"):
        return ImageFileFormat.JPEG
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ImageFileFormat.WEBP
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ImageFileFormat.GIF
    if data[4:8] == b"ftyp":
        return _sniff_boxes(data)
    return None


def _sniff_boxes(data: bytes) -> ImageFileFormat | None:
    """By the brands of an ISO base media file (ISO/IEC 14496-12, 4.3).

    The box is its length (4 bytes), `ftyp`, the major brand, its version (4 bytes), and the brands
    that the file is compatible with, until its end.
    """
    length = int.from_bytes(data[:4], "big")
    if not _FTYP_BYTES_MIN <= length <= min(len(data), _FTYP_BYTES_MAX) or length % 4:
        return None
    major = data[8:12]
    brands = {major} | {data[start : start + 4] for start in range(16, length, 4)}
    if major not in _AVIF_BRANDS | _HEIF_BRANDS | _STRUCTURAL_BRANDS:
        return None  # a film may be compatible with an image, and is none
    if brands & _AVIF_BRANDS:
        return ImageFileFormat.AVIF
    if brands & _HEIF_BRANDS:
        return ImageFileFormat.HEIF
    return None
