"""Images in a chat body: found, described and encoded where they stand."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from traghetto.engines.chat_pictures import described, encoded_pieces, pictures_of
from traghetto.engines.image_protocols import Picture
from traghetto.engines.openai.bodies import BodyInPieces
from traghetto.engines.protocols import ChatCall
from traghetto.engines.stream import evidence_of_chat

PICTURES = st.builds(
    Picture,
    st.binary(max_size=40),
    st.sampled_from(["png", "jpeg", "webp"]),
    st.integers(64, 999),
    st.integers(64, 999),
    st.booleans(),
)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=10)),
    st.builds(lambda p: {"type": "image_url", "image_url": {"url": p}}, PICTURES),
)
MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, st.text(max_size=10)),
    st.builds(lambda parts: {"role": "user", "content": parts}, st.lists(PARTS, max_size=4)),
    st.builds(lambda parts: {"content": parts}, st.lists(PARTS, max_size=4)),
    st.just({"role": "assistant", "content": None, "tool_calls": []}),
)
BODIES = st.builds(
    lambda messages, rest: {"messages": messages, **rest},
    st.lists(MESSAGES, max_size=4),
    st.dictionaries(st.sampled_from(["model", "stream", "stop"]), st.text(max_size=5)),
)


def data_url(picture: Picture) -> str:
    return f"data:image/{picture.format};base64,{base64.b64encode(picture.data).decode()}"


def with_data_urls(value: Any) -> Any:
    """What an engine is to be sent, made in the simplest way."""
    if isinstance(value, Picture):
        return data_url(value)
    if isinstance(value, dict):
        return {key: with_data_urls(member) for key, member in value.items()}
    return [with_data_urls(member) for member in value] if isinstance(value, list) else value


async def joined(body: BodyInPieces) -> bytes:
    return b"".join([piece async for piece in body])


@given(BODIES)
def test_a_body_in_pieces_is_the_body(body: dict[str, Any]) -> None:
    """Every member in its place, every picture as a data URL, and the length told beforehand."""
    pieces = BodyInPieces(encoded_pieces(body))
    sent = asyncio.run(joined(pieces))
    assert json.loads(sent) == with_data_urls(body)
    assert len(sent) == pieces.size
    assert asyncio.run(joined(pieces)) == sent, "a retry sends it again"


def test_a_picture_of_several_pieces_is_one_base64() -> None:
    """The pieces of a large image meet without padding between them."""
    picture = Picture(bytes(range(256)) * 3000 + b"?", "jpeg", 64, 64, False)
    sent = asyncio.run(joined(BodyInPieces([picture])))
    assert sent == base64.b64encode(picture.data)


@given(BODIES)
def test_a_description_has_no_pixels(body: dict[str, Any]) -> None:
    """It can be encoded, is the body where there are no pictures, and tells pictures apart."""
    pictures = pictures_of(body)
    text = msgspec.json.encode(described(body))
    if not pictures:
        assert described(body) == body
    for picture in pictures:
        assert f"{picture.width}x{picture.height}".encode() in text
    assert described(described(body)) == described(body)


def test_a_description_costs_the_same_for_any_size() -> None:
    """It depends on both ends of a file and on its length, and is short."""

    def text(data: bytes) -> str:
        part = {"type": "image_url", "image_url": {"url": Picture(data, "png", 64, 64, False)}}
        message = described({"messages": [{"content": [part]}]})["messages"][0]
        found: str = message["content"][0]["image_url"]["url"]
        return found

    large = b"a" + bytes(1 << 20) + b"z"
    assert (
        len({text(large), text(b"b" + large[1:]), text(large[:-1] + b"y"), text(large + b"z")}) == 4
    )
    assert len(text(large)) < 60


def test_calls_with_other_images_are_other_evidence() -> None:
    """A breaker tells apart requests that differ in their image alone."""

    def call(data: bytes) -> ChatCall:
        part = {"type": "image_url", "image_url": {"url": Picture(data, "png", 64, 64, False)}}
        body = {"messages": [{"role": "user", "content": [part]}]}
        return ChatCall("r", body, has_pictures=True)

    assert evidence_of_chat(call(b"a"), "p") == evidence_of_chat(call(b"a"), "p")
    assert evidence_of_chat(call(b"a"), "p") != evidence_of_chat(call(b"b"), "p")
