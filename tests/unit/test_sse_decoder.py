"""The SSE decoder: the event-stream rules, whatever way the network cuts the bytes."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traghetto.wire.sse import EVENT_BYTES_MAX, LINE_BYTES_MAX, SseDecoder, SseNotUtf8, SseTooLarge


def decode_by_lines(stream: bytes) -> tuple[list[bytes], bytes | None, bool]:
    """The standard's algorithm, line by line, over the whole stream at once."""
    text = stream.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\r|\n", text)
    payloads: list[bytes] = []
    data: list[bytes] = []
    event = b""
    pending = False
    for line in lines[:-1]:
        if not line:
            if data and event == b"error":
                return payloads, b"\n".join(data), False
            if data:
                payloads.append(b"\n".join(data))
            data, event, pending = [], b"", False
            continue
        pending = True
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            event = value
    return payloads, None, pending or bool(lines[-1])


def feed_in_pieces(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes | None, bool]:
    decoder = SseDecoder()
    payloads: list[bytes] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        payloads += decoder.feed(stream[start:end])
        if decoder.error is not None:
            return payloads, decoder.error, False
    return payloads, None, decoder.finish()


def feed_often(decoder: SseDecoder, piece: bytes, times: int) -> None:
    for _ in range(times):
        decoder.feed(piece)


pieces = st.sampled_from(
    [
        b"data: {}",
        b"data:x",
        b"data",
        b"data: ",
        b"data:  y",
        b": ping",
        b"event: error",
        b"event:other",
        b"id: 1",
        b"retry: 5",
        b"datax: no",
        "data: é中😀".encode(),
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\n\n",
        b"\xef\xbb\xbf",
    ]
)


@settings(max_examples=600, deadline=None)
@given(st.lists(pieces, max_size=24).map(b"".join), st.lists(st.integers(0, 400), max_size=8))
def test_the_decoder_agrees_with_the_standard_for_any_chunking(
    stream: bytes, cuts: list[int]
) -> None:
    """Payloads, error events and the verdict on the end equal the line-by-line algorithm's."""
    assert feed_in_pieces(stream, cuts) == decode_by_lines(stream)


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=16).map(b"".join))
def test_the_decoder_survives_one_byte_at_a_time(stream: bytes) -> None:
    """Every byte may arrive alone."""
    assert feed_in_pieces(stream, list(range(len(stream)))) == decode_by_lines(stream)


def test_several_events_in_one_read_come_in_order() -> None:
    """A read that holds several events yields all of them."""
    assert SseDecoder().feed(b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: [DONE]\n\n') == [
        b'{"a":1}',
        b'{"b":2}',
        b"[DONE]",
    ]


def test_an_error_event_is_noticed_and_ends_the_stream() -> None:
    """`event: error` is kept apart from payloads, and nothing after it counts."""
    decoder = SseDecoder()
    assert decoder.feed(b'data: 1\n\nevent: error\ndata: {"error":"x"}\n\ndata: 2\n\n') == [b"1"]
    assert decoder.error == b'{"error":"x"}'
    assert decoder.feed(b"data: 3\n\n") == []


def test_an_unfinished_event_is_lost_and_said_so() -> None:
    """`finish` tells that the stream ended inside an event."""
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\n\ndata: 2\n") == [b"1"]
    assert decoder.finish()


def test_text_that_is_not_utf8_is_refused_across_chunk_edges() -> None:
    """A character may be cut in two, but the halves must fit."""
    decoder = SseDecoder()
    assert decoder.feed(b"data: \xe4\xb8") == []
    assert decoder.feed(b"\xad\n\n") == ["\u4e2d".encode()]
    assert decoder.feed(b"data: \xe4\xb8") == []
    with pytest.raises(SseNotUtf8):
        decoder.feed(b"x\n\n")


def test_a_long_line_is_refused_as_it_arrives() -> None:
    """A line past its limit is refused whether it comes in pieces or at once."""
    decoder = SseDecoder()
    piece = b"x" * 65536
    decoder.feed(b"data: ")
    with pytest.raises(SseTooLarge):
        feed_often(decoder, piece, LINE_BYTES_MAX // len(piece) + 1)
    with pytest.raises(SseTooLarge):
        SseDecoder().feed(b"data: " + b"x" * LINE_BYTES_MAX + b"\n\n")


def test_a_long_event_is_refused_as_it_arrives() -> None:
    """An event of many short lines is bounded too."""
    decoder = SseDecoder()
    piece = b"data: " + b"x" * 65530 + b"\n"
    with pytest.raises(SseTooLarge):
        feed_often(decoder, piece, EVENT_BYTES_MAX // len(piece) + 2)


def test_a_large_but_allowed_event_passes() -> None:
    """A line just below its limit, in network-sized pieces, arrives whole."""
    decoder = SseDecoder()
    payload = b"x" * (LINE_BYTES_MAX - 6)
    stream = b"data: " + payload + b"\n\n"
    got = [p for i in range(0, len(stream), 4096) for p in decoder.feed(stream[i : i + 4096])]
    assert got == [payload]
