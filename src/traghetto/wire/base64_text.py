"""Base64 of tens of megabytes, made and read in pieces, so that the event loop has turns between.

One image of a backend or an answer can be larger than all other traffic of a minute; coded in one
go it would hold every stream up.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator
from typing import Final

import msgspec

_PIECE_BYTES: Final = 3 << 18
"""Of what is encoded, at once: a multiple of three, so that only the last piece is padded."""
_PIECE_CHARACTERS: Final = _PIECE_BYTES // 3 * 4


async def base64_pieces(data: bytes) -> AsyncIterator[bytes]:
    """The base64 of `data`, with a turn of the event loop after each piece."""
    view = memoryview(data)
    for start in range(0, len(data), _PIECE_BYTES):
        yield binascii.b2a_base64(view[start : start + _PIECE_BYTES], newline=False)
        await asyncio.sleep(0)


async def base64_json(data: bytes, prefix: bytes = b"") -> msgspec.Raw:
    """The JSON string of `prefix`, which needs no escapes, and the base64 of `data`."""
    return msgspec.Raw(b"".join([b'"', prefix, *[p async for p in base64_pieces(data)], b'"']))


async def base64_decoded(text: str) -> bytes:
    """The bytes of strict base64; raises ValueError for anything else."""
    pieces = []
    for start in range(0, len(text), _PIECE_CHARACTERS):
        piece = binascii.a2b_base64(text[start : start + _PIECE_CHARACTERS], strict_mode=True)
        if start + _PIECE_CHARACTERS < len(text) and len(piece) != _PIECE_BYTES:
            raise ValueError("base64 is padded before its end")
        pieces.append(piece)
        await asyncio.sleep(0)
    return b"".join(pieces)
