"""The documents agree with the code and with one another."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import ROOT
from traghetto.settings import setting_rows

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_reference_is_up_to_date() -> None:
    """The reference pages are what the code would write today."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_reference_page_is_generated() -> None:
    """Nobody writes a second copy of a table by hand."""
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"]
    assert {path.name for path in (ROOT / "docs" / "reference").iterdir()} == set(generated)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file, and every path in code quotes of the tree exists."""
    text = path.read_text()
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    quoted = re.findall(r"`((?:src|docs|tests|scripts|spec|benchmarks)/[\w./-]+)`", text)
    missing += [name for name in quoted if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_number_beside_a_setting_is_its_default(path: Path) -> None:
    """Where a text says "(`name`, 30)" or "`name` (30)", the gateway does so unless told otherwise."""
    defaults = {row.name: row.default for row in setting_rows()}
    said = re.findall(r"`(\w+)`(?:, | \()(\d[\d,.]*)\)", path.read_text())
    wrong = [
        (name, number)
        for name, number in said
        if name in defaults and float(number.replace(",", "")) != float(defaults[name])
    ]
    assert wrong == []


def test_the_number_of_packages_is_said_once_and_right() -> None:
    """ARCHITECTURE.md counts what `requirements.txt` pins; no other text repeats it."""
    pinned = re.findall(r"^[\w.-]+==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    said = {
        (path.name, int(number))
        for path in DOCUMENTS
        for number in re.findall(r"\b(\d+) packages", path.read_text())
    }
    assert said == {("ARCHITECTURE.md", len(pinned))}
