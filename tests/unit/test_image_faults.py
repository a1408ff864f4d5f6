"""Every fault of an image has a code."""

from traghetto.media.images import ImageFault
from traghetto.pipeline.stages.pictures import FAULT_CODES


def test_every_fault_of_an_image_has_a_code() -> None:
    """The table is total."""
    assert FAULT_CODES.keys() == set(ImageFault)
