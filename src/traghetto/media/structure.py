"""How PNG, JPEG and WebP files are put together, read without a decoder.

A decoder looks for pixels, and passes over what it does not need. But what it passes over goes on
to a backend: archives and scripts behind the picture, bombs in its comments, a second picture that
another decoder prefers. Here a file is cut down to the parts that make up one picture, or found to
be broken. Runs in a worker.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

Admit = Callable[[int, int], None]
"""Called with the width and height that a file declares, before more of it is read; may raise."""


class Broken(Exception):
    """The file is not put together as its format says, or ends too early."""


class Cut(msgspec.Struct, frozen=True):
    """What is left of a file."""

    decodable: bytes
    """The picture, with what tells how to show it: colour profile and orientation."""
    bare: bytes | None
    """The picture alone; None where it has to be encoded anew."""


_PNG_SIGNATURE_BYTES: Final = 8
_PNG_CHUNK_BYTES_MIN: Final = 12
_PNG_CHUNKS_MAX: Final = 32_768
_PNG_BARE: Final = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"sBIT"}
)
_PNG_DECODABLE: Final = _PNG_BARE | {b"iCCP", b"eXIf"}
_PNG_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_PNG_CHANNELS: Final = {0: 1, 2: 3, 6: 4}
"""Of the kinds of colour that are in the normal form: grey, RGB, RGBA."""
_PIECE_BYTES: Final = 1 << 20


def cut_png(data: bytes, admit: Admit) -> Cut:
    """A PNG's critical chunks and the few others that matter; every checksum is verified.

    The frames of an animation but the first, texts, and what follows the image are left out.
    Raises Broken.
    """
    decodable = [data[:_PNG_SIGNATURE_BYTES]]
    bare = decodable.copy()
    packed = []
    header: _PngHeader | None = None
    for name, start, end in _png_chunks(data):
        if (name == b"IHDR") != (header is None):
            raise Broken("a PNG begins with one header")
        if header is None:
            header = _png_header(data, start, end)
            admit(header.width, header.height)
        if name[0:1].isupper() and name not in _PNG_CRITICAL:
            raise Broken("a PNG has a critical chunk that nobody knows")
        if name == b"IDAT":
            packed.append(data[start + 8 : end - 4])
        if name in _PNG_DECODABLE:
            decodable.append(data[start:end])
        if name in _PNG_BARE:
            bare.append(data[start:end])
    assert header is not None
    whole = b"".join(decodable)
    if not _is_exactly(packed, header.pixel_bytes):
        return Cut(decodable=whole, bare=None)
    return Cut(decodable=whole, bare=whole if len(bare) == len(decodable) else b"".join(bare))


class _PngHeader(msgspec.Struct, frozen=True):
    width: int
    height: int
    pixel_bytes: int
    """What the pixels of an image in the normal form are, unpacked; 0 for any other image."""


def _png_header(data: bytes, start: int, end: int) -> _PngHeader:
    if end - start != _PNG_CHUNK_BYTES_MIN + 13:
        raise Broken("the header of a PNG has a fixed length")
    width, height, depth, colours, _, _, interlace = struct.unpack_from("!IIBBBBB", data, start + 8)
    is_normal = depth == 8 and interlace == 0 and colours in _PNG_CHANNELS
    row_bytes = 1 + width * _PNG_CHANNELS[colours] if is_normal else 0
    return _PngHeader(width, height, height * row_bytes)


def _is_exactly(packed: list[bytes], unpacked_bytes: int) -> bool:
    """Whether these are so many bytes, packed, and not more: a decoder may unpack all there is."""
    if unpacked_bytes == 0:
        return False
    unpacker = zlib.decompressobj()
    try:
        for piece in packed:
            rest = piece
            # At its end the unpacker may go on to name a rest that it will not take.
            while rest and unpacked_bytes >= 0 and not unpacker.eof:
                unpacked_bytes -= len(unpacker.decompress(rest, _PIECE_BYTES))
                rest = unpacker.unconsumed_tail
            if rest:
                return False
        unpacked_bytes -= len(unpacker.flush())  # the little that did not fit into a piece
    except zlib.error:
        return False
    return unpacker.eof and unpacked_bytes == 0 and not unpacker.unused_data


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk until the last; raises Broken where they do not add up."""
    view = memoryview(data)
    start = _PNG_SIGNATURE_BYTES
    for _ in range(_PNG_CHUNKS_MAX):
        if start + _PNG_CHUNK_BYTES_MIN > len(data):
            raise Broken("a PNG ends early")
        (length,) = struct.unpack_from("!I", data, start)
        end = start + _PNG_CHUNK_BYTES_MIN + length
        if end > len(data):
            raise Broken("a PNG ends early")
        name = data[start + 4 : start + 8]
        (checksum,) = struct.unpack_from("!I", data, end - 4)
        if not name.isalpha() or zlib.crc32(view[start + 4 : end - 4]) != checksum:
            raise Broken("a chunk of a PNG is damaged")
        yield name, start, end
        if name == b"IEND":
            return
        start = end
    raise Broken(f"a PNG has more than {_PNG_CHUNKS_MAX} chunks")


_MARKER: Final = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
"""The next marker that is no restart and no stuffed byte."""
_JPEG_SEGMENTS_MAX: Final = 4096
_JPEG_SCANS_MAX: Final = 200
"""A progressive file has about ten; each costs a pass over the whole image."""
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APPLICATION_0, _APPLICATION_1, _APPLICATION_2, _ADOBE = 0xE0, 0xE1, 0xE2, 0xEE
_DROPPED: Final = (frozenset(range(0xE0, 0xF0)) | {0xFE}) - {_APPLICATION_0, _ADOBE}


def cut_jpeg(data: bytes, admit: Admit) -> Cut:
    """A JPEG's tables and scans, until the first end of an image; raises Broken.

    Comments, previews, camera notes, further pictures (MPO) and what follows are left out.
    """
    decodable = [data[:2]]
    bare = decodable.copy()
    position = 2
    frames = scans = 0
    for _ in range(_JPEG_SEGMENTS_MAX):
        found = _MARKER.match(data, position)
        if found is None:
            raise Broken("a JPEG has something between its segments")
        marker, start = found[1][0], found.end() - 2
        if marker == _END:
            if scans == 0:
                raise Broken("a JPEG has no image in it")
            ending = data[start : start + 2]
            return Cut(b"".join([*decodable, ending]), b"".join([*bare, ending]))
        end = _segment_end(data, start)
        if marker in _FRAMES:
            frames += 1
            admit(*_jpeg_size(data, start, end))
        if marker == _SCAN:
            scans += 1
            end = _scan_end(data, end)
        is_odd = marker == _START or frames > 1 or (scans > 0 and frames == 0)
        if is_odd or scans > _JPEG_SCANS_MAX:
            raise Broken("a JPEG is put together in a way that no encoder does")
        position = end
        piece = data[start:end]
        is_dropped = marker in _DROPPED
        if not is_dropped:
            bare.append(piece)
        if not is_dropped or _tells_how_to_show(marker, piece):
            decodable.append(piece)
    raise Broken(f"a JPEG has more than {_JPEG_SEGMENTS_MAX} segments")


def _segment_end(data: bytes, start: int) -> int:
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    if length < 2 or start + 2 + length > len(data):
        raise Broken("a JPEG ends early")
    return start + 2 + length


def _jpeg_size(data: bytes, start: int, end: int) -> tuple[int, int]:
    if end - start < 10:
        raise Broken("the header of a JPEG is too short")
    height, width = struct.unpack_from("!HH", data, start + 5)
    return width, height


def _scan_end(data: bytes, start: int) -> int:
    """Where the coded data that begin at `start` end: at the next marker."""
    found = _MARKER.search(data, start)
    if found is None:
        raise Broken("a JPEG ends early")
    return found.start()


def _tells_how_to_show(marker: int, piece: bytes) -> bool:
    if marker == _APPLICATION_1:
        return piece.startswith(b"Exif\0\0", 4)
    return marker == _APPLICATION_2 and piece.startswith(b"ICC_PROFILE\0", 4)


_RIFF_HEADER_BYTES: Final = 12
_WEBP_PLAIN: Final = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH"})
_WEBP_CHUNKS_MAX: Final = 100_000


def cut_webp(data: bytes) -> Cut:
    """A WebP without what follows it; `bare` if it is a picture and nothing else. Raises Broken."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise Broken("a WebP ends early")
    names: list[bytes] = []
    start = _RIFF_HEADER_BYTES
    while start < end:
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        names.append(data[start : start + 4])
        start += 8 + length + length % 2
        if len(names) > _WEBP_CHUNKS_MAX:
            raise Broken(f"a WebP has more than {_WEBP_CHUNKS_MAX} chunks")
    if start != end or not names:
        raise Broken("the chunks of a WebP do not add up")
    picture = data[:end]
    is_plain = len(set(names)) == len(names) and _WEBP_PLAIN.issuperset(names)
    return Cut(decodable=picture, bare=picture if is_plain else None)
