"""What a clone must hold, and what must not be in it."""

import re
import tomllib
from pathlib import Path

import pytest

from support.repository import ROOT, SOURCE, python_sources, repository_files

MEANINGLESS_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

# Written in pieces, because this file is itself searched.
REGISTRY_HOSTS = re.compile(
    "|".join(
        f"{name}[.]{domain}"
        for name, domain in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "(org|com)"),
            ("deb[.]debian", "org"),
            ("crates", "io"),
            ("proxy[.]golang", "org"),
        )
    )
)
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(?:work|farm|root)" + "/")

TEXTS = [path for path in repository_files() if b"\0" not in path.read_bytes()[:4096]]


def offences(pattern: re.Pattern[str]) -> list[str]:
    """`file:line` of every place in the repository where `pattern` occurs."""
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_registry_is_named() -> None:
    """Where packages come from is the business of the machine that installs them."""
    assert offences(REGISTRY_HOSTS) == []


def test_no_machine_is_named() -> None:
    """No file holds a path that exists on one machine only."""
    assert offences(MACHINE_PATHS) == []


def test_names_mean_something() -> None:
    """No module or package hides behind a name that could hold anything."""
    parts = {
        part
        for path in (*python_sources(), *(ROOT / "tests").rglob("*.py"))
        for part in (*path.relative_to(ROOT).parts[:-1], path.stem)
    }
    assert parts & MEANINGLESS_NAMES == set()


def test_nothing_is_left_to_do_later() -> None:
    """The package has no stub and no marker of unfinished work."""
    marker = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert [place for place in offences(marker) if place.startswith("src/")] == []


def test_every_module_says_what_belongs_in_it() -> None:
    """Every module begins with a docstring."""
    silent = [
        str(path.relative_to(SOURCE))
        for path in python_sources()
        if path.read_text().strip() and not path.read_text().lstrip().startswith('"""')
    ]
    assert silent == []


@pytest.mark.parametrize(
    "name",
    [
        "LICENSE",
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "ARCHITECTURE.md",
        "scripts/serve",
        "scripts/test",
        "scripts/check",
        "scripts/bench",
        ".ci/run",
    ],
)
def test_expected_file_exists(name: str) -> None:
    """A stranger finds the usual files, and none of them is empty."""
    path = ROOT / name
    assert path.is_file()
    assert path.stat().st_size > 100
    if path.parent.name in {"scripts", ".ci"}:
        assert path.stat().st_mode & 0o111, f"{name} is not executable"


def test_license_is_the_whole_apache_text() -> None:
    """LICENSE is the Apache License 2.0 from its title to its appendix."""
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned_by_hash(path: Path) -> None:
    """Every package has one version and at least one hash, and none comes from elsewhere."""
    logical_lines = path.read_text().replace("\\\n", " ").splitlines()
    assert logical_lines
    for line in logical_lines:
        assert re.match(r"[a-z0-9._-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line


def test_requirements_agree_with_one_another() -> None:
    """A package has the same version in every file of requirements, so they share a venv."""
    base = pins(ROOT / "requirements.txt")
    everything = pins(ROOT / "requirements-dev.txt")
    for path in ROOT.glob("requirements*.txt"):
        assert pins(path).items() <= everything.items(), path.name
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.match(r"[\w.-]+", requirement).group() for requirement in declared} <= base.keys()


def pins(path: Path) -> dict[str, frozenset[str]]:
    """name -> the versions pinned for it (more than one where they depend on the Python)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return {name: frozenset(versions) for name, versions in found.items()}
