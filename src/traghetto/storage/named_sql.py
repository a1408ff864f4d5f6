"""Named SQL: every statement is in `queries/*.sql`, with a name and a description."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_queries(file_name: str) -> dict[str, str]:
    """The statements of `queries/<file_name>` by name; done once, when a module is imported."""
    text = resources.files("traghetto.storage").joinpath("queries", file_name).read_text("utf-8")
    _, *parts = _NAME.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))
