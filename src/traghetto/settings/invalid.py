"""The one exception of settings, and how settings are named outside the code."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable
from typing import Final

ENVIRONMENT_PREFIX: Final = "TRAGHETTO_"


class Origin(enum.Enum):
    """Where a value came from."""

    FILE = "the configuration file"
    ENVIRONMENT = "the environment"
    FLAG = "the command line"


class SettingInvalid(ValueError):
    """A setting that cannot be used; its text says which one and what to do."""

    def __init__(
        self, path: tuple[str | int, ...], problem: str, origin: Origin = Origin.FILE
    ) -> None:
        """`path` is where it stands in the configuration, such as `("upstreams", 0, "url")`."""
        super().__init__(path, problem, origin)
        self.path = path
        self.problem = problem
        self.origin = origin

    def __str__(self) -> str:
        name = "_".join(map(str, self.path))
        if self.origin is Origin.ENVIRONMENT:
            return f"environment variable {environment_name(name)}: {self.problem}"
        if self.origin is Origin.FLAG:
            return f"option {flag_name(name)}: {self.problem}"
        return f"{dotted(self.path)}: {self.problem}"


def dotted(path: Iterable[str | int]) -> str:
    """`path` as people write it: `upstreams[0].url`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")


def environment_name(setting: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + setting.upper()


def flag_name(setting: str) -> str:
    """The command-line flag of a setting."""
    return "--" + setting.replace("_", "-")


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The sentence that refuses an unknown key, with the nearest known one."""
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"unknown key; did you mean `{nearest[0]}`?" if nearest else "unknown key; remove it"
