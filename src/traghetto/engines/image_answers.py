"""What image backends answer, bounded and looked at before anything decodes it.

Invariant: what leaves here is no larger than `IMAGE_BYTES_MAX`; whether it can be decoded is for
the workers that decode it.
"""

from __future__ import annotations

from typing import Any, Final

from traghetto.bounds import MADE_FILE_BYTES_MAX
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_protocols import EngineImage
from traghetto.wire.base64_text import base64_decoded
from traghetto.wire.image_files import sniff

IMAGE_BYTES_MAX: Final = MADE_FILE_BYTES_MAX
"""The largest encoded image that is taken from a backend."""
JSON_IMAGES_BYTES_MAX: Final = 128 << 20
"""The largest JSON answer with images in it, in base64: one of the largest, or many usual ones."""
SEEDS: Final = 1 << 32
"""Backends disagree about negative and large seeds; all take those below this number."""


def checked_image(image: EngineImage) -> EngineImage:
    """`image`; raises EngineFailure UNUSABLE if it is too large, BROKEN if it is no image."""
    if len(image.data) > IMAGE_BYTES_MAX:
        raise EngineFailure(FailureKind.UNUSABLE, "an image of the answer is too large")
    if sniff(image.data) is None:
        raise EngineFailure(FailureKind.BROKEN, "what the backend calls an image is none")
    return image


async def image_of_base64(text: Any) -> EngineImage:
    """The image in a base64 string or a `data:` URL.

    Raises EngineFailure: UNUSABLE if it is too large, BROKEN for everything else that is no
    base64. A URL that names another place is not followed: who knows where it leads.
    """
    if not isinstance(text, str) or not text:
        raise EngineFailure(FailureKind.BROKEN, "the answer has no image where one should be")
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise EngineFailure(FailureKind.BROKEN, "a data URL of the answer is not base64")
    if len(text) > -(-IMAGE_BYTES_MAX // 3) * 4:
        raise EngineFailure(FailureKind.UNUSABLE, "an image of the answer is too large")
    try:
        return EngineImage(await base64_decoded(text))
    except ValueError as error:
        raise EngineFailure(FailureKind.BROKEN, "an image of the answer is not base64") from error


def inert_prompt(text: str) -> str:
    """`text` without the tag by which stable-diffusion.cpp takes parameters from a prompt.

    They would get past every bound and price of ours, whichever of its APIs is asked.
    """
    return text.replace("sd_cpp_extra_args", "sd_cpp extra args")


def backend_seed(seed: int) -> int:
    """A caller's seed, which may be negative, as every backend takes it; equal ones stay equal."""
    return seed % SEEDS
