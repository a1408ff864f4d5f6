"""The models for images of a gateway without configuration: its own engines, for nothing."""

from __future__ import annotations

from typing import Any, Final

from traghetto.catalog.catalog import DEFAULT_TRAIT
from traghetto.catalog.model import Model, PixelSource, SimulatorSource, unpriced_image_model
from traghetto.engines.imaging.extras import is_available

RATIOS: Final = ("1:1", "3:2", "16:9", "21:9", "9:16", "2:3", "3:4", "4:5")
"""Those of the contract."""
_SIMULATOR: Final[dict[str, Any]] = {
    "promptCharacterLimit": 7500,
    "steps": {"default": 8, "max": 50},
    "widthHeightDivisor": 1,
    "aspectRatios": RATIOS,
    "maxStyleReferences": 3,
    "supportsStyleReferenceStrength": True,
}
_EDITOR: Final[dict[str, Any]] = {
    "promptCharacterLimit": 32_768,
    "aspectRatios": RATIOS,
    "combineImages": True,
    "maxInputImages": 3,
}
IMAGE_MODEL_ID: Final = "simulator-image"
EDIT_MODEL_ID: Final = "classical-edit"
UPSCALE_MODEL_ID: Final = "classical-upscale"
BACKGROUND_MODEL_ID: Final = "grabcut-background"


NO_REMOVER_LINE: Final = (
    "Backgrounds are not removed: that needs OpenCV. Start with `INSTALL=images scripts/serve`, or "
    "pip install 'traghetto[vision]'"
)


def own_image_models(created: int) -> list[Model]:
    """A model for every endpoint for images; none for backgrounds where OpenCV is not installed."""
    default = (DEFAULT_TRAIT,)
    models = [
        unpriced_image_model(
            IMAGE_MODEL_ID,
            "image",
            SimulatorSource(),
            created=created,
            name="Simulated images",
            constraints=_SIMULATOR,
            traits=default,
        ),
        unpriced_image_model(
            EDIT_MODEL_ID,
            "inpaint",
            PixelSource("classical"),
            created=created,
            name="Classical edits",
            constraints=_EDITOR,
            traits=default,
        ),
        unpriced_image_model(
            UPSCALE_MODEL_ID,
            "upscale",
            PixelSource("classical"),
            created=created,
            name="Classical enlargement",
            constraints={},
            traits=default,
        ),
    ]
    if is_available("vision"):
        models.append(
            unpriced_image_model(
                BACKGROUND_MODEL_ID,
                "inpaint",
                PixelSource("grabcut"),
                created=created,
                name="Background removal",
                constraints={},
            )
        )
    return models
