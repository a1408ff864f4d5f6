"""What a text model can do: `model_spec.capabilities` of the models listing (contract B.3).

The catalog fills it, the listing encodes it as it stands (member order included), and the chat
endpoint refuses requests by it. The fifteen members without a None default are always present on
the wire; the others are left out while they are None.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Quantization = Literal["fp4", "fp8", "fp16", "bf16", "int8", "int4", "not-available"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The capabilities of one text model; by default it takes text, gives text, and no more."""

    optimizedForCode: bool = False  # noqa: N815 - the names are those of the wire
    quantization: Quantization = "not-available"
    supportsFunctionCalling: bool = False  # noqa: N815
    supportsAudioInput: bool = False  # noqa: N815
    supportsReasoning: bool = False  # noqa: N815
    supportsReasoningEffort: bool = False  # noqa: N815
    supportsResponseSchema: bool = False  # noqa: N815
    supportsMultipleImages: bool = False  # noqa: N815
    supportsVision: bool = False  # noqa: N815
    supportsVideoInput: bool = False  # noqa: N815
    supportsWebSearch: bool = False  # noqa: N815
    supportsLogProbs: bool = False  # noqa: N815
    supportsTeeAttestation: bool = False  # noqa: N815
    supportsE2EE: bool = False  # noqa: N815
    supportsXSearch: bool = False  # noqa: N815
    reasoningEffortOptions: tuple[ReasoningEffort, ...] | None = None  # noqa: N815
    defaultReasoningEffort: ReasoningEffort | None = None  # noqa: N815
    maxImages: int | None = None  # noqa: N815
    maxVideos: int | None = None  # noqa: N815
