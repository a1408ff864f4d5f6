"""Base64 in pieces: the same as in one go, and as strict."""

from __future__ import annotations

import asyncio
import base64
import json

import msgspec
import pytest

from traghetto.wire import base64_text
from traghetto.wire.base64_text import base64_decoded, base64_json, base64_pieces

PIECE = 12


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64_text, "_PIECE_BYTES", PIECE)
    monkeypatch.setattr(base64_text, "_PIECE_CHARACTERS", PIECE // 3 * 4)


@pytest.mark.parametrize("size", [0, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE, 1000])
def test_pieces_join_to_the_whole(size: int) -> None:
    """Padding stands at the end alone."""
    data = bytes(range(256)) * 4
    data = data[:size]

    async def through() -> tuple[bytes, bytes, bytes]:
        encoded = b"".join([piece async for piece in base64_pieces(data)])
        document = msgspec.json.encode({"a": await base64_json(data, b"data:,")})
        return encoded, document, await base64_decoded(encoded.decode())

    encoded, document, decoded = asyncio.run(through())
    assert encoded == base64.b64encode(data)
    assert json.loads(document) == {"a": "data:," + encoded.decode()}
    assert decoded == data


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AB",
        "AB=",
        "A===",
        "AB==AAAA",
        "AAAAAAAAAAAAAA==" * 2,
        "AA AA",
        "AAA\n",
        "ÄÄÄÄ",
        "AA-_",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    """Wherever the pieces are cut."""
    for around in ("", "A" * PIECE * 4):
        with pytest.raises(ValueError):
            asyncio.run(base64_decoded(around + text))


def test_others_have_turns_between_the_pieces() -> None:
    """A long text does not hold the loop."""

    async def test() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await base64_json(bytes(PIECE * 50))
        await base64_decoded("AAAA" * PIECE * 20)
        counting.cancel()
        return turns

    assert asyncio.run(test()) > 100
