"""Cutting a picture into windows that overlap, so that a network sees a bounded part at a time.

Only the core of a window's result is used; around it lies a halo in which the network may see
what is not there. Where a picture ends, windows end with it: there the network pads as it would
for the whole, so that tiled and whole results are the same if the halo is as wide as it sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """A window along one side: where it starts, and from where to where its core lies."""

    start: int
    core_start: int
    core_end: int


class Window(NamedTuple):
    """A window of a picture, along both sides."""

    across: Span
    down: Span


def spans(length: int, window: int, halo: int) -> list[Span]:
    """Windows of `window` pixels along `length`, whose cores cover it without overlapping."""
    if length <= window:
        return [Span(0, 0, length)]
    step = window - 2 * halo
    assert step > 0
    found = [Span(0, 0, window - halo)]
    while found[-1].core_end < length:
        begin = found[-1].core_end
        start = min(begin - halo, length - window)
        end = length if start == length - window else begin + step
        found.append(Span(start, begin, end))
    return found


def windows(size: tuple[int, int], window: tuple[int, int], halo: int) -> Iterator[Window]:
    """The windows of a picture of `size`, row by row; sizes are width and height."""
    columns = spans(size[0], window[0], halo)
    for down in spans(size[1], window[1], halo):
        for across in columns:
            yield Window(across, down)
