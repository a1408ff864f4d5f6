"""A request for images, ready to be done: what an engine is asked, what it costs, how it ends."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from traghetto.engines.image_protocols import ImageCall
from traghetto.pipeline.images.prices import PricedUnits, total_nano_usd
from traghetto.wire.image_format import ImageFormat
from traghetto.wire.sizes import Size

AnswerForm = Literal["images", "binary", "b64_json", "url"]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What one request wants done, made of its body, its images and its model."""

    call: ImageCall
    lines: tuple[PricedUnits, ...]
    """What it costs, all images together."""
    images: int = 1
    """How many are made."""
    format: ImageFormat
    """Of the answer."""
    size: Size | None = None
    """Of each image of the answer; None takes what the engine gives."""
    has_alpha: bool = False
    """Whether the answer must be able to be transparent."""
    answer: AnswerForm = "binary"
    safe_mode: bool = False
    """Whether adult content is blurred."""
    enhance: bool = False
    """Whether the prompt may be rewritten."""
    rewriting: PricedUnits | None = None
    """What a better prompt costs, where one is wanted and can be had."""
    rewritten_prompt: str | None = None
    """The better prompt, once it is used."""
    blanks_violations: bool = False
    """Whether forbidden content is answered with a black image, and not with an error (A.2, 27)."""
    charges_refused: bool = False
    """Whether it is paid for although our policy forbids what its provider has made (A.2, 27)."""
    metadata: dict[str, Any] | None = None
    """What an image says of its making; None for nothing."""
    echo: dict[str, Any] | None = None
    """The parameters in effect, which an answer in JSON repeats."""

    @property
    def prompt(self) -> str:
        """What was asked for in words; empty for work that takes none."""
        return getattr(self.call, "prompt", "")

    @property
    def nano_usd(self) -> int:
        """The most that all of it costs."""
        rewriting = 0 if self.rewriting is None else self.rewriting.nano_usd
        return total_nano_usd(self.lines) + rewriting

    def with_rewriting(self, price: PricedUnits) -> Work:
        """The same, with a better prompt at that price if one comes about."""
        return msgspec.structs.replace(self, rewriting=price)

    def with_prompt(self, prompt: str) -> Work:
        """The same in better words."""
        call = msgspec.structs.replace(self.call, prompt=prompt)
        return msgspec.structs.replace(self, call=call, rewritten_prompt=prompt)
