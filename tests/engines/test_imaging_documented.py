"""Every instruction that the page on images names is one that the editor understands."""

import re

import pytest

from support.repository import ROOT
from traghetto.engines.imaging.instructions import NotUnderstood, parse

PAGE = (ROOT / "docs" / "how-to" / "images.md").read_text()
TABLE = PAGE.partition("## What the classical editor understands")[2].partition("\nA prompt")[0]
NAMED = [
    text
    for row in TABLE.splitlines()
    if row.startswith("| ")
    for text in re.findall(r"`(.+?)`", row)
]


@pytest.mark.parametrize("instruction", NAMED)
def test_a_documented_instruction_is_understood(instruction: str) -> None:
    """Alone, and with another one behind it."""
    (only,) = parse(instruction)
    assert parse(f"{instruction}, and then sepia")[0] == only


@pytest.mark.parametrize("prompt", ["add a dragon", "blur the background", "hello"])
def test_what_takes_a_model_is_refused(prompt: str) -> None:
    """As the page says."""
    with pytest.raises(NotUnderstood):
        parse(prompt)


def test_the_table_is_not_empty() -> None:
    """The page was read."""
    assert len(NAMED) >= 25
