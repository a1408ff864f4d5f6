"""Why a body fails its schema, told as Zod 3 tells it: `issues`, and the `details` tree.

The published service validates with Zod, and clients read its vocabulary (contract A.0). This
module walks the same document that the compiled validator enforces, only after it said no, and
reports every violation: members in the order of the body, then missing members, then unknown
keys.

A union whose value fits the type and the literal members (`role`, `type`) of exactly one branch
is reported as that branch, because that is what the caller meant; any other union is one
`invalid_union` that carries the issues of each branch, as plain `z.union` does. A branch that a
type or a literal member rules out says only that.

Invariants: the issues of an invalid value are never empty and about `ISSUES_MAX` at most, those
within unions included, so that a refusal has a size whatever the body has; the work is
bounded by `STEPS_MAX` visited values, past which the compiled validator names the places.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import msgspec

from traghetto.errors import ApiError, invalid_request, sentences
from traghetto.errors.sentences import ECHO_CHARACTERS_MAX
from traghetto.wire.schema import FORMATS, Schema, Validator

Issue = dict[str, Any]
Path = tuple[str | int, ...]

ISSUES_MAX: Final = 100
BRANCH_ISSUES_MAX: Final = 10
STEPS_MAX: Final = 20_000

_FORMAT_ISSUES: Final = {
    "uri": ("url", sentences.INVALID_URL),
    "date-time": ("datetime", sentences.INVALID_DATE_TIME),
}


def require_valid(validator: Validator, value: Any) -> None:
    """Return if `value` satisfies the schema; else raise INVALID_REQUEST with all violations."""
    if not validator.is_valid(value):
        raise refusal(issues_of(validator, value))


def refusal(issues: list[Issue], *, unsupported_feature: bool = False) -> ApiError:
    """INVALID_REQUEST for `issues`; `unsupported_feature` chooses the budget it counts in."""
    return invalid_request(details_of(issues), issues, unsupported_feature=unsupported_feature)


def custom_issue(path: Path, message: str) -> Issue:
    """A violation of a rule that no schema expresses: cross-field, capability, per-model."""
    return {"code": "custom", "path": list(path), "message": message}


def issues_of(validator: Validator, value: Any) -> list[Issue]:
    """Every violation of `value`, at least one, given that the validator refused it."""
    walk = _Walk(ISSUES_MAX, _Steps())
    with suppress(_Full, _OutOfSteps):
        walk.visit(validator.document, value, ())
    if walk.issues:
        return walk.issues
    paths = dict.fromkeys(validator.failing_paths(value, ISSUES_MAX))
    return [custom_issue(_bounded(path), sentences.INVALID_UNION) for path in paths]


def details_of(issues: list[Issue]) -> dict[str, Any]:
    """The tree of `ZodError.format()`: every node has `_errors`, children by key or index.

    A union contributes the issues of its branches instead of its own, as Zod has it.
    """
    root: dict[str, Any] = {"_errors": []}
    pending = list(reversed(issues))
    while pending:
        issue = pending.pop()
        if issue["code"] == "invalid_union":
            for branch in reversed(issue["unionErrors"]):
                pending.extend(reversed(branch["issues"]))
            continue
        node = root
        for element in issue["path"]:
            if element == "_errors":
                break  # a member of this name cannot be told from the list: its parent has it
            node = node.setdefault(str(element), {"_errors": []})
        node["_errors"].append(issue["message"])
    return root


class _OutOfSteps(Exception):
    """The value is too large to explain in full."""


class _Full(Exception):
    """A walk has as many issues as it may report."""


class _Steps:
    """What is left of the work allowed for one explanation, shared by all its branches."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = STEPS_MAX


class _Walk:
    """One collection of issues: of the whole body, or of one branch of a union."""

    __slots__ = ("_room", "_steps", "issues")

    def __init__(self, room: int, steps: _Steps) -> None:
        self.issues: list[Issue] = []
        self._room = room
        self._steps = steps

    def visit(self, schema: Schema, value: Any, path: Path) -> None:
        """Add the issues of `value` under `schema`."""
        self._steps.left -= 1
        if self._steps.left < 0:
            raise _OutOfSteps
        kind = _type_of(value)
        for part in schema.get("allOf", ()):
            self.visit(part, value, path)
        if "anyOf" in schema:
            self._union(schema["anyOf"], value, path)
        if not _among(value, schema.get("enum")):
            self._enumeration(schema["enum"], value, kind, path)
            return
        types = schema.get("type")
        if types is not None and not _fits(value, kind, types):
            self._wrong_type(types, kind, path)
            return
        if kind == "string":
            self._string(schema, value, path)
        elif kind == "number":
            self._number(schema, value, path)
        elif kind == "array":
            self._array(schema, value, path)
        elif kind == "object":
            self._object(schema, value, path)

    def _add(self, code: str, path: Path, message: str, **extra: Any) -> None:
        if len(self.issues) >= self._room:
            raise _Full
        self.issues.append(
            {"code": code, **extra, "path": list(_bounded(path)), "message": message}
        )

    def _wrong_type(self, types: list[str], kind: str, path: Path) -> None:
        expected = _expected({"type": types})
        received = kind
        if kind == "number" and expected == "number":  # the value is one, but not an integer
            expected, received = "integer", "float"
        text = sentences.WRONG_TYPE.format(expected=expected, received=received)
        self._add("invalid_type", path, text, expected=expected, received=received)

    def _enumeration(self, members: list[Any], value: Any, kind: str, path: Path) -> None:
        options = [member for member in members if member is not None]
        if len(options) == 1:
            expected = options[0]
            text = sentences.NOT_THE_LITERAL.format(expected=msgspec.json.encode(expected).decode())
            self._add("invalid_literal", path, text, expected=expected, received=_echo(value, kind))
        elif kind == "string":
            received = value[:ECHO_CHARACTERS_MAX]
            text = sentences.NOT_IN_ENUM.format(expected=_joined(options), received=received)
            self._add("invalid_enum_value", path, text, options=options, received=received)
        else:
            expected = _joined(options)
            text = sentences.WRONG_TYPE.format(expected=expected, received=kind)
            self._add("invalid_type", path, text, expected=expected, received=kind)

    def _string(self, schema: Schema, value: str, path: Path) -> None:
        least, most = schema.get("minLength"), schema.get("maxLength")
        if least is not None and len(value) < least:
            self._size("too_small", "string", least, sentences.STRING_TOO_SHORT, path)
        if most is not None and len(value) > most:
            self._size("too_big", "string", most, sentences.STRING_TOO_LONG, path)
        if "pattern" in schema and _pattern(schema["pattern"]).search(value) is None:
            self._add("invalid_string", path, sentences.INVALID_PATTERN, validation="regex")
        form = schema.get("format")
        if form is not None and not FORMATS[form](value):
            validation, text = _FORMAT_ISSUES[form]
            self._add("invalid_string", path, text, validation=validation)

    def _number(self, schema: Schema, value: float, path: Path) -> None:
        bound = schema.get("minimum")
        if bound is not None and value < bound:
            self._size("too_small", "number", bound, sentences.NUMBER_TOO_SMALL, path)
        bound = schema.get("exclusiveMinimum")
        if bound is not None and value <= bound:
            text = sentences.NUMBER_NOT_ABOVE
            self._size("too_small", "number", bound, text, path, inclusive=False)
        bound = schema.get("maximum")
        if bound is not None and value > bound:
            self._size("too_big", "number", bound, sentences.NUMBER_TOO_BIG, path)
        bound = schema.get("exclusiveMaximum")
        if bound is not None and value >= bound:
            text = sentences.NUMBER_NOT_BELOW
            self._size("too_big", "number", bound, text, path, inclusive=False)

    def _array(self, schema: Schema, value: list[Any], path: Path) -> None:
        least, most = schema.get("minItems"), schema.get("maxItems")
        if least is not None and len(value) < least:
            self._size("too_small", "array", least, sentences.ARRAY_TOO_SHORT, path)
        if most is not None and len(value) > most:
            self._size("too_big", "array", most, sentences.ARRAY_TOO_LONG, path)
        items = schema.get("items")
        if items is not None:
            for index, item in enumerate(value):
                self.visit(items, item, (*path, index))

    def _object(self, schema: Schema, value: dict[str, Any], path: Path) -> None:
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties")
        unknown = []
        for key, member in value.items():
            if key in properties:
                self.visit(properties[key], member, (*path, key))
            elif extra is False:
                unknown.append(key[:ECHO_CHARACTERS_MAX])
            elif extra is not None:
                self.visit(extra, member, (*path, key))
        for key in schema.get("required", ()):
            if key not in value:
                expected = _expected(properties.get(key, {}))
                self._add(
                    "invalid_type",
                    (*path, key),
                    sentences.REQUIRED,
                    expected=expected,
                    received="undefined",
                )
        if unknown:
            keys = unknown[:ISSUES_MAX]
            text = sentences.UNRECOGNIZED_KEYS.format(keys=", ".join(f"'{key}'" for key in keys))
            self._add("unrecognized_keys", path, text, keys=keys)

    def _size(
        self, code: str, kind: str, bound: float, text: str, path: Path, *, inclusive: bool = True
    ) -> None:
        limit = {"too_small": "minimum", "too_big": "maximum"}[code]
        extra = {"type": kind, limit: bound, "inclusive": inclusive, "exact": False}
        self._add(code, path, text.format(bound=bound), **extra)

    def _union(self, branches: list[Schema], value: Any, path: Path) -> None:
        meant = [branch for branch in branches if _may_be_meant(branch, value)]
        if len(meant) == 1:
            self.visit(meant[0], value, path)
            return
        if any(not self._branch(branch, value, path) for branch in meant):
            return
        errors = [
            {"issues": self._branch(_telling(branch, value), value, path), "name": "ZodError"}
            for branch in branches
        ]
        self._add("invalid_union", path, sentences.INVALID_UNION, unionErrors=errors)
        self._room -= sum(len(error["issues"]) for error in errors)

    def _branch(self, branch: Schema, value: Any, path: Path) -> list[Issue]:
        """The issues of one branch, at most `BRANCH_ISSUES_MAX`; none if the value satisfies it."""
        walk = _Walk(BRANCH_ISSUES_MAX, self._steps)
        with suppress(_Full):
            walk.visit(branch, value, path)
        return walk.issues


def _may_be_meant(branch: Schema, value: Any) -> bool:
    """Whether neither the type nor a literal member of `value` rules the branch out."""
    types = branch.get("type")
    if types is not None and not _fits(value, _type_of(value), types):
        return False
    if not isinstance(value, dict):
        return True
    required = branch.get("required", ())
    for key, member in branch.get("properties", {}).items():
        if key in required and key in value and not _among(value[key], member.get("enum")):
            return False
    return True


def _telling(branch: Schema, value: Any) -> Schema:
    """The part of a branch that is worth explaining: what rules it out, or all of it."""
    if type(value) is not dict or _may_be_meant(branch, value):
        return branch
    required = branch.get("required", ())
    literals = {
        key: member
        for key, member in branch.get("properties", {}).items()
        if key in required and key in value and "enum" in member
    }
    return {"type": branch.get("type", ["object"]), "properties": literals}


def _type_of(value: Any) -> str:
    """The name that Zod has for the type of a decoded JSON value."""
    return _TYPE_NAMES[type(value)]


_TYPE_NAMES: Final = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def _fits(value: Any, kind: str, types: list[str]) -> bool:
    """Whether a value of type `kind` is one of the JSON Schema `types`."""
    if kind in types:
        return True
    return (
        kind == "number" and "integer" in types and (isinstance(value, int) or value.is_integer())
    )


def _among(value: Any, members: list[Any] | None) -> bool:
    """Whether `value` equals a member, true and 1 being different values; None is no limit."""
    return members is None or any(
        value == member and _type_of(value) == _type_of(member) for member in members
    )


def _expected(schema: Schema) -> str:
    """What Zod says it expected: a type, the members of an enumeration, or a choice of both."""
    if "enum" in schema:
        return _joined([member for member in schema["enum"] if member is not None])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_expected(branch) for branch in schema["anyOf"]))
    names = [
        "number" if name == "integer" else name
        for name in schema.get("type", ())
        if name != "null" or schema["type"] == ["null"]
    ]
    return " | ".join(names) or "unknown"


def _joined(options: list[Any]) -> str:
    return " | ".join(
        f"'{option}'" if isinstance(option, str) else msgspec.json.encode(option).decode()
        for option in options
    )


def _echo(value: Any, kind: str) -> Any:
    """What may be repeated of a rejected value: a short scalar, else only its type."""
    if kind in {"array", "object"}:
        return kind
    return value[:ECHO_CHARACTERS_MAX] if isinstance(value, str) else value


def _bounded(path: Path) -> Path:
    """`path` with the names that the caller chose cut to a length."""
    return tuple(
        element[:ECHO_CHARACTERS_MAX] if isinstance(element, str) else element for element in path
    )


def _pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the schema (ECMA 262): ASCII classes, and `$` is the very end."""
    if pattern.endswith("$"):
        pattern = pattern[:-1] + r"\Z"
    return re.compile(pattern, re.ASCII)
