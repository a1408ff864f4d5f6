"""Measuring pixels, and calling the tasks of image engines as a worker would."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import msgspec
from PIL import Image, ImageChops, ImageStat

Task = Callable[[Any], Any]


def done(task: Task, payload: Any) -> Any:
    """What `task` makes of `payload` after it has crossed to a worker and back."""
    plain = msgspec.to_builtins(payload, builtin_types=(bytes,))
    crossed = msgspec.msgpack.decode(msgspec.msgpack.encode(plain))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(task(crossed)))


def decoded(data: bytes) -> Image.Image:
    """The image in `data`, read whole; its `format` says what the bytes are."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def means(image: Image.Image) -> list[float]:
    """The mean of every channel."""
    return ImageStat.Stat(image).mean


def deviation(image: Image.Image) -> float:
    """How uneven the brightness of an image is: the standard deviation of its levels."""
    return ImageStat.Stat(image.convert("L")).stddev[0]


def psnr(image: Image.Image, other: Image.Image) -> float:
    """How alike two images are, in decibels."""
    difference = ImageStat.Stat(ImageChops.difference(image, other))
    error = sum(difference.sum2) / (image.width * image.height * len(difference.sum2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def largest_difference(image: Image.Image, other: Image.Image) -> int:
    """The most by which a channel of a pixel differs."""
    return max(high for _, high in ImageStat.Stat(ImageChops.difference(image, other)).extrema)
