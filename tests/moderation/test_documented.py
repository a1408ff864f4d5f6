"""What the page on moderation says of its examples is what the code does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from support.repository import ROOT
from traghetto.moderation import Policy
from traghetto.moderation.words import (
    ENTRIES_MAX,
    ENTRY_CHARACTERS_MAX,
    ENTRY_WORDS_MAX,
    FILE_BYTES_MAX,
    read_words,
)

PAGE = (ROOT / "docs" / "how-to" / "moderation.md").read_text()
(LIST,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
EXAMPLES = re.findall(
    r"^\| `(.+?)`(?: \(.+\))? \| (allowed|adult|minor|blocked) \|$", PAGE, re.MULTILINE
)


@pytest.mark.parametrize(("prompt", "said"), EXAMPLES, ids=ascii)
def test_a_printed_prompt_has_the_printed_verdict(prompt: str, said: str, tmp_path: Path) -> None:
    """Each row of the table, judged with the word list that the page prints."""
    (tmp_path / "words.txt").write_text(LIST)
    verdict = asyncio.run(Policy(read_words(tmp_path / "words.txt")).judge_prompt(prompt))
    strongest = [name for name in ("minor", "blocked", "adult") if getattr(verdict, name)]
    assert (strongest or ["allowed"])[0] == said


def test_every_row_is_tried() -> None:
    """The table has examples of each verdict, one of them with a character that nobody sees."""
    assert {said for _, said in EXAMPLES} == {"allowed", "adult", "minor", "blocked"}
    assert len(EXAMPLES) >= 9
    assert any("\u200b" in prompt for prompt, _ in EXAMPLES)


def test_printed_limits_are_the_limits() -> None:
    """The page says how long an entry and a list may be."""
    words = re.sub(r"\s+", " ", PAGE)
    assert f"at most {ENTRY_CHARACTERS_MAX} characters and {ENTRY_WORDS_MAX} words" in words
    assert f"{ENTRIES_MAX:,} entries and {FILE_BYTES_MAX >> 20} MiB" in words
