"""Two schemas as one: references followed, `allOf` folded in, bounds narrowed.

Combining is as exact as a value's maker needs. Where two keywords cannot be narrowed to one (two
patterns, two `not`), the first stays, and the validator judges the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

Schema = dict[str, Any]

_REFERENCES_MAX: Final = 64
_ALTERNATIVES_MAX: Final = 1000
_TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")


class Unsatisfiable(Exception):
    """No value is known that the schema accepts; the text never holds parts of the schema."""


def resolve(schema: Any, root: Any) -> Schema:
    """`schema` without `$ref` and `allOf` at its top; raises `Unsatisfiable` for `False`."""
    for _ in range(_REFERENCES_MAX):
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise Unsatisfiable("a part of it accepts nothing")
        if isinstance(reference := schema.get("$ref"), str):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = combine(rest, _referred(reference, root))
        elif "allOf" in schema:
            parts = schema["allOf"]
            schema = {key: value for key, value in schema.items() if key != "allOf"}
            for part in parts:
                schema = combine(schema, part)
        else:
            return schema
    raise Unsatisfiable("its references do not end")


def combine(one: Any, other: Any) -> Any:
    """A schema that accepts what both accept, or rather more."""
    if one is False or other is False:
        return False
    if one is True or other is True:
        return other if one is True else one
    both = dict(one)
    for key, value in other.items():
        if key not in both:
            both[key] = value
        elif both[key] != value:
            both[key] = _NARROW.get(key, _keep)(both[key], value)
            if key == "$ref":  # the second one is followed after the first
                both["allOf"] = [*both.get("allOf", []), {key: value}]
    return both


def _referred(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        raise Unsatisfiable("it refers to another document")
    fragment = unquote(reference[1:])
    if fragment and not fragment.startswith("/"):
        return _anchored(root, fragment)
    found = root
    for step in fragment.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise Unsatisfiable("it refers to nothing")
    return found


def _anchored(root: Any, anchor: str) -> Any:
    waiting = [root]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("$anchor") == anchor:
                return part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    raise Unsatisfiable("it refers to nothing")


def _keep(one: Any, other: Any) -> Any:  # noqa: ARG001 - has the signature of the narrowing functions
    return one


def _both(one: Any, other: Any) -> Any:
    return {"allOf": [one, other]}


def _same(one: Any, other: Any) -> Any:
    if one != other:
        raise Unsatisfiable("it demands two constants at once")
    return one


def _common(one: list[Any], other: list[Any]) -> list[Any]:
    return [value for value in one if value in other]


def _types(one: Any, other: Any) -> list[str]:
    left, right = (_with_integers(types) for types in (one, other))
    common: list[str] = [kind for kind in _TYPES if kind in left and kind in right]
    if "number" in common:
        common.remove("integer")
    return common


def _with_integers(types: Any) -> set[str]:
    names = {types} if isinstance(types, str) else set(types)
    return names | {"integer"} if "number" in names else names


def _properties(one: Schema, other: Schema) -> Schema:
    return {
        **one,
        **{
            name: _both(one[name], value) if name in one else value for name, value in other.items()
        },
    }


def _alternatives(one: list[Any], other: list[Any]) -> list[Any]:
    """Every pair; of `oneOf` rather too many, which the validator sorts out."""
    if len(one) * len(other) > _ALTERNATIVES_MAX:
        raise Unsatisfiable("it has too many alternatives")
    return [_both(left, right) for left in one for right in other]


def _multiple(one: Any, other: Any) -> Any:
    return math.lcm(one, other) if isinstance(one, int) and isinstance(other, int) else one


_NARROW: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "type": _types,
    "enum": _common,
    "anyOf": _alternatives,
    "oneOf": _alternatives,
    "allOf": lambda one, other: [*one, *other],
    "const": _same,
    "properties": _properties,
    "patternProperties": _properties,
    "required": lambda one, other: [*one, *(name for name in other if name not in one)],
    "additionalProperties": combine,
    "items": lambda one, other: one if isinstance(one, list) else _both(one, other),
    "contains": _both,
    "minimum": max,
    "exclusiveMinimum": max,
    "minLength": max,
    "minItems": max,
    "minProperties": max,
    "maximum": min,
    "exclusiveMaximum": min,
    "maxLength": min,
    "maxItems": min,
    "maxProperties": min,
    "multipleOf": _multiple,
    "uniqueItems": lambda one, other: one or other,
}
"""How a keyword that both schemas have is narrowed; keywords not listed keep the first value."""
