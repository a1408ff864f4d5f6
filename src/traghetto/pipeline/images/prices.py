"""What images cost: lines of units at the prices of a model's entry; pure functions.

Work with images is prepaid: its price is known when its size and number are, before it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from traghetto.catalog.model import Model
from traghetto.ledger.book import ChargeLine, price_version
from traghetto.money import UnitPrice

DOUBLE_SCALE_MAX: Final = 2.0
"""Up to here an enlargement has the price of `2x`, above it that of `4x` (contract B.5)."""

INCLUDED_IMAGES: Final = 1
"""Input images in the price of an edit, where the entry does not say."""


UnitKind = Literal["image", "edit", "input_image", "upscale", "enhancement"]
"""What is counted; each kind has a name on the bill."""


class PricedUnits(msgspec.Struct, frozen=True):
    """So many units of a kind, at a price in nano_usd each."""

    kind: UnitKind
    units: int
    unit_nano_usd: int

    @property
    def nano_usd(self) -> int:
        """What they cost."""
        return self.units * self.unit_nano_usd


def generation_prices(
    model: Model, images: int, resolution: str | None, quality: str | None
) -> tuple[PricedUnits, ...]:
    """Every variant is an image (contract A.4)."""
    return (PricedUnits("image", images, _tier_price(model, "generation", resolution, quality)),)


def edit_prices(
    model: Model, input_images: int, resolution: str | None, quality: str | None
) -> tuple[PricedUnits, ...]:
    """The edit, and the input images that its price does not include."""
    lines = [PricedUnits("edit", 1, _tier_price(model, "inpaint", resolution, quality))]
    inputs = _tree(model).get("inputImages", {})
    extra = input_images - inputs.get("included", INCLUDED_IMAGES)
    if inputs and extra > 0:
        lines.append(PricedUnits("input_image", extra, _amount(inputs["additional"])))
    return tuple(lines)


def upscale_prices(model: Model, scale: float) -> tuple[PricedUnits, ...]:
    """By the enlargement that is really made."""
    tier = "2x" if scale <= DOUBLE_SCALE_MAX else "4x"
    return (PricedUnits("upscale", 1, _amount(_tree(model)["upscale"][tier])),)


def background_prices(model: Model) -> tuple[PricedUnits, ...]:
    """One edit."""
    return (PricedUnits("edit", 1, _tier_price(model, "inpaint", None, None)),)


def total_nano_usd(lines: Iterable[PricedUnits]) -> int:
    """What all lines cost together."""
    return sum(line.nano_usd for line in lines)


def charge_lines_of(lines: Iterable[PricedUnits]) -> tuple[ChargeLine, ...]:
    """The lines as the books keep them."""
    return tuple(ChargeLine(line.kind, line.units, line.nano_usd) for line in lines)


def version_of_units(lines: Iterable[PricedUnits]) -> str:
    """What the books keep of the prices beside a charge."""
    return price_version({line.kind: UnitPrice(line.unit_nano_usd, 1) for line in lines})


def _tier_price(model: Model, plain: str, resolution: str | None, quality: str | None) -> int:
    """The price of a tier: by quality within a resolution, by resolution, else the plain one."""
    tree = _tree(model)
    by_quality: Mapping[str | None, Any] = tree.get("quality", {}).get(resolution, {})
    if quality in by_quality:
        return _amount(by_quality[quality])
    tiers: Mapping[str | None, Any] = tree.get("resolutions", {})
    if resolution in tiers:
        return _amount(tiers[resolution])
    if plain in tree:
        return _amount(tree[plain])
    return max((_amount(price) for price in tiers.values()), default=0)


def _tree(model: Model) -> Mapping[str, Any]:
    return {} if model.media_pricing is None else model.media_pricing.tree


def _amount(price: Any) -> int:
    """A leaf of the tree; one with counts of its own has its price beside them."""
    amount: int = price["price"] if isinstance(price, Mapping) else price
    return amount
