"""What images cost by a model's entry, and what is charged of it."""

from typing import Any

import pytest

from traghetto.catalog.model import FREE_TEXT, MediaPricing, Model
from traghetto.ledger.charges import price_of
from traghetto.pipeline.images.prices import (
    PricedUnits,
    background_prices,
    charge_lines_of,
    edit_prices,
    generation_prices,
    total_nano_usd,
    upscale_prices,
    version_of_units,
)

CENT = 10_000_000
TIERED = {
    "generation": CENT,
    "resolutions": {"1K": 2 * CENT, "2K": 3 * CENT},
    "quality": {"2K": {"low": 4 * CENT, "high": 5 * CENT}},
    "upscale": {"2x": 2 * CENT, "4x": 8 * CENT},
}


def model(tree: dict[str, Any]) -> Model:
    return Model(id="m", type="image", pricing=FREE_TEXT, media_pricing=MediaPricing(tree))


@pytest.mark.parametrize(
    ("resolution", "quality", "cents"),
    [
        (None, None, 1),
        ("1K", None, 2),
        ("1K", "high", 2),
        ("2K", None, 3),
        ("2K", "high", 5),
        ("2K", "medium", 3),
        ("8K", None, 1),
    ],
)
def test_a_tier_has_its_price(resolution: str | None, quality: str | None, cents: int) -> None:
    """By quality within a resolution, by resolution, else the plain one; for each variant."""
    lines = generation_prices(model(TIERED), 3, resolution, quality)
    assert lines == (PricedUnits("image", 3, cents * CENT),)
    assert total_nano_usd(lines) == 3 * cents * CENT


def test_a_tier_that_has_no_price_costs_the_dearest() -> None:
    """Where an entry has tiers only, nothing is given away by a name that is missing."""
    tiers = {"resolutions": {"1K": CENT, "2K": 3 * CENT}}
    assert generation_prices(model(tiers), 1, None, None)[0].unit_nano_usd == 3 * CENT


def test_input_images_beyond_the_included_ones_cost_extra() -> None:
    """And nothing where the entry says nothing of them."""
    tree = {"inpaint": 4 * CENT, "inputImages": {"included": 2, "additional": CENT}}
    assert edit_prices(model(tree), 2, None, None) == (PricedUnits("edit", 1, 4 * CENT),)
    assert edit_prices(model(tree), 5, None, None)[1] == PricedUnits("input_image", 3, CENT)
    plain = model({"inpaint": 4 * CENT})
    assert total_nano_usd(edit_prices(plain, 3, None, None)) == 4 * CENT
    assert total_nano_usd(background_prices(plain)) == 4 * CENT


@pytest.mark.parametrize(("scale", "cents"), [(1.2, 2), (2.0, 2), (2.01, 8), (4.0, 8)])
def test_an_enlargement_costs_what_it_is(scale: float, cents: int) -> None:
    """Up to twice, or more."""
    (line,) = upscale_prices(model(TIERED), scale)
    assert line == PricedUnits("upscale", 1, cents * CENT)


def test_the_books_explain_every_line() -> None:
    """What is kept beside a charge gives its amount again."""
    lines = (PricedUnits("edit", 1, 4 * CENT), PricedUnits("input_image", 3, 333))
    version = version_of_units(lines)
    for line in charge_lines_of(lines):
        price = price_of(version, line.kind)
        assert price is not None
        assert price.times(line.units) == line.amount_nano_usd
