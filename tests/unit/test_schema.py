"""The published OpenAPI file, said again in JSON Schema 2020-12."""

import msgspec
import pytest

from traghetto.wire.schema import (
    SAFE_INTEGER_MAX,
    compile_schema,
    is_date_time,
    is_url,
    to_json_schema,
    validator_for,
)
from traghetto.wire.spec import load_spec, spec_directory

COMPONENTS = load_spec("openapi")["components"]["schemas"]
REQUESTS = sorted(name for name in COMPONENTS if "Request" in name)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_schema_compiles(name: str) -> None:
    """Each request schema of the published file uses only keywords that can be explained."""
    assert not validator_for(name).is_valid(7)


def test_nullable_becomes_a_type() -> None:
    """`nullable: true` allows null, in enumerations and unions as well."""
    for schema in (
        {"type": "string", "nullable": True},
        {"type": "string", "nullable": True, "enum": ["a"]},
        {"nullable": True, "anyOf": [{"type": "string"}, {"type": "array", "items": {}}]},
    ):
        validator = compile_schema(to_json_schema(schema, {}))
        assert validator.is_valid(None)
        assert validator.is_valid("a")
        assert not validator.is_valid(1)


def test_exclusive_bounds_become_numbers() -> None:
    """`exclusiveMinimum: true` excludes the minimum itself."""
    validator = compile_schema(
        to_json_schema({"type": "number", "minimum": 0, "exclusiveMinimum": True}, {})
    )
    assert not validator.is_valid(0)
    assert validator.is_valid(0.001)


def test_integers_are_bounded_to_what_json_readers_hold() -> None:
    """Digits without end pass no `type: integer`, whatever the published file leaves out."""
    validator = compile_schema(to_json_schema({"type": "integer"}, {}))
    assert validator.is_valid(SAFE_INTEGER_MAX)
    assert validator.is_valid(16.0)
    for value in (SAFE_INTEGER_MAX + 1, -SAFE_INTEGER_MAX - 1, 10**30, 1e300, 1.5, True):
        assert not validator.is_valid(value)


def test_references_are_inlined() -> None:
    """A local reference means the component itself; one within itself is refused."""
    components = {"A": {"type": "object", "properties": {"b": {"$ref": "#/components/schemas/B"}}}}
    components["B"] = {"type": "string"}
    assert to_json_schema(components["A"], components)["properties"]["b"] == {"type": ["string"]}
    components["B"] = {"type": "array", "items": {"$ref": "#/components/schemas/B"}}
    with pytest.raises(ValueError, match="contains itself"):
        to_json_schema(components["A"], components)


def test_a_keyword_nobody_can_explain_is_refused() -> None:
    """A constraint that the compiled schema would drop stops the start instead."""
    with pytest.raises(ValueError, match="multipleOf"):
        to_json_schema({"type": "number", "multipleOf": 2}, {})


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("https://example.com/a b.png", True),
        ("http://\u4f8b\u3048.jp", True),
        ("HTTPS://EXAMPLE.COM", True),
        ("data:image/png;base64,AAAA", True),
        ("file:///etc/passwd", True),
        ("https://", False),
        ("http:///x", False),
        ("https:example.com", False),
        ("example.com/a.png", False),
        ("//example.com", False),
        ("", False),
        (" https://example.com", False),
    ],
)
def test_a_url_has_a_scheme_and_a_host(text: str, valid: bool) -> None:
    """What may be fetched is decided elsewhere; here only the form is."""
    assert is_url(text) is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("2026-01-31T00:00:00Z", True),
        ("2026-01-31T00:00:00.123+02:00", True),
        ("2026-02-31T00:00:00Z", False),
        ("2026-01-31", False),
        ("2026-01-31T00:00:00", False),
        ("2026-01-31T00:00:00Z\n", False),
    ],
)
def test_a_date_time_exists(text: str, valid: bool) -> None:
    """RFC 3339 with an offset, and a day that the calendar has."""
    assert is_date_time(text) is valid


def test_tolerated_fields_are_one_list() -> None:
    """Every member that the chat schema leaves unconstrained is named in the list, and none is more."""
    tolerated = load_spec("tolerated_fields")
    assert tolerated.keys() <= COMPONENTS.keys()
    properties = COMPONENTS["ChatCompletionRequest"]["properties"]
    free = {name for name, schema in properties.items() if schema == {}}
    assert free <= set(tolerated["ChatCompletionRequest"])
    validator = validator_for("ChatCompletionRequest")
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    for name in tolerated["ChatCompletionRequest"]:
        assert validator.is_valid({**body, name: [1]})


def test_spec_files_are_found() -> None:
    """The facts are beside the package or in the repository, and they are JSON."""
    for path in spec_directory().glob("*.json"):
        msgspec.json.decode(path.read_bytes())


def test_an_unknown_schema_is_a_key_error() -> None:
    """A misspelt name fails where it is used."""
    with pytest.raises(KeyError):
        validator_for("NoSuchRequest")
