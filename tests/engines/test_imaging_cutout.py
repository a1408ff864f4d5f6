"""GrabCut finds the objects of synthetic shots whose masks are known."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageChops

from support.pixels import decoded, done, means
from support.scenes import Scene, photograph, picture, products
from traghetto.engines.image_protocols import BackgroundCall
from traghetto.engines.imaging.cutout import cut_out
from traghetto.engines.imaging.work import FRUITLESS
from traghetto.workers.task import Refusal

SCENES = products(300, 250)


def cut(image: Image.Image, image_format: str = "png") -> Image.Image:
    call = BackgroundCall(request_id="r", picture=picture(image, image_format))  # type: ignore[arg-type]
    return decoded(done(cut_out, call))


def overlap(image: Image.Image, mask: Image.Image) -> float:
    """Intersection over union of what is mostly opaque with `mask`."""
    found = np.asarray(image.getchannel("A")) > 127
    truth = np.asarray(mask) > 127
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("name", SCENES)
def test_objects_are_found(name: str) -> None:
    """On sweeps, walls, tables and patterns, dark or pale, also where they reach the border."""
    scene = SCENES[name]
    result = cut(scene.image)
    assert (result.format, result.mode, result.size) == ("PNG", "RGBA", scene.image.size)
    assert overlap(result, scene.mask) >= 0.97


def test_large_pictures_get_fine_edges() -> None:
    """The mask is found small and refined in full size: nearly all is right, and edges are thin."""
    scene = products(1200, 1000)["mug on a white sweep"]
    result = cut(scene.image, "jpeg")
    assert result.size == (1200, 1000)
    assert overlap(result, scene.mask) >= 0.99
    alpha = np.asarray(result.getchannel("A"))
    assert float(((alpha > 8) & (alpha < 247)).mean()) < 0.02


def test_no_fringe_of_the_old_ground_is_left() -> None:
    """On black, the edge of a blue mug that stood on white is as dark as the mug."""
    scene = SCENES["mug on a white sweep"]
    result = cut(scene.image)
    black = Image.new("RGBA", result.size, (0, 0, 0, 255))
    black.alpha_composite(result)
    red = black.getchannel("R")
    assert np.quantile(np.asarray(red), 0.999) < 120


def test_what_was_transparent_stays_so() -> None:
    """Alpha of the picture's own is kept where it is less."""
    scene = SCENES["green bottle on grey"]
    half = scene.image.convert("RGBA")
    half.putalpha(Image.new("L", half.size, 255))
    half.paste((0, 0, 0, 0), (150, 0, 300, 250))
    result = cut(half)
    assert result.getchannel("A").crop((151, 0, 300, 250)).getextrema() == (0, 0)
    left = Scene(half, ImageChops.multiply(scene.mask, half.getchannel("A")))
    assert overlap(result, left.mask) > 0.9


def test_the_same_picture_is_cut_the_same() -> None:
    """Clusters begin from fixed seeds."""
    image = SCENES["striped shoe on cardboard"].image
    assert cut(image).tobytes() == cut(image).tobytes()


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (120, 90), (200, 200, 200)),
        Image.linear_gradient("L").resize((160, 120)),
        Image.frombytes("RGB", (90, 90), random.Random(1).randbytes(90 * 90 * 3)),
        Image.new("RGB", (2000, 64), (30, 40, 50)),
        Image.new("RGBA", (80, 80), (0, 0, 0, 0)),
    ],
    ids=["uniform", "gradient", "noise", "thin", "transparent"],
)
def test_where_nothing_stands_out_nothing_is_claimed(image: Image.Image) -> None:
    """No picture that is wholly transparent, or wholly opaque, is sold as a cutout."""
    with pytest.raises(Refusal) as refusal:
        cut(image)
    assert refusal.value.kind == FRUITLESS


def test_busy_pictures_do_not_break_it() -> None:
    """Where the guess is poor, the answer is poor, but a cutout."""
    result = cut(photograph(160))
    assert 5 < means(result.getchannel("A"))[0] < 250
