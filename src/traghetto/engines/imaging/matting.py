"""Cutting the foreground out with a network, in a worker process."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from PIL import Image

from traghetto.engines.image_protocols import BackgroundCall
from traghetto.engines.imaging.canvas import Size, encode, flatten, open_picture
from traghetto.engines.imaging.composing import inside
from traghetto.engines.imaging.networks import (
    Network,
    NetworkFile,
    Pixels,
    check_range,
    network,
    probe,
    unfit,
)
from traghetto.engines.imaging.work import FRUITLESS
from traghetto.workers.task import Refusal

_SIDE_PIXELS_MAX: Final = 1024
"""Of what a network sees that takes any size; more is beyond what these were trained with."""
_ALIGNMENT_PIXELS: Final = 32
_PROBE_SIDE_PIXELS: Final = 256
_NOTHING: Final = 0.02
"""A matte that is nowhere above shows no foreground."""


class Matting(msgspec.Struct, frozen=True):
    """A call, and the network that is to do it."""

    network: NetworkFile
    call: BackgroundCall


def inspect(payload: dict[str, Any]) -> None:
    """Task: raises Refusal unless the network of a `NetworkFile` answers pictures with mattes."""
    loaded = network(msgspec.convert(payload, NetworkFile))
    matte = probe(loaded, _PROBE_SIDE_PIXELS)[0]
    if matte.ndim < 3 or matte.size != matte.shape[-1] * matte.shape[-2]:
        raise unfit("its first output is not a matte of shape (1, 1, height, width)")
    check_range(matte)


def cut_out(payload: dict[str, Any]) -> bytes:
    """Task: a `Matting` in plain values becomes a PNG with alpha, in the size of the picture."""
    wanted = msgspec.convert(payload, Matting)
    loaded = network(wanted.network)
    image = open_picture(wanted.call.picture)
    seen = flatten(image).resize(_size(loaded, image.size), Image.Resampling.BILINEAR)
    pixels = np.asarray(seen if loaded.channels == 3 else seen.convert("L"), np.float32) / 255
    matte = np.squeeze(loaded.run(pixels.reshape(*pixels.shape[:2], loaded.channels))[0])
    if matte.ndim != 2 or not np.all(np.isfinite(matte)) or float(matte.max()) < _NOTHING:
        raise Refusal(FRUITLESS, "the network finds no foreground in the picture")
    alpha = _in_size(matte, image.size)
    cut = image.convert("RGBA")
    if image.mode == "RGBA":
        own = np.asarray(image.getchannel("A"))
        alpha = Image.fromarray(np.minimum(np.asarray(alpha), own))
    cut.putalpha(alpha)
    return encode(cut, "png")


def _size(loaded: Network, size: Size) -> Size:
    """What `loaded` is to see: its fixed size, or at most so much, in the picture's proportions."""
    side = _SIDE_PIXELS_MAX
    width, height = inside(size, (side, side)) if max(size) > side else size
    step = _ALIGNMENT_PIXELS
    return (
        loaded.width or -(-width // step) * step,
        loaded.height or -(-height // step) * step,
    )


def _in_size(matte: Pixels, size: Size) -> Image.Image:
    levels = np.rint(np.clip(matte, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)
