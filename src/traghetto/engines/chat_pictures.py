"""The images in the body of a chat call: where they stand, and how they are spoken of and sent.

In a `ChatCall` an image part is `{"type": "image_url", "image_url": {"url": picture}}`, and what
stands in the place of the URL is a `Picture`. An engine that speaks JSON gets it as a data URL
(`encoded_pieces`); what is compared or hashed is a body that describes it (`described`), because
megabytes of pixels would hold the event loop.

Invariant: nothing here makes the base64 of a whole image, or a copy of its bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from traghetto.engines.image_protocols import Picture

_END_BYTES: Final = 64 * 1024
"""How much of an image's beginning and of its end its description depends on."""
_encode: Final = msgspec.json.Encoder().encode

Body = dict[str, Any]


def pictures_of(body: Body) -> list[Picture]:
    """The pictures in the order of the messages and of their parts."""
    return [picture for message in body["messages"] for picture in _pictures_in(message)]


def described(body: Body) -> Body:
    """`body` with a short text in place of each picture, which equal pictures have in common.

    It depends on the size of the picture and of its file, and on both ends of the file.
    """
    messages = [
        _with_content(message, [_described_part(part) for part in message["content"]])
        if any(_pictures_in(message))
        else message
        for message in body["messages"]
    ]
    return {**body, "messages": messages}


def encoded_pieces(body: Body) -> list[bytes | Picture]:
    """`body` as JSON text cut where pictures stand: text and pictures take turns, text first.

    The text around a picture has the beginning of its data URL and the quote that ends it, so that
    only its base64 is missing.
    """
    pieces: list[bytes | Picture] = []
    rest = {name: value for name, value in body.items() if name != "messages"}
    text = _object_head(rest) + b'"messages":['
    for number, message in enumerate(body["messages"]):
        text += b"," if number else b""
        if not any(_pictures_in(message)):
            text += _encode(message)
            continue
        around = {name: value for name, value in message.items() if name != "content"}
        text += _object_head(around) + b'"content":['
        for place, part in enumerate(message["content"]):
            text += b"," if place else b""
            picture = _picture_of(part)
            if picture is None:
                text += _encode(part)
                continue
            head = f'{{"type":"image_url","image_url":{{"url":"data:image/{picture.format};base64,'
            pieces += (text + head.encode(), picture)
            text = b'"}}'
        text += b"]}"
    return [*pieces, text + b"]}"]


def _object_head(members: Body) -> bytes:
    """An object with `members`, open for one more."""
    return _encode(members)[:-1] + (b"," if members else b"")


def _pictures_in(message: Body) -> Iterator[Picture]:
    content = message.get("content")
    if type(content) is list:
        for part in content:
            if (picture := _picture_of(part)) is not None:
                yield picture


def _picture_of(part: Body) -> Picture | None:
    if part.get("type") != "image_url":
        return None
    url = part["image_url"]["url"]
    return url if isinstance(url, Picture) else None


def _with_content(message: Body, content: list[Any]) -> Body:
    return {**message, "content": content}


def _described_part(part: Body) -> Body:
    picture = _picture_of(part)
    if picture is None:
        return part
    data = memoryview(picture.data)
    ends = zlib.crc32(data[-_END_BYTES:], zlib.crc32(data[:_END_BYTES]))
    text = f"{picture.format} {picture.width}x{picture.height} {len(data)} bytes {ends:08x}"
    return {"type": "image_url", "image_url": {"url": text}}
