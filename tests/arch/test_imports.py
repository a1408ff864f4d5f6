"""Which module may import which, and what a command line may load."""

import subprocess
import sys
import tomllib

import pytest

from support.repository import ROOT, SOURCE

EXEMPT = {
    "Only storage imports a database driver": {"storage"},
    "Only the edge imports the web framework": {"http"},
    "Only the command line imports the client": {"cli", "client"},
}
"""Who may do what a contract forbids."""


def test_import_contracts_hold() -> None:
    """Imports point one way, and drivers and the web framework stay where they belong."""
    # In a process of its own, because it reconfigures the logging of the one it runs in.
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", EXEMPT)
def test_a_contract_holds_for_everybody_but_those_who_are_exempt(name: str) -> None:
    """A package that is added later does not escape a contract by not being listed in it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (bound,) = (contract["source_modules"] for contract in contracts if contract["name"] == name)
    members = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    members -= {"__init__", "__pycache__"}
    assert set(bound) == {f"traghetto.{member}" for member in members - EXEMPT[name]}


def test_command_line_loads_no_server() -> None:
    """Importing the command line loads neither server, client nor database driver."""
    script = (
        "import sys, traghetto.cli\n"
        "heavy = {'uvicorn', 'starlette', 'aiohttp', 'apsw', 'msgspec', 'structlog', 'asyncio'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert loaded.split() == []


def test_client_loads_no_server() -> None:
    """Importing the client, down to the module that sends, loads nothing of the server's."""
    script = (
        "import sys, traghetto.client; from traghetto.client import AsyncClient, Client\n"
        "heavy = {'aiohttp', 'apsw', 'click', 'starlette', 'uvicorn'}\n"
        "ours = {n for n in sys.modules if n.startswith('traghetto.') and n.count('.') == 1}\n"
        "print(*sorted(heavy & set(sys.modules)), *sorted(ours))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert loaded.split() == ["traghetto.client", "traghetto.errors", "traghetto.wire"]
