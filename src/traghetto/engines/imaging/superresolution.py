"""Enlarging with a network, window by window, in a worker process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from traghetto.bounds import MADE_PIXELS_MAX
from traghetto.engines.image_protocols import UpscaleCall
from traghetto.engines.imaging.canvas import (
    check_size,
    encode,
    flatten,
    open_picture,
    shrunk,
)
from traghetto.engines.imaging.networks import (
    Network,
    NetworkFile,
    check_range,
    network,
    probe,
    unfit,
)
from traghetto.engines.imaging.tiles import windows
from traghetto.engines.imaging.upscaling import enlarge

_WINDOW_SIDE_PIXELS: Final = 256
_HALO_PIXELS: Final = 16
_ALIGNMENT_PIXELS: Final = 8
"""Many networks halve their input a few times; sizes are multiples of this."""
_PROBE_SIDE_PIXELS: Final = 64
_FACTOR_MAX: Final = 8
_ANSWER_PIXELS_MAX: Final = 2 * MADE_PIXELS_MAX
"""Of a network, for the whole picture; larger pictures are shrunk first."""


class Upscaling(msgspec.Struct, frozen=True):
    """A call, and the network that is to do it."""

    network: NetworkFile
    call: UpscaleCall


def inspect(payload: dict[str, Any]) -> int:
    """Task: by what factor the network of a `NetworkFile` enlarges; raises Refusal if by none."""
    return _factor(msgspec.convert(payload, NetworkFile))


def upscale(payload: dict[str, Any]) -> bytes:
    """Task: an `Upscaling` in plain values becomes an encoded image of the size asked for."""
    wanted = msgspec.convert(payload, Upscaling)
    call = wanted.call
    size = check_size((call.width, call.height))
    enlarger, factor = network(wanted.network), _factor(wanted.network)
    image = shrunk(open_picture(call.picture), _ANSWER_PIXELS_MAX // factor**2)
    large = _with_channels_of(image, enlarger, factor)
    if large.size[0] < size[0]:
        large = enlarge(large, size)
    return encode(large.resize(size, Image.Resampling.LANCZOS), call.format)


@lru_cache(maxsize=2)
def _factor(file: NetworkFile) -> int:
    enlarger = network(file)
    answer = probe(enlarger, _PROBE_SIDE_PIXELS)[0]
    if answer.ndim != 4 or answer.shape[1] != enlarger.channels:
        raise unfit("its output is not a picture with the channels of its input")
    check_range(answer)
    height = enlarger.height or _PROBE_SIDE_PIXELS
    width = enlarger.width or _PROBE_SIDE_PIXELS
    factor = int(answer.shape[2] // height)
    if answer.shape[2:] != (factor * height, factor * width) or not 2 <= factor <= _FACTOR_MAX:
        raise unfit(f"it does not enlarge both sides by 2 to {_FACTOR_MAX}")
    return factor


def _with_channels_of(image: Image.Image, enlarger: Network, factor: int) -> Image.Image:
    """`image` enlarged: what the network has no channels for is enlarged without it."""
    size = (image.width * factor, image.height * factor)
    if image.mode == "RGBA":
        colours = _with_channels_of(_bled(image), enlarger, factor).convert("RGB")
        colours.putalpha(enlarge(image.getchannel("A"), size))
        return colours
    if enlarger.channels == 3:
        large = Image.fromarray(whole(enlarger, np.asarray(image.convert("RGB")), factor))
        return large.convert(image.mode)
    if image.mode == "L":
        return Image.fromarray(whole(enlarger, np.asarray(image)[:, :, None], factor)[:, :, 0])
    brightness, *hues = image.convert("YCbCr").split()
    large = Image.fromarray(whole(enlarger, np.asarray(brightness)[:, :, None], factor)[:, :, 0])
    hues = [hue.resize(size, Image.Resampling.LANCZOS) for hue in hues]
    return Image.merge("YCbCr", (large, *hues)).convert("RGB")


def _bled(image: Image.Image) -> Image.Image:
    """The colours of an RGBA image, also where it is transparent: those of what is seen nearby."""
    near = image.convert("RGBa").filter(ImageFilter.BoxBlur(6)).convert("RGBA")
    near.putalpha(near.getchannel("A").point([0] + [255] * 255))
    far = flatten(near, (128, 128, 128))
    far.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return far


def whole(enlarger: Network, pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    """All of `pixels` (height, width, channels; uint8), `factor` times as large."""
    height, width = pixels.shape[:2]
    window = (
        enlarger.width or _WINDOW_SIDE_PIXELS,
        enlarger.height or _WINDOW_SIDE_PIXELS,
    )
    halo = min(_HALO_PIXELS, min(window) // 8)
    below, beside = -height % _ALIGNMENT_PIXELS, -width % _ALIGNMENT_PIXELS
    below = max(below, (enlarger.height or 0) - height)
    beside = max(beside, (enlarger.width or 0) - width)
    padded = np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge")
    result = np.empty(
        (padded.shape[0] * factor, padded.shape[1] * factor, pixels.shape[2]), np.uint8
    )
    for across, down in windows((padded.shape[1], padded.shape[0]), window, halo):
        part = padded[
            down.start : down.start + window[1], across.start : across.start + window[0]
        ].astype(np.float32)
        answer = enlarger.run(part / 255)[0][0].transpose(1, 2, 0)
        core = answer[
            (down.core_start - down.start) * factor : (down.core_end - down.start) * factor,
            (across.core_start - across.start) * factor : (across.core_end - across.start) * factor,
        ]
        result[
            down.core_start * factor : down.core_end * factor,
            across.core_start * factor : across.core_end * factor,
        ] = np.rint(np.clip(core, 0, 1) * 255)
    return result[: height * factor, : width * factor]
