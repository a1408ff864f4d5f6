"""Where the facts of the contract (`spec/*.json`) are, and how they are read.

In a wheel they are package data beside this package; in a checkout they are the repository's own
`spec` folder. There is no third place and no copy.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def spec_directory() -> Path:
    """The folder that holds the spec files; raises FileNotFoundError for a broken installation."""
    for directory in (_PACKAGE / "spec", _PACKAGE.parents[1] / "spec"):
        if (directory / "openapi.json").is_file():
            return directory
    raise FileNotFoundError("spec/openapi.json is neither package data nor in the repository")


def load_spec(name: str) -> Any:
    """The decoded contents of `spec/<name>.json`, read afresh: callers keep what they need."""
    return msgspec.json.decode((spec_directory() / f"{name}.json").read_bytes())
