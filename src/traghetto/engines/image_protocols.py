"""What the pipeline needs of an image engine: four small Protocols, and the values that cross them.

As with text, an adapter makes *one attempt* on *one backend* and raises nothing but
`EngineFailure`; retries, deadlines, health and breakers are the pool's. Backends get bytes, never
URLs. What they answer is untrusted unless it says that it is our own.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Literal, Protocol

import msgspec

from traghetto.engines.protocols import BackendModel
from traghetto.wire.image_format import ImageFormat

PRINCIPAL: Final[ContextVar[str]] = ContextVar("principal", default="")
"""The account for which a call is carried out, set by the pool. No backend is told; engines of our
own let accounts take turns where tasks wait."""


class Picture(msgspec.Struct, frozen=True):
    """An image that was decoded whole and is in its normal form.

    One frame, upright, 8 bits per channel, grey, RGB or RGBA, without metadata that matters.
    """

    data: bytes
    """The encoded image."""
    format: ImageFormat
    width: int
    """In pixels."""
    height: int
    has_alpha: bool

    def __repr__(self) -> str:
        """Without the bytes."""
        return f"Picture({self.format}, {self.width} x {self.height})"


class Reference(msgspec.Struct, frozen=True):
    """An image whose style a generated one follows, with `strength` of it, 0.1 to 1."""

    picture: Picture
    strength: float


class EngineImage(msgspec.Struct, frozen=True):
    """One image that an engine made."""

    data: bytes
    """An encoded image, of any format that the gateway reads."""
    is_own: bool = False
    """Whether one of our workers encoded it, in the format asked for: it can be sent as it is."""

    def __repr__(self) -> str:
        """Without the bytes."""
        return f"EngineImage({len(self.data)} bytes)"


class GenerateCall(msgspec.Struct, frozen=True, kw_only=True):
    """Images wanted of a description. None leaves a choice to the engine."""

    request_id: str
    prompt: str
    negative_prompt: str = ""
    width: int
    """In pixels, a multiple of what the model asks for."""
    height: int
    count: int = 1
    seed: int | None = None
    """Of the first image; the others have the next ones."""
    steps: int | None = None
    guidance: float | None = None
    """How closely to follow the prompt (`cfg_scale`)."""
    quality: Literal["low", "medium", "high"] | None = None
    references: tuple[Reference, ...] = ()
    format: ImageFormat = "png"
    """A wish; engines that cannot choose answer in another."""


class EditCall(msgspec.Struct, frozen=True, kw_only=True):
    """A change wanted of one image, or of several that are combined."""

    request_id: str
    prompt: str
    pictures: tuple[Picture, ...]
    """The first one is changed; the others are material for it."""
    width: int | None = None
    """Size wanted, in pixels; None keeps that of the first picture."""
    height: int | None = None
    quality: Literal["low", "medium", "high"] | None = None
    format: ImageFormat = "png"


class UpscaleCall(msgspec.Struct, frozen=True, kw_only=True):
    """A larger version wanted of an image."""

    request_id: str
    picture: Picture
    width: int
    """Size wanted, in pixels: at least that of the picture, and in its proportions."""
    height: int
    creativity: float = 0.01
    """How much detail may be invented, 0 to 0.02."""
    format: ImageFormat = "png"


class BackgroundCall(msgspec.Struct, frozen=True, kw_only=True):
    """The foreground of an image wanted, on transparent ground."""

    request_id: str
    picture: Picture


ImageCall = GenerateCall | EditCall | UpscaleCall | BackgroundCall


class ImageBackend(Protocol):
    """What every image backend has; each also fulfils one or more of the Protocols below."""

    @property
    def name(self) -> str:
        """How logs, metrics and health name it, such as `gpu-1` or `simulator`."""
        ...

    async def models(self) -> list[BackendModel]:
        """What the backend serves now; also its health check. Raises EngineFailure."""
        ...

    async def aclose(self) -> None:
        """Release connections and files."""
        ...


class ImageGenerator(ImageBackend, Protocol):
    """Makes images of descriptions."""

    async def generate(self, call: GenerateCall) -> list[EngineImage]:
        """As many images as asked for; raises EngineFailure."""
        ...


class ImageEditor(ImageBackend, Protocol):
    """Changes images as a prompt says."""

    async def edit(self, call: EditCall) -> EngineImage:
        """The changed image; raises EngineFailure."""
        ...


class ImageUpscaler(ImageBackend, Protocol):
    """Enlarges images."""

    async def upscale(self, call: UpscaleCall) -> EngineImage:
        """The image in the size asked for; raises EngineFailure."""
        ...


class BackgroundRemover(ImageBackend, Protocol):
    """Cuts the foreground of images out."""

    async def remove_background(self, call: BackgroundCall) -> EngineImage:
        """A PNG with alpha, in the size of the picture; raises EngineFailure."""
        ...
