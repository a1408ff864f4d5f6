"""A model as the gateway knows it: what it is, what it costs, who may use it, what serves it.

Invariants: values are immutable; prices are exact integers; nothing here names an engine class
(a `backends` entry says what to build, the composition root builds it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from traghetto.money import FREE, UnitPrice
from traghetto.settings import SimulatorFault, SizeClass, Upstream
from traghetto.wire.capabilities import Capabilities

ModelType = Literal[
    "asr", "embedding", "image", "music", "text", "tts", "upscale", "inpaint", "video"
]
Privacy = Literal["private", "anonymized"]

UNSERVED_CAPABILITIES: Final = frozenset(
    {
        "supportsAudioInput",
        "supportsE2EE",
        "supportsTeeAttestation",
        "supportsVideoInput",
        "supportsWebSearch",
        "supportsXSearch",
        "maxVideos",
    }
)
"""What a model may be able to do, but this gateway does not carry: it must not be advertised."""

USUAL_CAPABILITIES: Final = Capabilities(
    supportsFunctionCalling=True, supportsResponseSchema=True, supportsLogProbs=True
)
"""What a text model does unless somebody says otherwise: llama.cpp, vLLM and their like do so for
any model whose template allows it, and refuse for themselves where it does not."""
SIMULATOR_CAPABILITIES: Final = msgspec.structs.replace(
    USUAL_CAPABILITIES,
    supportsReasoning=True,
    supportsReasoningEffort=True,
    supportsVision=True,
    supportsMultipleImages=True,
)

ImageType = Literal["image", "inpaint", "upscale"]
IMAGE_TYPES: Final[Mapping[ModelType, ImageType]] = {
    "image": "image",
    "inpaint": "inpaint",
    "upscale": "upscale",
}
"""Types whose answers are images."""

SIZE_CLASS_OF_TYPE: Final[Mapping[ModelType, SizeClass]] = {
    "text": "xs",
    "embedding": "embedding",
    "image": "image",
    "inpaint": "image",
    "upscale": "image",
    "asr": "audio",
    "tts": "audio",
    # Jobs have limits per endpoint, none per model (contract C.3.1).
    "music": "none",
    "video": "none",
}


@dataclass(frozen=True, slots=True)
class TextPricing:
    """Prices of tokens, per one million.

    `cache_input` is for prompt tokens that a backend read from its cache, `cache_write` for those
    it wrote there; where an operator sets neither, both equal `input`.
    """

    input: UnitPrice
    output: UnitPrice
    cache_input: UnitPrice
    cache_write: UnitPrice


FREE_TEXT: Final = TextPricing(FREE, FREE, FREE, FREE)


@dataclass(frozen=True, slots=True)
class MediaPricing:
    """Prices of a type that is not charged by text tokens, in the members of contract B.3.

    A leaf of `tree` is a price in nano_usd, or a count where the contract has one
    (`COUNT_MEMBERS`).
    """

    tree: Mapping[str, Any]


FREE_MEDIA: Final[Mapping[str, Mapping[str, Any]]] = {
    "image": {"generation": 0, "upscale": {"2x": 0, "4x": 0}},
    "inpaint": {"inpaint": 0},
    "upscale": {"upscale": {"2x": 0, "4x": 0}},
}

COUNT_MEMBERS: Final = frozenset({"included", "min_seconds", "max_seconds"})
"""Members of a pricing tree that are numbers but no prices."""


@dataclass(frozen=True, slots=True)
class WorkflowFile:
    """A file with a workflow of ComfyUI, and the type of the model that it serves."""

    path: Path
    purpose: ImageType


@dataclass(frozen=True, slots=True)
class UpstreamSource:
    """Served by a server across the network, under the name it has there."""

    upstream: Upstream
    model: str | None
    """None where the server has but one, or is left the choice."""
    workflow: WorkflowFile | None = None
    """Of a ComfyUI: what it is to do."""


@dataclass(frozen=True, slots=True)
class GgufSource:
    """Served in process from a model file."""

    path: Path


@dataclass(frozen=True, slots=True)
class SimulatorSource:
    """Served by the simulator, possibly with a permanent fault, its text paced in seconds."""

    fault: SimulatorFault | None = None
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PixelSource:
    """Served by an image engine of our own, which needs no weights."""

    engine: Literal["classical", "grabcut"]
    fault: SimulatorFault | None = None
    """A permanent fault, as the simulator can have one."""


@dataclass(frozen=True, slots=True)
class OnnxSource:
    """Served by a network for images in an operator's ONNX file."""

    path: Path


BackendSource = UpstreamSource | GgufSource | SimulatorSource | PixelSource | OnnxSource


@dataclass(frozen=True, slots=True)
class Deprecation:
    """The end of a model as the listing announces it; dates are ISO 8601."""

    date: str
    removes_at: str
    auto_remap: bool = False
    replacement_model_id: str | None = None
    starts_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of the catalogue. Deadlines that are None are the settings' own."""

    id: str
    pricing: TextPricing
    """Prices of tokens; not used where there is `media_pricing`."""
    media_pricing: MediaPricing | None = None
    """Prices of a type that is not charged by tokens."""
    type: ModelType = "text"
    name: str = ""
    description: str | None = None
    source: str | None = None
    """Where the weights come from, as a URL; `modelSource` on the wire."""
    created: int = 0
    """Unix seconds."""
    backends: tuple[BackendSource, ...] = ()

    privacy: Privacy = "private"
    pro_only: bool = False
    feature: str | None = None
    """The entitlement an account needs to use it."""
    offline: bool = False
    deprecation: Deprecation | None = None

    context_tokens: int | None = None
    max_completion_tokens: int | None = None
    image_tokens_max: int | None = None
    """What its encoder makes of one image at most, where the operator knows."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    traits: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    spec_members: Mapping[str, Any] = field(default_factory=dict)
    """Further members of `model_spec` that its type has, ready for the wire."""

    size_class: SizeClass = "xs"
    concurrency_max: int | None = None
    queue_max: int = 0
    queue_seconds_max: float = 2.0
    first_event_seconds: float | None = None
    between_events_seconds: float | None = None
    total_seconds: float | None = None

    @property
    def removes_background(self) -> bool:
        """Whether it cuts foregrounds out, and does not edit: such a model has no prompt."""
        return self.type == "inpaint" and any(
            isinstance(source, OnnxSource)
            or (isinstance(source, PixelSource) and source.engine == "grabcut")
            for source in self.backends
        )

    def workflows(self) -> Iterator[WorkflowFile]:
        """The workflows that its backends run."""
        for source in self.backends:
            if isinstance(source, UpstreamSource) and source.workflow is not None:
                yield source.workflow

    def admits(self, model_privacy: str) -> bool:
        """Whether a key with that `modelPrivacy` (contract C.2) may use and see it.

        `ALL` sees everything, `PRIVATE_TEXT` no anonymized text or embedding model, and
        `PRIVATE_ONLY` no anonymized model at all.
        """
        if self.privacy == "private" or model_privacy == "ALL":
            return True
        return model_privacy == "PRIVATE_TEXT" and self.type not in {"text", "embedding"}


def unpriced_image_model(
    model_id: str,
    kind: Literal["image", "inpaint", "upscale"],
    backend: BackendSource,
    *,
    created: int,
    name: str,
    constraints: Mapping[str, Any],
    traits: tuple[str, ...] = (),
) -> Model:
    """An image model of our own that nobody has priced; its price is an explicit 0."""
    return Model(
        id=model_id,
        type=kind,
        name=name,
        pricing=FREE_TEXT,
        media_pricing=MediaPricing(FREE_MEDIA[kind]),
        created=created,
        backends=(backend,),
        constraints=constraints,
        traits=traits,
        size_class=SIZE_CLASS_OF_TYPE[kind],
    )


def unpriced_model(
    model_id: str,
    backend: BackendSource,
    *,
    created: int,
    context_tokens: int | None = None,
    capabilities: Capabilities | None = None,
    traits: tuple[str, ...] = (),
) -> Model:
    """A text model that nobody has priced: found on a server, a model file or the simulator.

    Its price is an explicit 0, because what an operator runs at home should answer at once.
    """
    return Model(
        id=model_id,
        name=model_id,
        pricing=FREE_TEXT,
        created=created,
        backends=(backend,),
        context_tokens=context_tokens,
        capabilities=capabilities or Capabilities(),
        traits=traits,
    )
