"""The formats in which images are asked for, answered and handed on."""

from __future__ import annotations

from typing import Literal

ImageFormat = Literal["jpeg", "png", "webp"]
