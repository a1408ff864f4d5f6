"""The model feature suffix: `<model>:<key>=<value>[&<key>=<value>...]` (contract B.1.3)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

_FLAGS: Final = frozenset(
    {
        "disable_thinking",
        "enable_web_citations",
        "enable_web_scraping",
        "include_search_results_in_stream",
        "include_venice_system_prompt",
        "return_search_results_as_documents",
        "strip_thinking_response",
    }
)
_TEXTS: Final = frozenset({"character_slug", "enable_web_search"})
_BOOLEANS: Final = {"true": True, "false": False}


def split_suffix(model: str) -> tuple[str, dict[str, Any]]:
    """`model` without its suffix, and the members of `venice_parameters` that the suffix sets.

    The suffix begins at the first `:` that has a `=` somewhere behind it; a tail without `=` is
    part of the id. Unknown keys are ignored, `enable_e2ee` and `enable_x_search` among them. A
    value that does not fit its key is kept as text, so that validation names it like any other
    wrong member of the body.
    """
    colon = model.find(":")
    if colon < 0 or "=" not in model[colon:]:
        return model, {}
    parameters: dict[str, Any] = {}
    for pair in model[colon + 1 :].split("&"):
        key, equals, encoded = pair.partition("=")
        if not equals:
            continue
        if key in _FLAGS:
            value = unquote(encoded)
            parameters[key] = _BOOLEANS.get(value, value)
        elif key in _TEXTS:
            parameters[key] = unquote(encoded)
    return model[:colon], parameters
