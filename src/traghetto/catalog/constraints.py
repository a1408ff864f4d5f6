"""The `constraints` of a `[[models]]` table, by type, and whether its prices name the same tiers.

What is written there decides what a request gets and what it costs, so that a slip in it would be
served and charged. Names are those of the listing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from traghetto.catalog.model import ModelType
from traghetto.settings import SettingInvalid, convert_table, unknown_name
from traghetto.wire.images import Quality
from traghetto.wire.sizes import Size, ratio_size

TablePath = tuple[str | int, ...]

_Characters = Annotated[int, Meta(ge=1, le=1_000_000)]
_Count = Annotated[int, Meta(ge=0, le=100)]
_Steps = Annotated[int, Meta(ge=1, le=1000)]
_Tier = Literal["0.5K", "1K", "2K", "3K", "4K"]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all constraints."""


class Steps(_Table, frozen=True, kw_only=True):
    """How many steps a model makes."""

    default: _Steps
    max: _Steps

    def __post_init__(self) -> None:
        if self.default > self.max:
            raise ValueError("`default` is above `max`")


class Choices(_Table, frozen=True, kw_only=True):
    """What image models of both kinds let their callers choose."""

    promptCharacterLimit: _Characters | None = None  # noqa: N815 - the names are the listing's
    aspectRatios: tuple[str, ...] = ()  # noqa: N815
    defaultAspectRatio: str | None = None  # noqa: N815
    resolutions: tuple[_Tier, ...] = ()
    defaultResolution: _Tier | None = None  # noqa: N815
    qualities: tuple[Quality, ...] = ()
    defaultQuality: Quality | None = None  # noqa: N815

    def __post_init__(self) -> None:
        for ratio in self.aspectRatios:
            if ratio != "auto" and ratio_size(ratio) == Size(1, 1) and ratio != "1:1":
                raise SettingInvalid(("aspectRatios",), f'{ratio!r} is no ratio such as "16:9"')
        for default, options in (
            ("defaultAspectRatio", self.aspectRatios),
            ("defaultResolution", self.resolutions),
            ("defaultQuality", self.qualities),
        ):
            chosen = getattr(self, default)
            if chosen is not None and chosen not in options:
                listed = ", ".join(options) or "nothing"
                raise SettingInvalid((default,), f"{chosen!r} is not listed; there is {listed}")


class ImageConstraints(Choices, frozen=True, kw_only=True):
    """Of a model that generates."""

    steps: Steps | None = None
    widthHeightDivisor: Annotated[int, Meta(ge=1, le=1024)] = 1  # noqa: N815
    maxStyleReferences: _Count = 0  # noqa: N815
    supportsStyleReferenceStrength: bool = False  # noqa: N815

    def __post_init__(self) -> None:
        super().__post_init__()
        if "auto" in self.aspectRatios:
            raise SettingInvalid(("aspectRatios",), "'auto' is for edits: there is no picture yet")


class EditConstraints(Choices, frozen=True, kw_only=True):
    """Of a model that edits."""

    combineImages: bool = True  # noqa: N815
    maxInputImages: Annotated[int, Meta(ge=1, le=10)] = 3  # noqa: N815
    singleImageAspectRatio: bool = False  # noqa: N815


class Default(_Table, frozen=True, kw_only=True):
    """What a sampling parameter is unless a request says otherwise."""

    default: float


class TextConstraints(_Table, frozen=True, kw_only=True):
    """Of a model of texts."""

    temperature: Default | None = None
    top_p: Default | None = None
    frequency_penalty: Default | None = None
    presence_penalty: Default | None = None
    repetition_penalty: Default | None = None


class NoConstraints(_Table, frozen=True, kw_only=True):
    """Of a model of which the listing has none."""


_OF_TYPE: Final[Mapping[ModelType, type[_Table]]] = {
    "image": ImageConstraints,
    "inpaint": EditConstraints,
    "text": TextConstraints,
    "upscale": NoConstraints,
}
"""Of the types that are served; what others have is taken as it is."""


def check_constraints(kind: ModelType, table: Mapping[str, Any], path: TablePath) -> None:
    """Raise SettingInvalid for a member that the type has not, or that has no such value."""
    if (known := _OF_TYPE.get(kind)) is not None:
        convert_table(known, dict(table), path)


_PRICES: Final[Mapping[ModelType, tuple[str, ...]]] = {
    "image": ("generation", "resolutions", "quality", "upscale"),
    "inpaint": ("inpaint", "resolutions", "quality", "inputImages"),
    "upscale": ("upscale",),
}
"""What has a price, by the type of the model."""
_PRICE_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "resolutions": (),
    "quality": (),
    "upscale": ("2x", "4x"),
    "inputImages": ("included", "additional"),
}
"""What has several prices, and the names of all of them where they are fixed: none may be missing,
because what has no price would be free."""


def check_prices(
    kind: ModelType, constraints: Mapping[str, Any], prices: Mapping[str, Any], path: TablePath
) -> None:
    """Raise SettingInvalid for a price of something that a model of images has not; for prices of
    tiers that nobody can ask for, and tiers without a price.

    `prices` is its price list, at `path`.
    """
    for name, price in prices.items():
        if name not in _PRICES[kind]:
            raise SettingInvalid((*path, name), unknown_name(name, _PRICES[kind]))
        if name in _PRICE_TABLES:
            _check_table(price, _PRICE_TABLES[name], (*path, name))
    resolutions = constraints.get("resolutions", ())
    qualities = constraints.get("qualities", ())
    by_resolution = prices.get("resolutions", {})
    for tier in by_resolution:
        _check_listed((*path, "resolutions", tier), tier, resolutions, "resolutions")
    for tier, by_quality in prices.get("quality", {}).items():
        where = (*path, "quality", tier)
        _check_listed(where, tier, resolutions, "resolutions")
        _check_table(by_quality, (), where)
        for quality in by_quality:
            _check_listed((*where, quality), quality, qualities, "qualities")
        for quality in qualities:
            if quality not in by_quality:
                raise SettingInvalid(where, f"`constraints` lists {quality!r}; price it")
    has_plain_price = "generation" in prices or "inpaint" in prices
    for tier in resolutions if by_resolution or not has_plain_price else ():
        if tier not in by_resolution:
            raise SettingInvalid((*path, "resolutions"), f"`constraints` lists {tier!r}; price it")


def _check_table(prices: Any, names: tuple[str, ...], path: TablePath) -> None:
    """Raise SettingInvalid unless `prices` is a table, of exactly `names` if there are any."""
    if not isinstance(prices, Mapping):
        raise SettingInvalid(path, "expected a table of prices")
    for name in prices if names else ():
        if name not in names:
            raise SettingInvalid((*path, name), unknown_name(name, names))
    for name in names:
        if name not in prices:
            raise SettingInvalid(path, f"`{name}` is missing")


def _check_listed(path: TablePath, tier: str, listed: Any, name: str) -> None:
    if tier not in listed:
        raise SettingInvalid(
            path, f"nobody can ask for it; list {tier!r} in `constraints.{name}`, or remove it"
        )
