"""Where values of settings come from, weakest first: defaults, file, environment, command line.

Invariant: an unknown name is refused with the nearest known one, never ignored.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import msgspec

from traghetto.settings.annotations import TABLES, choices_of, hints_of, kind_name, table_rows
from traghetto.settings.fields import Moderation, RateNumbers, Settings, SizeClass, Upstream
from traghetto.settings.invalid import (
    Origin,
    SettingInvalid,
    environment_name,
    unknown_name,
)

_HINTS: Final = typing.get_type_hints(Settings, include_extras=True)
SETTING_NAMES: Final = tuple(name for name in _HINTS if name not in TABLES)
MODERATION_NAMES: Final = tuple(row.name for row in table_rows(Moderation) if row.kind != "table")
"""Members of `[moderation]` that have an environment variable."""

_TYPE_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
_TYPE: Final = re.compile(rf"`({'|'.join(_TYPE_WORDS)})(?: \| null)?`")


def build_settings(
    file: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings from a decoded TOML file, the environment and the command line.

    `file` is read with `parse_float=Decimal`, without its `models`. `flags` maps names of settings
    to values; None stands for an option that was not given. Raises `SettingInvalid`.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name, value in (file or {}).items():
        if name == "upstreams":
            values[name] = _upstreams(value)
        elif name == "rate_limits" and isinstance(value, dict):
            values["rate_limits"] = "on"
            values["rate_limit_classes"] = _rate_numbers(value)
        elif name == "moderation":
            continue  # the environment has a say in it, below
        elif name in SETTING_NAMES:
            values[name] = convert_field((name,), _HINTS[name], value)
        else:
            known = {*SETTING_NAMES, "upstreams", "models", "moderation"}
            raise SettingInvalid((name,), unknown_name(name, known))
    for name in SETTING_NAMES:
        given = (environ or {}).get(environment_name(name))
        if given is not None:
            values[name] = _from_text((name,), _HINTS[name], given, Origin.ENVIRONMENT)
            origins[name] = Origin.ENVIRONMENT
    values["moderation"] = _moderation((file or {}).get("moderation", {}), environ or {})
    for name, given in (flags or {}).items():
        if given is not None:
            if name not in SETTING_NAMES:
                raise SettingInvalid((name,), unknown_name(name, SETTING_NAMES), Origin.FLAG)
            values[name] = _from_text((name,), _HINTS[name], given, Origin.FLAG)
            origins[name] = Origin.FLAG
    try:
        return Settings(**values)
    except SettingInvalid as error:
        origin = origins.get(str(error.path[0]), Origin.FILE)
        raise SettingInvalid(error.path, error.problem, origin) from None


_TableType = TypeVar("_TableType", bound=msgspec.Struct)


def convert_table(kind: type[_TableType], table: object, path: tuple[str | int, ...]) -> _TableType:
    """A TOML table as a struct, key by key, so that a refusal can say where.

    Raises `SettingInvalid` for unknown and missing keys and for values that do not fit.
    """
    if not isinstance(table, dict):
        raise SettingInvalid(path, "expected a table")
    hints = hints_of(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            raise SettingInvalid((*path, key), unknown_name(key, hints))
        values[key] = convert_field((*path, key), hints[key], value)
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in values:
            raise SettingInvalid(path, f"`{field.name}` is missing")
    try:
        return kind(**values)
    except SettingInvalid as error:
        raise SettingInvalid((*path, *error.path), error.problem) from None
    except ValueError as error:
        raise SettingInvalid(path, str(error)) from None


def convert_field(
    path: tuple[str | int, ...], kind: Any, value: Any, *, strict: bool = True
) -> Any:
    """`value` as the annotated type `kind`; raises `SettingInvalid` with the type's own reason."""
    try:
        return msgspec.convert(value, kind, strict=strict, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise SettingInvalid(path, f"{_in_words(str(error))}{_choices_hint(kind)}") from None


def _upstreams(value: object) -> tuple[Upstream, ...]:
    if not isinstance(value, list):
        raise SettingInvalid(("upstreams",), "write each upstream as a `[[upstreams]]` table")
    return tuple(
        convert_table(Upstream, table, ("upstreams", index)) for index, table in enumerate(value)
    )


def _rate_numbers(value: dict[str, object]) -> dict[SizeClass, RateNumbers]:
    classes = typing.get_args(SizeClass)
    for name in value:
        if name not in classes:
            raise SettingInvalid(("rate_limits", name), unknown_name(name, classes))
    return {
        cast("SizeClass", name): convert_table(RateNumbers, table, ("rate_limits", name))
        for name, table in value.items()
    }


def _moderation(table: object, environ: Mapping[str, str]) -> Moderation:
    """The `[moderation]` table of the file, and what the environment says instead."""
    if not isinstance(table, dict):
        raise SettingInvalid(("moderation",), "write it as a `[moderation]` table")
    hints = hints_of(Moderation)
    values = dict(table)
    given: set[str] = set()
    for name in MODERATION_NAMES:
        path = ("moderation", name)
        text = environ.get(environment_name("_".join(path)))
        if text is not None:
            values[name] = _from_text(path, hints[name], text, Origin.ENVIRONMENT)
            given.add(name)
    try:
        for name in hints.keys() & values.keys() - set(MODERATION_NAMES):
            values[name] = _convert_members(("moderation", name), hints[name], values[name])
        return convert_table(Moderation, values, ("moderation",))
    except SettingInvalid as error:
        is_given = len(error.path) > 1 and error.path[1] in given
        origin = Origin.ENVIRONMENT if is_given else Origin.FILE
        raise SettingInvalid(error.path, error.problem, origin) from None


def _convert_members(path: tuple[str | int, ...], kind: Any, table: object) -> dict[str, Any]:
    """A table whose members all have the type that the annotated `kind` gives them."""
    if not isinstance(table, dict):
        raise SettingInvalid(path, "expected a table")
    member = typing.get_args(typing.get_args(kind)[0])[1]
    return {name: convert_field((*path, name), member, value) for name, value in table.items()}


def _from_text(path: tuple[str, ...], hint: Any, value: Any, origin: Origin) -> Any:
    """A value of the environment or the command line: usually text, lists separated by commas."""
    if isinstance(value, str) and kind_name(hint) == "list":
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, str) and kind_name(hint) == "boolean":
        value = value.strip().lower()
    try:
        return convert_field(path, hint, value, strict=False)
    except SettingInvalid as error:
        raise SettingInvalid(error.path, error.problem, origin) from None


def _decode_path(kind: type, value: object) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    raise NotImplementedError(kind)


def _in_words(refusal: str) -> str:
    """What the decoder said, for people who do not know its types."""
    refusal = _TYPE.sub(lambda found: _TYPE_WORDS[found[1]], refusal)
    for sign, words in (
        (" of length >= ", " with a length of at least "),
        (" of length <= ", " with a length of at most "),
        (" >= ", " of at least "),
        (" <= ", " of at most "),
        (" > ", " above "),
    ):
        refusal = refusal.replace(sign, words)
    return refusal[:1].lower() + refusal[1:]


def _choices_hint(hint: Any) -> str:
    choices = choices_of(hint)
    if not choices and kind_name(hint) == "list":
        choices = choices_of(typing.get_args(typing.get_args(hint)[0])[0])
    return f"; choose one of {', '.join(choices)}" if choices else ""
