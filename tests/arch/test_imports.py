"""Which module may import which, and what a command line may load."""

import subprocess
import sys

from support.repository import ROOT


def test_import_contracts_hold() -> None:
    """Imports point one way, and drivers and the web framework stay where they belong."""
    # In a process of its own, because it reconfigures the logging of the one it runs in.
    script = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


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
