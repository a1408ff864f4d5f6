"""Sizes that several layers have to agree on, each written once."""

from __future__ import annotations

from typing import Final

IMAGE_FILE_BYTES_MAX: Final = 26_214_400
"""A caller's image file, unless the operator says otherwise."""
IMAGE_PIXELS_MAX: Final = 33_177_600
"""Of an image that is decoded, whoever sent it: 7680 x 4320. Workers have memory for no more."""
MADE_FILE_BYTES_MAX: Final = 67_108_864
"""An image file that a backend made, before it is encoded as the caller wants it."""
MADE_PIXELS_MAX: Final = 16_777_216
"""Of an image that an engine of ours makes, and of any that is enlarged."""
WORKER_MEMORY_BYTES_MAX: Final = 1_610_612_736
"""Address space of a worker process, unless the operator says otherwise."""
