"""The classical editor's task: read the prompt, compose, follow the instructions, fit the size."""

from __future__ import annotations

from typing import Any

import msgspec
from PIL import Image

from traghetto.bounds import MADE_PIXELS_MAX
from traghetto.engines.image_protocols import EditCall, Picture
from traghetto.engines.imaging.canvas import check_size, encode, open_picture, shrunk
from traghetto.engines.imaging.composing import compose, cover, pad
from traghetto.engines.imaging.instructions import NotUnderstood, parse
from traghetto.engines.imaging.verbs import apply
from traghetto.engines.imaging.vocabulary import COMPOSING
from traghetto.engines.imaging.work import PROMPT
from traghetto.workers.task import Refusal


def edit(payload: dict[str, Any]) -> bytes:
    """Task: an `EditCall` in plain values becomes the encoded, changed image.

    Several pictures are composed first, side by side or in a grid unless the prompt says how;
    then the instructions follow in the order of the prompt. A size asked for is filled: a single
    picture is cropped around its middle, a composition padded with white so that nothing of it is
    lost. Without one, the size is what the instructions leave of the first picture's.
    """
    call = msgspec.convert(payload, EditCall)
    try:
        instructions = parse(call.prompt)
    except NotUnderstood as error:
        raise Refusal(PROMPT, str(error)) from error
    composing = [each.verb for each in instructions if each.verb in COMPOSING]
    changing = [each for each in instructions if each.verb not in COMPOSING]
    several = len(call.pictures) > 1
    if composing and not several and not changing:
        raise Refusal(PROMPT, "the prompt wants pictures composed, and there is only one")
    if several:
        # Ten pictures in full size would not fit into a worker, nor their composition in an answer.
        images = [shrunk(_opened(picture), MADE_PIXELS_MAX) for picture in call.pictures]
        image = compose(images, _layout(composing))
        del images
    else:
        image = _opened(call.pictures[0])
    for instruction in changing:
        image = apply(image, instruction)
    return encode(_sized(image, call, is_composed=several), call.format)


def _layout(composing: list[str]) -> str:
    """The most telling of the composing verbs: `combine them in a grid` means a grid."""
    return next((verb for verb in composing if verb != "combine"), "combine")


def _opened(picture: Picture) -> Image.Image:
    """RGB or RGBA."""
    image = open_picture(picture)
    return image.convert("RGB") if image.mode == "L" else image


def _sized(image: Image.Image, call: EditCall, *, is_composed: bool) -> Image.Image:
    """`image` in the size that `call` asks for; a missing side follows from the proportions."""
    if call.width is None and call.height is None:
        return shrunk(image, MADE_PIXELS_MAX)
    width = call.width or round(image.width * (call.height or 0) / image.height)
    height = call.height or round(image.height * width / image.width)
    size = check_size((width, height))
    if size == image.size:
        return image
    return pad(image, size) if is_composed else cover(image, size)
