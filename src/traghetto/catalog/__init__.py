"""Models: what each is and costs, which one a name means, where they are declared or found."""

from traghetto.catalog.catalog import Catalog, Merged, NameTaken, merge
from traghetto.catalog.config_file import ConfigInvalid, Configuration, read_configuration
from traghetto.catalog.discovery import Suggestion, discover
from traghetto.catalog.model import (
    FREE_TEXT,
    BackendSource,
    Deprecation,
    GgufSource,
    MediaPricing,
    Model,
    ModelType,
    OnnxSource,
    PixelSource,
    SimulatorSource,
    TextPricing,
    UpstreamSource,
    unpriced_model,
)

__all__ = [
    "FREE_TEXT",
    "BackendSource",
    "Catalog",
    "ConfigInvalid",
    "Configuration",
    "Deprecation",
    "GgufSource",
    "MediaPricing",
    "Merged",
    "Model",
    "ModelType",
    "NameTaken",
    "OnnxSource",
    "PixelSource",
    "SimulatorSource",
    "Suggestion",
    "TextPricing",
    "UpstreamSource",
    "discover",
    "merge",
    "read_configuration",
    "unpriced_model",
]
