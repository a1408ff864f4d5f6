"""The model feature suffix is split off and read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.wire.suffix import split_suffix


@pytest.mark.parametrize(
    ("model", "base", "parameters"),
    [
        ("m", "m", {}),
        ("m:enable_web_search=on", "m", {"enable_web_search": "on"}),
        (
            "m:disable_thinking=true&strip_thinking_response=false",
            "m",
            {"disable_thinking": True, "strip_thinking_response": False},
        ),
        ("m:character_slug=alan%20w%26x", "m", {"character_slug": "alan w&x"}),
        ("a/b:enable_web_citations=true", "a/b", {"enable_web_citations": True}),
        ("m:web", "m:web", {}),
        ("m:8b:enable_web_search=auto", "m", {}),
        ("m:unknown=1&enable_web_search=off", "m", {"enable_web_search": "off"}),
        ("m:enable_e2ee=false&enable_x_search=true", "m", {}),
        ("m:disable_thinking=yes", "m", {"disable_thinking": "yes"}),
        ("m:disable_thinking&enable_web_search=on", "m", {"enable_web_search": "on"}),
        ("m:=&&==", "m", {}),
        (":enable_web_search=on", "", {"enable_web_search": "on"}),
        ("m=x", "m=x", {}),
    ],
)
def test_the_suffix_is_split(model: str, base: str, parameters: dict[str, Any]) -> None:
    """One row per rule of the contract's section on suffixes."""
    assert split_suffix(model) == (base, parameters)


@given(st.text())
def test_any_text_is_split(model: str) -> None:
    """No text fails, and what is left is how the text begins."""
    base, _ = split_suffix(model)
    assert model.startswith(base)
