"""The configuration file: TOML to settings and models, every refusal with its file and line.

Invariant: a file is taken whole or not at all, so a reload can keep the old configuration.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from traghetto.catalog.catalog import Catalog, NameTaken
from traghetto.catalog.model import GgufSource, Model, OnnxSource, UpstreamSource
from traghetto.catalog.model_table import model_of
from traghetto.catalog.toml_lines import TomlLines
from traghetto.settings import (
    Origin,
    SettingInvalid,
    Settings,
    build_settings,
    outlives_hold,
)

CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024
_SYNTAX_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")


class ConfigInvalid(ValueError):
    """A configuration that cannot be used: one sentence that starts with `file:line`."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an operator configured, before anything was contacted."""

    settings: Settings
    models: tuple[Model, ...] = ()

    def check_hold_seconds(self, running: int) -> None:
        """Refuse what needs longer holds than those of a gateway that is `running` already.

        Raises ConfigInvalid: deadlines take effect in a reload, the length of holds does not.
        """
        longest = max(
            self.settings.total_seconds, *(model.total_seconds or 0.0 for model in self.models), 0.0
        )
        if problem := outlives_hold(longest, running):
            raise ConfigInvalid(f"{problem}: `hold_seconds_max` changes at the next start only")


def read_configuration(
    path: Path | None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    backends_required: bool = True,
    must_run_here: bool = False,
) -> Configuration:
    """The configuration of the file at `path` (None for none), the environment and the flags.

    With `backends_required` the file names models, and each text model says where it runs;
    without, models that are found later may serve it (`catalog.merge`). With `must_run_here` the
    model files and the variables of keys that it names have to be there. Raises `ConfigInvalid`,
    or OSError where the file cannot be read.
    """
    if path is None:
        try:
            return Configuration(build_settings({}, environ, flags))
        except SettingInvalid as error:
            raise ConfigInvalid(str(error)) from None
    raw = path.read_bytes()
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigInvalid(f"{path}:1: larger than {CONFIG_BYTES_MAX} bytes")
    # A byte order mark is what some editors put first; TOML has none.
    text = _decoded(raw.removeprefix(b"\xef\xbb\xbf"), path)
    tables = _parsed(text, path)
    try:
        configuration = _configuration(
            tables, environ, flags, int(path.stat().st_mtime), backends_required
        )
        if must_run_here:
            _check_surroundings(configuration, environ or {})
    except SettingInvalid as error:
        if error.origin is not Origin.FILE:
            raise ConfigInvalid(str(error)) from None
        line = TomlLines(text).line_of(error.path)
        raise ConfigInvalid(f"{path}:{line}: {error}") from None
    return configuration


def _configuration(
    tables: dict[str, Any],
    environ: Mapping[str, str] | None,
    flags: Mapping[str, Any] | None,
    created: int,
    backends_required: bool,
) -> Configuration:
    entries = tables.pop("models", [])
    settings = build_settings(tables, environ, flags)
    if not isinstance(entries, list):
        raise SettingInvalid(("models",), "write each model as a `[[models]]` table")
    if backends_required and not entries:
        raise SettingInvalid(
            ("models",), "none; name at least one `[[models]]` table, or start without --config"
        )
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    models: list[Model] = []
    for index, entry in enumerate(entries):
        model = model_of(entry, ("models", index), upstreams, created)
        if backends_required and model.type == "text" and not (model.backends or model.offline):
            raise SettingInvalid(
                ("models", index),
                f"nothing serves model {model.id!r}; name `upstreams`, or an `engine`",
            )
        problem = outlives_hold(model.total_seconds or 0.0, settings.hold_seconds_max)
        if problem is not None:
            raise SettingInvalid(("models", index, "total_seconds"), problem)
        models.append(model)
    rewriter = settings.prompt_enhancement_model
    texts = [model.id for model in models if model.type == "text"]
    if backends_required and rewriter and rewriter not in texts:
        raise SettingInvalid(
            ("prompt_enhancement_model",),
            f"there is no text model {rewriter!r}; there is {', '.join(texts) or 'none'}",
        )
    try:
        Catalog(models)
    except NameTaken as error:
        index = next(index for index, model in enumerate(models) if model is error.model)
        raise SettingInvalid(("models", index), str(error)) from None
    return Configuration(settings, tuple(models))


def _check_surroundings(configuration: Configuration, environ: Mapping[str, str]) -> None:
    """Raises SettingInvalid for a file or a variable that is named and not there."""
    upstreams = configuration.settings.upstreams
    moderation = configuration.settings.moderation
    if moderation.words_file is not None and not moderation.words_file.is_file():
        raise SettingInvalid(("moderation", "words_file"), f"{moderation.words_file} is not a file")
    key_env = moderation.classifier_key_env
    if key_env is not None and key_env not in environ:
        raise SettingInvalid(
            ("moderation", "classifier_key_env"),
            f"{key_env} is not set: export it, or remove `classifier_key_env`",
        )
    for index, model in enumerate(configuration.models):
        for workflow in model.workflows():
            if not workflow.path.is_file():
                raise SettingInvalid(
                    ("models", index, "workflow"), f"{workflow.path} is not a file"
                )
        for source in model.backends:
            if isinstance(source, GgufSource | OnnxSource) and not source.path.is_file():
                member = "gguf" if isinstance(source, GgufSource) else "onnx"
                raise SettingInvalid(("models", index, member), f"{source.path} is not a file")
            if isinstance(source, UpstreamSource):
                upstream = source.upstream
                if upstream.key_env is not None and upstream.key_env not in environ:
                    raise SettingInvalid(
                        ("upstreams", upstreams.index(upstream), "key_env"),
                        f"{upstream.key_env} is not set: export it, or remove `key_env`",
                    )


def _decoded(raw: bytes, path: Path) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigInvalid(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        found = _SYNTAX_LINE.search(str(error))
        line = found[1] if found else str(text.count("\n") + 1)
        problem = _SYNTAX_LINE.sub("", str(error)).removesuffix(" (at end of document)")
        raise ConfigInvalid(f"{path}:{line}: {problem}") from None
