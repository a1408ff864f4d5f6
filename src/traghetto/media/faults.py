"""What can be wrong with an image of a caller or of a backend."""

from __future__ import annotations

import enum

from traghetto.workers.task import Refusal


class ImageFault(enum.Enum):
    """Why an image is not taken; one total map makes it a code."""

    UNREADABLE = "unreadable"
    """Not an image of a format that we read, or broken, or one that no decoder gets done with."""
    UNSUPPORTED_HEIF = "unsupported_heif"
    """A HEIF file, and the gateway was installed without its decoder."""
    TOO_SMALL = "too_small"
    """Fewer pixels than are asked for, in all or on a side."""
    TOO_LARGE = "too_large"
    """More pixels than are taken, by the file's own word."""
    FILE_TOO_LARGE = "file_too_large"
    """More bytes than are taken."""


class ImageRefused(Exception):
    """An image was not taken. `reason` is in an operator's words, and has nothing of the image."""

    def __init__(self, fault: ImageFault, reason: str) -> None:
        super().__init__(f"{fault.value}: {reason}")
        self.fault = fault
        self.reason = reason


def refusal(fault: ImageFault, reason: str) -> Refusal:
    """How a task in a worker says what `ImageRefused` says in the gateway."""
    return Refusal(fault.value, reason)
