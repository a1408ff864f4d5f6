"""The documents agree with the code and with one another."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from support.repository import ROOT

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
