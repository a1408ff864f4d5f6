"""Values that satisfy a JSON Schema, made up from the schema alone.

A candidate is built by walking the schema and then judged by a real validator; a few candidates
are tried, from the fullest to the barest. What no candidate satisfies is `Unsatisfiable`: either
nothing does, or the schema needs more wit than this (patterns are met only by a few stock words).

Schemas are the caller's: nothing is ever fetched, patterns run in linear time, and the size of a
candidate is bounded, whatever `minItems` asks for.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import jsonschema_rs

from traghetto.engines.simulator.combining import Schema, Unsatisfiable, combine, resolve
from traghetto.engines.simulator.scalars import make_number, make_string

ATTEMPTS: Final = 24
VALUES_MAX: Final = 10_000
"""Values made for one schema, all attempts together; a long string counts for several."""
DEPTH_MAX: Final = 32
_CHARACTERS_PER_VALUE: Final = 64
_CHANCES: Final = (1.0, 0.0, 0.5)
"""The chance of an optional property in the first attempt, the second, and all later ones."""
_DEPTH_OF_RESTRAINT: Final = 5
"""Below it only what is required is made, and branches that refer elsewhere come last."""
_NULL_CHANCE: Final = 0.3
_WORD: Final = "simulated"

T = TypeVar("T")

_TYPE_OF_KEYWORD: Final = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "patternProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "contains": "array",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
"""What a schema without a type is about, by the first of these keywords that it has."""


def value_for(schema: Any, rng: random.Random) -> Any:
    """A value that `schema` accepts, formats included; the same `rng` state, the same value.

    Raises `Unsatisfiable`.
    """
    try:
        validator = jsonschema_rs.validator_for(
            schema,
            validate_formats=True,
            retriever=_refuse,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise Unsatisfiable("it is not a valid schema, or it refers to another document") from error
    maker = _Maker(schema, rng)
    for attempt in range(ATTEMPTS):
        maker.optional = _CHANCES[min(attempt, len(_CHANCES) - 1)]
        try:
            value = maker.make(schema, 0)
        except Unsatisfiable:
            continue
        if validator.is_valid(value):
            return value
    raise Unsatisfiable("no value was found")


def _refuse(uri: str) -> Any:  # noqa: ARG001 - the signature of a retriever
    raise ValueError("references to other documents are never fetched")


class _Maker:
    """Builds candidates; what it may spend is for all of them together."""

    def __init__(self, root: Any, rng: random.Random) -> None:
        self.optional = 1.0
        """The chance of an optional property to be there."""
        self._root = root
        self._rng = rng
        self._values_left = VALUES_MAX

    def make(self, schema: Any, depth: int) -> Any:
        """A candidate for `schema`; raises `Unsatisfiable` where there is no way on."""
        self._spend(1)
        if depth > DEPTH_MAX:
            raise Unsatisfiable("it is nested too deeply")
        if schema is True or schema == {}:
            return _WORD
        flat = resolve(schema, self._root)
        for name in ("oneOf", "anyOf"):
            if flat.get(name):
                return self._make_branch(flat, name, depth)
        if "if" in flat:
            return self._make_conditional(flat, depth)
        if "const" in flat:
            return flat["const"]
        if "enum" in flat:
            return self._choose(flat["enum"])
        return self._make_typed(flat, self._type_of(flat), depth)

    def _make_branch(self, flat: Schema, name: str, depth: int) -> Any:
        branches = list(flat[name])
        self._rng.shuffle(branches)
        if depth >= _DEPTH_OF_RESTRAINT:
            branches.sort(key=lambda branch: "$ref" in str(branch))
        rest = {key: value for key, value in flat.items() if key != name}
        return self._first_possible([combine(rest, branch) for branch in branches], depth)

    def _make_conditional(self, flat: Schema, depth: int) -> Any:
        rest = {key: flat[key] for key in flat.keys() - {"if", "then", "else"}}
        met = combine(combine(rest, flat["if"]), flat.get("then", True))
        unmet = combine(rest, flat.get("else", True))
        return self._first_possible(
            [unmet, met] if self._rng.random() < 0.5 else [met, unmet], depth
        )

    def _first_possible(self, schemas: Iterable[Any], depth: int) -> Any:
        for schema in schemas:
            try:
                return self.make(schema, depth + 1)
            except Unsatisfiable:
                continue
        raise Unsatisfiable("none of its branches is possible")

    def _type_of(self, flat: Schema) -> str:
        declared: str | list[str] | None = flat.get("type")
        if isinstance(declared, str):
            return declared
        if declared is not None:
            kinds = [each for each in declared if each != "null"]
            may_be_null = len(kinds) < len(declared) and self.optional < 1
            if may_be_null and self._rng.random() < _NULL_CHANCE:
                return "null"
            return self._choose(kinds or declared)
        return next((kind for key, kind in _TYPE_OF_KEYWORD.items() if key in flat), "string")

    def _make_typed(self, flat: Schema, kind: str, depth: int) -> Any:
        match kind:
            case "object":
                return self._make_object(flat, depth)
            case "array":
                return self._make_array(flat, depth)
            case "string":
                text = make_string(flat, self._rng)
                self._spend(len(text) // _CHARACTERS_PER_VALUE)
                return text
            case "integer" | "number":
                return make_number(flat, kind, self._rng)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
        raise Unsatisfiable("it names an unknown type")

    def _make_object(self, flat: Schema, depth: int) -> dict[str, Any]:
        properties = flat.get("properties", {})
        required = flat.get("required", [])
        made: dict[str, Any] = {}
        for name, schema in properties.items():
            if name in required:
                made[name] = self.make(schema, depth + 1)
            elif depth < _DEPTH_OF_RESTRAINT and self._rng.random() < self.optional:
                try:
                    made[name] = self.make(schema, depth + 1)
                except Unsatisfiable:
                    continue
        others = flat.get("additionalProperties", True)
        for name in required:
            if name not in made:
                made[name] = self.make(others, depth + 1)
        wanted = min(flat.get("minProperties", 0), VALUES_MAX)
        spare = [name for name in properties if name not in made]
        while len(made) < wanted:
            name = spare.pop() if spare else f"{_WORD}_{len(made) + 1}"
            made[name] = self.make(properties.get(name, others), depth + 1)
        return made

    def _make_array(self, flat: Schema, depth: int) -> list[Any]:
        items = flat.get("items", True)
        leading = flat.get("prefixItems", [])
        if isinstance(items, list):  # the older form of `prefixItems`
            leading, items = items, flat.get("additionalItems", True)
        at_least = flat.get("minItems", 0)
        at_most = flat.get("maxItems", VALUES_MAX)
        made = [self.make(schema, depth + 1) for schema in leading[:at_most]]
        if "contains" in flat:
            wanted = combine(items, flat["contains"])
            made += [
                self.make(wanted, depth + 1)
                for _ in range(min(flat.get("minContains", 1), VALUES_MAX))
            ]
        unique = flat.get("uniqueItems", False)
        usual = 1 if depth < _DEPTH_OF_RESTRAINT and items is not False else 0
        seen = {repr(value) for value in made}
        while len(made) < min(max(at_least, usual), at_most):
            value = self.make(items, depth + 1)
            if unique and repr(value) in seen:
                value = self._distinct(value, seen)
            seen.add(repr(value))
            made.append(value)
        return made

    def _distinct(self, value: Any, seen: set[str]) -> Any:
        """A variation of `value` that is not in `seen`; each try is paid from the same budget."""
        while repr(value) in seen:
            self._spend(1)
            value = self._vary(value)
        return value

    def _vary(self, value: Any) -> Any:
        match value:
            case bool():
                return not value
            case int() | float():
                return value + 1
            case str():
                return f"{value} {self._rng.choice('abcdefghijklmnopqrstuvwxyz')}"
            case list() | dict():
                raise Unsatisfiable("its items cannot be distinct")
        return value

    def _spend(self, values: int) -> None:
        self._values_left -= values
        if self._values_left < 0:
            raise Unsatisfiable("it asks for too much")

    def _choose(self, options: list[T]) -> T:
        if not options:
            raise Unsatisfiable("nothing is left to choose from")
        return self._rng.choice(options)
