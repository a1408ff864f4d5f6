"""What the annotation of a field says: its kind, its choices, its row in the reference page."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Meta

from traghetto.settings.fields import Settings
from traghetto.settings.invalid import environment_name, flag_name

TABLES: Final = frozenset({"upstreams", "rate_limit_classes", "moderation"})
"""Fields of `Settings` that are tables in the file."""


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as documents and the command line show it."""

    name: str
    default: str
    kind: str
    """`integer`, `number`, `boolean`, `text`, `path`, `list` or `a | b` for a choice."""
    description: str
    environment: str
    flag: str
    choices: tuple[str, ...] = ()


def setting_rows() -> list[SettingRow]:
    """Every setting that has a variable and a flag, in the order of declaration."""
    return [row for row in table_rows(Settings) if row.name not in TABLES]


def table_rows(kind: type[msgspec.Struct], prefix: str = "") -> list[SettingRow]:
    """The fields of a table such as `Upstream` as rows, for the reference page.

    `prefix` comes before their names in variables and flags.
    """
    rows = []
    hints = hints_of(kind)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        notes = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Meta)]
        description = "".join(note.description or "" for note in notes)
        shown = next((note.extra["default"] for note in notes if note.extra), None)
        choices = choices_of(hint)
        rows.append(
            SettingRow(
                name=field.name,
                default=shown or _default_text(field),
                kind=" | ".join(choices) or kind_name(hint),
                description=description,
                environment=environment_name(prefix + field.name),
                flag=flag_name(prefix + field.name),
                choices=choices,
            )
        )
    return rows


def hints_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, without `Annotated` and None."""
    bare = _bare(hint)
    if typing.get_origin(bare) in {typing.Union, types.UnionType}:
        return tuple(_bare(arm) for arm in typing.get_args(bare) if arm is not type(None))
    return (bare,)


def _bare(hint: Any) -> Any:
    """An annotation without the `Annotated` around it."""
    return typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint


def choices_of(hint: Any) -> tuple[str, ...]:
    return tuple(
        str(choice)
        for arm in _members(hint)
        if typing.get_origin(arm) is Literal
        for choice in typing.get_args(arm)
    )


_KIND_NAMES: Final[dict[object, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    tuple: "list",
    list: "list",
    dict: "table",
}


def kind_name(hint: Any) -> str:
    arm = _members(hint)[0]
    return _KIND_NAMES.get(arm) or _KIND_NAMES.get(typing.get_origin(arm), "table")


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    default = field.default
    if default is msgspec.NODEFAULT:
        return "" if field.default_factory is msgspec.NODEFAULT else "empty"
    if isinstance(default, bool):
        return "true" if default else "false"
    if default is None:
        return "none"
    if default in ((), ""):
        return "empty"
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)
