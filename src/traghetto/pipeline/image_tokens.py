"""What an image costs in tokens, as far as that can be known before a model has read it.

Every encoder counts in its own way, and only its server knows which one it runs. Two numbers are
made of an image's size: a bound, which sizes holds and decides what usage is believed, and an
estimate, which is charged where a backend reports no usage. The bound is above what these count:

- encoders that cut an image into tiles of a fixed size, however small it is: LLaVA-OneVision (ten
  tiles of 729 and the ends of rows), Llama 3.2 (four of 1,601), InternVL (13 of 256), LLaVA 1.6
  (five of 576), Gemma 3 (five of 256), Llama 4, SmolVLM, GPT-4o and GPT-5 (eight of 170);
- encoders that keep its size: Qwen2-VL to Qwen3-VL and Mistral Small (one token for 28 x 28 pixels
  or more, at most 16,384), Pixtral (one for 16 x 16, at most 4,160), Claude (one for 750 pixels).

It is below what GPT-4o mini is billed, 2,833 and 5,667 for each tile: that is a price and no count.
A model's entry can name the most that its encoder makes of an image (`image_tokens_max`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from traghetto.engines.image_protocols import Picture

TILED_TOKENS_MAX: Final = 7_424
"""What the greediest encoder of tiles makes of any image."""
TOKENS_MAX: Final = 16_448
"""What the greediest encoder of patches makes of a large image, with what stands around it."""
PATCH_SIDE_PIXELS: Final = 28
AROUND_TOKENS: Final = 64
"""Marks at the beginning and the end of an image, and of its rows."""
ESTIMATED_TOKENS_MAX: Final = 1_600
"""Most encoders shrink an image to less than that; estimates favour the caller."""


class ImageTokens(msgspec.Struct, frozen=True):
    """Tokens of the images of a request, together."""

    bound: int = 0
    estimate: int = 0


NO_IMAGES: Final = ImageTokens()


def image_tokens(
    pictures: Sequence[Picture], tokens_max: int | None, context_tokens: int | None
) -> ImageTokens:
    """What `pictures` can cost, and what they probably do.

    `tokens_max` is for one image, by the model's entry; no prompt is longer than the context.
    """
    one_max = TOKENS_MAX if tokens_max is None else tokens_max
    bound = estimate = 0
    for picture in pictures:
        patches = -(-picture.width // PATCH_SIDE_PIXELS) * -(-picture.height // PATCH_SIDE_PIXELS)
        bound += min(max(patches + AROUND_TOKENS, TILED_TOKENS_MAX), one_max)
        estimate += min(patches, ESTIMATED_TOKENS_MAX, one_max)
    if context_tokens is not None:
        bound, estimate = min(bound, context_tokens), min(estimate, context_tokens)
    return ImageTokens(bound, estimate)
