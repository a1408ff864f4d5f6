"""The catalogue: names, listings and what found models cost."""

from __future__ import annotations

import json

import msgspec
import pytest

from traghetto.catalog import (
    Catalog,
    Deprecation,
    MediaPricing,
    Model,
    NameTaken,
    SimulatorSource,
    TextPricing,
    merge,
    unpriced_model,
)
from traghetto.catalog.listing import model_object
from traghetto.money import FREE, UnitPrice
from traghetto.wire.capabilities import Capabilities
from traghetto.wire.schema import validator_for

PRICES = TextPricing(
    UnitPrice(700_000_000), UnitPrice(2_800_000_000), UnitPrice(70_000_001), UnitPrice(700_000_000)
)


def text(model_id: str, **members) -> Model:
    return Model(**{"id": model_id, "pricing": PRICES, **members})


IMAGE = Model(
    id="sd",
    type="image",
    pricing=TextPricing(FREE, FREE, FREE, FREE),
    media_pricing=MediaPricing(
        {"generation": 10_000_000, "upscale": {"2x": 20_000_000, "4x": 80_000_000}}
    ),
    constraints={
        "promptCharacterLimit": 1500,
        "steps": {"default": 8, "max": 50},
        "widthHeightDivisor": 8,
    },
    privacy="anonymized",
    traits=("default",),
)
MUSIC = Model(
    id="song",
    type="music",
    pricing=TextPricing(FREE, FREE, FREE, FREE),
    media_pricing=MediaPricing(
        {"durations": {"short": {"price": 100_000_000, "min_seconds": 1, "max_seconds": 60}}}
    ),
)
CATALOG = Catalog(
    [
        text(
            "qwen3.5-4b",
            traits=("default", "fastest"),
            aliases=("gpt-4o-mini",),
            context_tokens=32768,
            max_completion_tokens=4096,
        ),
        text("venice-uncensored", privacy="anonymized"),
        text("coder", capabilities=Capabilities(optimizedForCode=True, maxImages=3)),
        IMAGE,
        MUSIC,
    ]
)


@pytest.mark.parametrize(
    ("requested", "model_id"),
    [
        ("qwen3.5-4b", "qwen3.5-4b"),
        ("default", "qwen3.5-4b"),
        ("gpt-4o-mini", "qwen3.5-4b"),
        ("Qwen3_5 4B", "qwen3.5-4b"),
        ("venice-qwen3-5-4b", "qwen3.5-4b"),
        ("GPT.4o.mini", "qwen3.5-4b"),
        ("uncensored", "venice-uncensored"),
        ("venice-uncensored", "venice-uncensored"),
        ("sd", "sd"),
        ("", None),
        ("qwen", None),
        ("qwen3.5-4b:web", None),
        ("q" * 10_000, None),
    ],
)
def test_names_resolve_tolerantly(requested, model_id):
    """An id, a trait, an alias, and forms of them that differ in case and separators resolve."""
    model = CATALOG.resolve(requested)
    assert (model.id if model else None) == model_id


def test_traits_belong_to_a_type():
    """`default` means another model to another endpoint."""
    assert CATALOG.resolve("default", "image") is IMAGE
    assert CATALOG.resolve("fastest", "image") is None
    assert CATALOG.traits("image") == {"default": "sd"}
    assert CATALOG.aliases("text") == {"gpt-4o-mini": "qwen3.5-4b"}


def test_an_exact_name_beats_a_tolerant_one():
    """Two ids that only differ in separators each mean themselves; other forms mean neither."""
    catalog = Catalog([text("a.b"), text("a-b")])
    assert catalog.resolve("a.b").id == "a.b"
    assert catalog.resolve("a-b").id == "a-b"
    assert catalog.resolve("A_B") is None


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ([text("a"), text("a")], "two models have the id 'a'"),
        ([text("a", aliases=("b",)), text("b")], "alias 'b' of model 'a' is the id of another"),
        ([text("a", aliases=("x",)), text("b", aliases=("x",))], "both have 'x' in aliases"),
        ([text("a", traits=("x",)), text("b", traits=("x",))], "both have 'x' in traits"),
    ],
)
def test_a_name_means_one_model(models, problem):
    """Two claims on one name are a mistake of the configuration, not a matter of order."""
    with pytest.raises(NameTaken, match=problem):
        Catalog(models)


@pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: model.id)
def test_model_objects_satisfy_the_published_schema(model):
    """Every model object is valid by the schema of the contract."""
    value = json.loads(CATALOG.encoded_object(model))
    assert validator_for("ModelResponse").is_valid(value)


def test_listing_has_the_contracts_members():
    """A text model lists its context, all fifteen capabilities and both sampling defaults."""
    listing = json.loads(CATALOG.listing("text"))
    assert (listing["object"], listing["type"]) == ("list", "text")
    model = listing["data"][0]
    assert list(model) == [
        "id",
        "object",
        "owned_by",
        "type",
        "created",
        "context_length",
        "model_spec",
    ]
    spec = model["model_spec"]
    assert spec["availableContextTokens"] == 32768
    assert spec["maxCompletionTokens"] == 4096
    assert len(spec["capabilities"]) == 15
    assert spec["constraints"] == {"temperature": {"default": 1}, "top_p": {"default": 1}}
    assert spec["offline"] is False


def test_prices_are_exact_numbers():
    """A price of nano-dollars arrives as the same decimal number, equal in both currencies."""
    encoded = CATALOG.listing("text")
    assert b'"input":{"usd":0.7,"diem":0.7}' in encoded
    assert b'"cache_input":{"usd":0.070000001,"diem":0.070000001}' in encoded
    assert b'"output":{"usd":2.8,"diem":2.8}' in encoded
    assert b"cache_write" not in encoded
    assert b'"short":{"usd":0.1,"diem":0.1,"min_seconds":1,"max_seconds":60}' in CATALOG.listing(
        "music"
    )


@pytest.mark.parametrize(
    ("kind", "privacy", "ids"),
    [
        ("text", "ALL", ["qwen3.5-4b", "venice-uncensored", "coder"]),
        ("text", "PRIVATE_TEXT", ["qwen3.5-4b", "coder"]),
        ("text", "PRIVATE_ONLY", ["qwen3.5-4b", "coder"]),
        ("image", "ALL", ["sd"]),
        ("image", "PRIVATE_TEXT", ["sd"]),
        ("image", "PRIVATE_ONLY", []),
        ("code", "ALL", ["coder"]),
        ("all", "ALL", ["qwen3.5-4b", "venice-uncensored", "coder", "sd", "song"]),
        ("video", "ALL", []),
    ],
)
def test_listings_are_filtered(kind, privacy, ids):
    """A listing holds the models of its type that a key of that privacy may use."""
    listing = json.loads(CATALOG.listing(kind, privacy))
    assert [model["id"] for model in listing["data"]] == ids
    assert listing["type"] == kind


def test_deprecation_is_listed():
    """A model that will be removed says when and by what it is replaced."""
    model = text("old", deprecation=Deprecation("2026-12-01", "2026-12-15", True, "new"))
    assert model_object(model)["model_spec"]["deprecation"] == {
        "autoRemap": True,
        "date": "2026-12-01",
        "removesAt": "2026-12-15",
        "replacementModelId": "new",
    }


def test_found_models_cost_nothing_unless_the_file_prices_them():
    """What a server offers is free until the file names a price for its id; one line says so."""
    written = [text("priced")]
    found = [
        unpriced_model(name, SimulatorSource(), created=1, context_tokens=100)
        for name in ("priced", "free")
    ]
    merged = merge(written, found)
    priced, free = merged.models
    assert (priced.pricing, priced.backends) == (PRICES, (SimulatorSource(),))
    assert priced.context_tokens == 100
    assert free.pricing == TextPricing(FREE, FREE, FREE, FREE)
    assert merged.free_ids == ("free",)
    assert merged.free_line() == "No price is configured, so these models cost 0 USD: free"
    assert merge(written, []).free_line() is None


def test_long_lists_of_free_models_stay_one_line():
    """The start-up line names a few models and counts the others."""
    found = [unpriced_model(f"m{n}", SimulatorSource(), created=1) for n in range(8)]
    assert merge([], found).free_line().endswith("m0, m1, m2, m3, m4 and 3 more")


def test_what_the_file_says_about_an_id_holds():
    """Found models add replicas to one another, never to an entry that names its own backends."""
    mine = text("a", backends=(SimulatorSource("broken"),), aliases=("b",))
    found = [unpriced_model(name, SimulatorSource(), created=1) for name in ("a", "b", "c", "c")]
    merged = merge([mine], found)
    assert [(model.id, len(model.backends)) for model in merged.models] == [("a", 1), ("c", 2)]
    Catalog(merged.models)


def test_listing_survives_decoding_by_strict_clients():
    """A listing is one JSON document without repeated members."""
    assert msgspec.json.decode(CATALOG.listing("all"))["object"] == "list"
