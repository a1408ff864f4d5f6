"""Validators of request bodies, compiled from the published OpenAPI file.

The file speaks OpenAPI 3.0; `to_json_schema` says the same in JSON Schema 2020-12, restricted to
the keywords that `wire.zod` can explain. Invariants: what the compiled validator accepts, the
explainer finds no fault with, and the other way round; both use the formats of this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from traghetto.wire.spec import load_spec

SAFE_INTEGER_MAX: Final = 2**53 - 1
"""Integers are bounded to what every JSON reader holds exactly, unless a schema says less."""

Schema = dict[str, Any]

_KEPT: Final = ("enum", "required", "minimum", "maximum", "minLength", "maxLength", "pattern")
_KEPT_SIZES: Final = ("minItems", "maxItems")
_URL: Final = re.compile(
    r"(?:https?|wss?|ftp)://[^/?#\s]|(?!(?:https?|wss?|ftp):)[a-z][a-z0-9+.-]*:", re.IGNORECASE
)
_DATE_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


def is_url(text: str) -> bool:
    """Whether `text` has a scheme, and a host where its scheme wants one (data URLs do not)."""
    return _URL.match(text) is not None


def is_date_time(text: str) -> bool:
    """Whether `text` is a date and time of RFC 3339 that exists in the calendar."""
    if _DATE_TIME.fullmatch(text) is None:
        return False
    try:
        datetime.fromisoformat(f"{text[:10]}T{text[11:19]}")
    except ValueError:
        return False
    return True


FORMATS: Final = {"uri": is_url, "date-time": is_date_time}
"""The formats that are checked; others (`binary`) describe, they do not constrain."""


@dataclass(frozen=True, slots=True)
class Validator:
    """A compiled schema: the document (for explaining) and the fast yes-or-no."""

    name: str
    document: Schema
    compiled: jsonschema_rs.Validator

    def is_valid(self, value: Any) -> bool:
        """Whether `value` satisfies the schema."""
        return self.compiled.is_valid(value)

    def failing_paths(self, value: Any, paths_max: int) -> Iterator[tuple[str | int, ...]]:
        """Where `value` fails, at most `paths_max` places, without saying why."""
        for error in islice(self.compiled.iter_errors(value), paths_max):
            yield tuple(error.instance_path)


@cache
def validator_for(name: str) -> Validator:
    """The validator of the component schema `name`, compiled at its first use.

    Raises KeyError for a name that the published file does not have.
    """
    components = _components()
    document = to_json_schema(components[name], components)
    for tolerated in _tolerated_fields().get(name, ()):
        document["properties"].setdefault(tolerated, {})
    return Validator(name, document, compile_schema(document))


@cache
def body_validator(operation_id: str) -> Validator:
    """The validator of the JSON body of an operation, compiled at its first use.

    Raises KeyError for an operation that the published file does not have, or that has no body.
    """
    schema = _operations()[operation_id]["requestBody"]["content"]["application/json"]["schema"]
    document = to_json_schema(schema, _components())
    return Validator(operation_id, document, compile_schema(document))


@cache
def query_validator(operation_id: str, *, strict: bool) -> Validator:
    """The validator of an operation's query as an object; `strict` refuses unknown parameters."""
    parameters = [
        parameter
        for parameter in _operations()[operation_id]["parameters"]
        if parameter["in"] == "query"
    ]
    schema: Schema = {
        "type": "object",
        "properties": {parameter["name"]: parameter["schema"] for parameter in parameters},
        "required": [parameter["name"] for parameter in parameters if parameter["required"]],
    }
    if strict:
        schema["additionalProperties"] = False
    document = to_json_schema(schema, _components())
    return Validator(operation_id, document, compile_schema(document))


def compile_schema(document: Schema) -> jsonschema_rs.Validator:
    """The compiled form of a document made by `to_json_schema`."""
    return jsonschema_rs.Draft202012Validator(document, validate_formats=True, formats=FORMATS)


def to_json_schema(schema: Schema, components: dict[str, Schema]) -> Schema:
    """`schema` in JSON Schema 2020-12: nullable types, numeric exclusive bounds, no references.

    A `oneOf` becomes an `anyOf`: the published unions are told apart by their members, and a
    union is satisfied by any branch in the vocabulary that failures are told in. Raises
    ValueError for a reference that contains itself or for a keyword nobody could explain.
    """
    return _convert(schema, components, ())


def _convert(schema: Schema, components: dict[str, Schema], within: tuple[str, ...]) -> Schema:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/components/schemas/")
        if name in within:
            raise ValueError(f"schema {name} contains itself")
        return _convert(components[name], components, (*within, name))
    unknown = schema.keys() - _UNDERSTOOD
    if unknown:
        raise ValueError(f"schema keywords without an explanation: {sorted(unknown)}")
    converted: Schema = {key: schema[key] for key in (*_KEPT, *_KEPT_SIZES) if key in schema}
    _convert_type(schema, converted)
    if schema.get("format") in FORMATS:
        converted["format"] = schema["format"]
    if "properties" in schema:
        converted["properties"] = {
            key: _convert(member, components, within)
            for key, member in schema["properties"].items()
        }
    if "items" in schema:
        converted["items"] = _convert(schema["items"], components, within)
    extra = schema.get("additionalProperties")
    if extra is False:
        converted["additionalProperties"] = False
    elif isinstance(extra, dict) and extra:
        converted["additionalProperties"] = _convert(extra, components, within)
    if "allOf" in schema:
        converted["allOf"] = [_convert(part, components, within) for part in schema["allOf"]]
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        converted["anyOf"] = [_convert(branch, components, within) for branch in branches]
        if schema.get("nullable"):
            converted["anyOf"].append({"type": ["null"]})
    return converted


def _convert_type(schema: Schema, converted: Schema) -> None:
    """Types as lists, null where nullable, and the bounds in their 2020-12 form."""
    kind = schema.get("type")
    if kind is not None:
        converted["type"] = [kind]
        if schema.get("nullable"):
            converted["type"].append("null")
            if "enum" in schema and None not in schema["enum"]:
                converted["enum"] = [*schema["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True:
            converted[exclusive] = converted.pop(bound)
    if kind == "integer":
        if "exclusiveMinimum" not in converted:
            converted.setdefault("minimum", -SAFE_INTEGER_MAX)
        if "exclusiveMaximum" not in converted:
            converted.setdefault("maximum", SAFE_INTEGER_MAX)


_UNDERSTOOD: Final = frozenset(
    {
        *_KEPT,
        *_KEPT_SIZES,
        "type",
        "nullable",
        "format",
        "properties",
        "items",
        "additionalProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "default",
        "deprecated",
        "description",
        "example",
        "title",
    }
)


@cache
def _components() -> dict[str, Schema]:
    components: dict[str, Schema] = load_spec("openapi")["components"]["schemas"]
    return components


@cache
def _operations() -> dict[str, dict[str, Any]]:
    """Every operation of the published file, by its id."""
    return {
        operation["operationId"]: operation
        for path in load_spec("openapi")["paths"].values()
        for operation in path.values()
        if "operationId" in operation
    }


@cache
def _tolerated_fields() -> dict[str, list[str]]:
    """Members that clients of other services send: accepted and ignored, per schema."""
    fields: dict[str, list[str]] = load_spec("tolerated_fields")
    return fields
