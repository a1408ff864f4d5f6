"""The optional libraries that a configuration needs, asked for before anything is built."""

from __future__ import annotations

from collections.abc import Iterable

from traghetto.catalog.model import Model, OnnxSource, PixelSource
from traghetto.engines.imaging.extras import ExtraMissing, require


def require_extras(models: Iterable[Model]) -> None:
    """Raises ValueError, naming the model and what to install, where a library is missing."""
    for model in models:
        for source in model.backends:
            try:
                if isinstance(source, OnnxSource):
                    require("onnx")
                elif isinstance(source, PixelSource) and source.engine == "grabcut":
                    require("vision")
            except ExtraMissing as missing:
                raise ValueError(f"model {model.id!r}: {missing}") from missing
