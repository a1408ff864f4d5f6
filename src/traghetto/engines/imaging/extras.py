"""Which optional libraries an engine needs, and what to install when they are missing."""

from __future__ import annotations

import importlib.util
from typing import Final, Literal

Extra = Literal["vision", "onnx"]

_LIBRARIES: Final[dict[Extra, tuple[str, ...]]] = {
    "vision": ("cv2", "numpy"),
    "onnx": ("onnxruntime", "numpy"),
}
_PURPOSES: Final[dict[Extra, str]] = {
    "vision": "removing backgrounds needs OpenCV",
    "onnx": "running ONNX networks needs ONNX Runtime",
}


class ExtraMissing(ValueError):
    """An optional library is not installed; the text tells the operator what to do."""


def is_available(extra: Extra) -> bool:
    """Whether the libraries of `extra` are installed; loads nothing."""
    return all(importlib.util.find_spec(library) is not None for library in _LIBRARIES[extra])


def require(extra: Extra) -> None:
    """Raises `ExtraMissing` if a library of `extra` is not installed; loads nothing."""
    if not is_available(extra):
        raise ExtraMissing(
            f"{_PURPOSES[extra]}: run `scripts/setup images` in a checkout, or "
            f"pip install 'traghetto[{extra}]'"
        )
