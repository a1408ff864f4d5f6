"""A request body with images in it, sent without ever being whole in memory.

A chat with ten images can be hundreds of megabytes of JSON. Its text is short, its images are held
once as the bytes they are, and their base64 is made piece by piece while the socket takes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from traghetto.engines.image_protocols import Picture
from traghetto.wire.base64_text import base64_pieces


class BodyInPieces:
    """Text and pictures in turns, as bytes; can be iterated over as often as it has to be sent."""

    def __init__(self, pieces: Sequence[bytes | Picture]) -> None:
        self._pieces = pieces
        self.size: Final = sum(map(_size_of, pieces))
        """In bytes, base64 included: the length of the request."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
                continue
            async for part in base64_pieces(piece.data):
                yield part


def _size_of(piece: bytes | Picture) -> int:
    return len(piece) if isinstance(piece, bytes) else -(-len(piece.data) // 3) * 4
