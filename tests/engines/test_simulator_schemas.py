"""Values made up from a JSON Schema are accepted by it."""

from __future__ import annotations

import random
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traghetto.engines.simulator.combining import Unsatisfiable
from traghetto.engines.simulator.schemas import value_for

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "children"],
        }
    },
}
LINKED_LIST = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["next"],
}
SHAPES = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "circle"}, "radius": {"type": "number", "minimum": 0}},
            "required": ["kind", "radius"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "kind": {"const": "box"},
                "side": {"exclusiveMinimum": 2, "type": "integer"},
            },
            "required": ["kind", "side"],
            "additionalProperties": False,
        },
    ]
}

SCHEMAS: dict[str, Any] = {
    "anything": {},
    "true": True,
    "string": {"type": "string"},
    "short string": {"type": "string", "maxLength": 2},
    "long string": {"type": "string", "minLength": 500},
    "exact string": {"type": "string", "minLength": 7, "maxLength": 7},
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}$"},
    "anchored digits": {"type": "string", "pattern": r"^\d{4}$"},
    "integer": {"type": "integer"},
    "bounded integer": {"type": "integer", "minimum": -3, "maximum": -3},
    "open bounds": {"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 6},
    "fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 50},
    "decimal multiple": {"type": "number", "multipleOf": 0.01, "minimum": 1, "maximum": 2},
    "only a maximum": {"type": "integer", "maximum": -1000},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "nullable": {"type": ["string", "null"]},
    "const": {"const": {"a": [1, None]}},
    "enum": {"enum": ["x", 2, None]},
    "enum within a type": {"type": "string", "enum": ["x"]},
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    "unique": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "uniqueItems": True},
    "unique words": {"type": "array", "items": {"type": "string"}, "minItems": 9, "uniqueItems": True},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2, "items": False},
    "contains": {"type": "array", "contains": {"const": 3}, "minContains": 2},
    "no properties": {"type": "object", "additionalProperties": False},
    "required only": {"type": "object", "required": ["a", "b"]},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "no type": {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    "all of": {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"a": {"minimum": 5}, "b": {"type": "string"}}, "required": ["b"]}]},
    "any of": {"anyOf": [{"type": "integer", "minimum": 4}, {"type": "string", "minLength": 5}]},
    "any of beside properties": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "exactly one of": {"oneOf": [{"type": "number", "multipleOf": 5}, {"type": "number", "multipleOf": 3}]},
    "discriminated": SHAPES,
    "list of discriminated": {"type": "array", "items": SHAPES, "minItems": 3},
    "recursion": TREE,
    "optional recursion": LINKED_LIST,
    "definitions": {"$ref": "#/definitions/a", "definitions": {"a": {"type": "integer"}}},
    "anchor": {"$ref": "#here", "$defs": {"a": {"$anchor": "here", "type": "boolean"}}},
    "escaped pointer": {"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "integer"}}},
    "not": {"type": "integer", "minimum": 0, "maximum": 3, "not": {"enum": [0, 1]}},
    "dependent": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "dependentRequired": {"a": ["b"]}},
    "conditional": {"type": "object", "properties": {"k": {"enum": ["x", "y"]}, "v": {}}, "required": ["k", "v"], "if": {"properties": {"k": {"const": "x"}}}, "then": {"properties": {"v": {"type": "integer"}}}, "else": {"properties": {"v": {"type": "boolean"}}}},
    "draft 7 tuple": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}, {"type": "null"}], "minItems": 2},
    "two unions": {"allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}]},
}  # fmt: skip

FORMATS = [
    "date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri",
    "uri-reference", "iri", "uuid", "json-pointer", "relative-json-pointer", "regex", "uri-template",
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_a_schema_accepts_its_value(schema: Any) -> None:
    """Whatever the schema's form, twenty different seeds give values that it accepts."""
    validator = jsonschema_rs.validator_for(schema)
    for seed in range(20):
        assert validator.is_valid(value_for(schema, random.Random(seed)))


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_met(name: str) -> None:
    """A string of a known format has that format."""
    schema = {"type": "string", "format": name}
    value = value_for(schema, random.Random(1))
    assert jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(value)


scalars = st.one_of(
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
              st.integers(-50, 50), st.integers(0, 50)),
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
              st.integers(0, 20), st.integers(0, 20)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {}, True]),
    st.builds(lambda options: {"enum": options},
              st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=4)),
    st.builds(lambda name: {"type": ["string", "null"], "format": name}, st.sampled_from(FORMATS)),
)  # fmt: skip
names = st.sampled_from(["a", "b", "c", "city", "unit"])


def _objects(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def build(properties: dict[str, Any], closed: bool, keep: int) -> dict[str, Any]:
        schema = {"type": "object", "properties": properties, "required": sorted(properties)[:keep]}
        return {**schema, "additionalProperties": False} if closed else schema

    return st.builds(
        build, st.dictionaries(names, children, max_size=3), st.booleans(), st.integers(0, 3)
    )


schemas = st.recursive(
    scalars,
    lambda children: st.one_of(
        _objects(children),
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least},
                  children, st.integers(0, 3)),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(children, min_size=1, max_size=3)),
        st.builds(lambda schema: {"allOf": [schema, {}]}, children),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(schemas, st.integers(0, 1000))
def test_any_usual_schema_accepts_its_value(schema: Any, seed: int) -> None:
    """Schemas put together at random from the usual parts accept what is made for them."""
    assert jsonschema_rs.validator_for(schema).is_valid(value_for(schema, random.Random(seed)))


IMPOSSIBLE: dict[str, Any] = {
    "false": False,
    "no options": {"enum": []},
    "contradiction": {"allOf": [{"const": 1}, {"const": 2}]},
    "bounds": {"type": "integer", "minimum": 2, "maximum": 1},
    "endless": {"$ref": "#"},
    "endless requirement": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "dangling": {"$ref": "#/$defs/none"},
    "elsewhere": {"$ref": "http://127.0.0.1:9/schema.json"},
    "a file": {"$ref": "file:///etc/hostname"},
    "not a schema": {"type": "bogus"},
    "huge string": {"type": "string", "minLength": 10**12},
    "huge array": {"type": "array", "minItems": 10**12},
    "huge object": {"type": "object", "minProperties": 10**12},
    "huge contains": {"type": "array", "contains": {"const": 1}, "minContains": 10**12},
    "indistinct": {"type": "array", "items": {"type": "null"}, "minItems": 2, "uniqueItems": True},
    "strange pattern": {"type": "string", "pattern": "^qqq[0-9]{9}zz$"},
    "wide explosion": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "minItems": 10, "items": {"$ref": "#/$defs/b"}}, "b": {"type": "array", "minItems": 10, "items": {"$ref": "#/$defs/a"}}}},
}  # fmt: skip


@pytest.mark.parametrize("schema", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cannot_be_satisfied_is_refused(schema: Any) -> None:
    """Impossible, endless, huge and foreign schemas are refused, and nothing is fetched."""
    with pytest.raises(Unsatisfiable):
        value_for(schema, random.Random(1))
