"""How a value crosses between the gateway and a worker: a small head, and long bytes beside it.

A message is a 4-byte length (big-endian), the head of that length, and the segments. The head is
msgpack: the lengths of the segments, and the value, in which every `bytes` of more than
`_INLINE_BYTES_MAX` is replaced by the number of its segment. So pixels are neither copied into
one large buffer nor out of one, and each piece that is written or read is short.

Both ends use this module, and both bound what they read: the gateway trusts a worker as little as
the bytes that it decodes.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

HEAD_BYTES_MAX: Final = 1 << 20
"""Everything of a value but its long bytes."""
SEGMENTS_MAX: Final = 4096
PREFIX: Final = struct.Struct("!I")
_INLINE_BYTES_MAX: Final = 4096
_SEGMENT: Final = 1
"""The type of the msgpack extension that stands for a segment."""
_NUMBER: Final = struct.Struct("!H")

Message = tuple[bytes, list[bytes]]
"""The head with its length, and the segments."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    lengths: list[int]
    value: msgspec.Raw


_encoder: Final = msgspec.msgpack.Encoder()
_head_decoder: Final = msgspec.msgpack.Decoder(_Head)


class Malformed(ValueError):
    """What was read is not a message within its bounds."""


def pack(value: Any, bytes_max: int) -> Message:
    """`value` as a message; raises ValueError or TypeError where it cannot cross.

    It may hold None, bool, int, float, str, bytes, and lists, tuples and dicts of such.
    """
    segments: list[bytes] = []
    inner = _encoder.encode(_without_long_bytes(value, segments))
    head = _encoder.encode(_Head([len(segment) for segment in segments], msgspec.Raw(inner)))
    if len(head) > HEAD_BYTES_MAX or len(segments) > SEGMENTS_MAX:
        raise ValueError("a value for a worker has more structure than may cross")
    if len(head) + sum(map(len, segments)) > bytes_max:
        raise ValueError(f"a value for a worker is larger than {bytes_max} bytes")
    return PREFIX.pack(len(head)) + head, segments


def segment_lengths(head: bytes, bytes_max: int) -> list[int]:
    """How long the segments are that follow this head; raises Malformed."""
    lengths = _decode_head(head).lengths
    if len(lengths) > SEGMENTS_MAX or any(length < 0 for length in lengths):
        raise Malformed("the head of a message announces impossible segments")
    if len(head) + sum(lengths) > bytes_max:
        raise Malformed(f"a message is larger than {bytes_max} bytes")
    return lengths


def unpack(head: bytes, segments: list[bytes]) -> Any:
    """The value of a message; raises Malformed."""

    def segment(code: int, data: memoryview) -> bytes:
        if code != _SEGMENT:
            raise Malformed("the value of a message holds an unknown extension")
        try:
            (number,) = _NUMBER.unpack(data)
            return segments[int(number)]
        except (struct.error, IndexError):
            raise Malformed("the value of a message names no segment") from None

    decoder = msgspec.msgpack.Decoder(Any, ext_hook=segment)
    try:
        return decoder.decode(_decode_head(head).value)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Malformed("the value of a message is not msgpack") from None


def _decode_head(head: bytes) -> _Head:
    try:
        return _head_decoder.decode(head)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Malformed("the head of a message is not msgpack") from None


def _without_long_bytes(value: Any, segments: list[bytes]) -> Any:
    match value:
        case bytes() if len(value) > _INLINE_BYTES_MAX:
            segments.append(value)
            return msgspec.msgpack.Ext(_SEGMENT, _NUMBER.pack(len(segments) - 1))
        case dict():
            return {key: _without_long_bytes(item, segments) for key, item in value.items()}
        case list() | tuple():
            return [_without_long_bytes(item, segments) for item in value]
    return value
