"""Which module may import which, and what a command line may load."""

import subprocess
import sys

from importlinter.cli import lint_imports

from support.repository import ROOT


def test_import_contracts_hold(monkeypatch, capsys) -> None:
    """Imports point one way, and drivers and the web framework stay where they belong."""
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True)
    assert status == 0, capsys.readouterr().out


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
