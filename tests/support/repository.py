"""Where the checkout is, and which of its files are part of the product."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "traghetto"

_BUILT = {"__pycache__", "dist", "build"}


def python_sources() -> list[Path]:
    """Every module of the package."""
    return sorted(SOURCE.rglob("*.py"))


def repository_files() -> list[Path]:
    """What git tracks or would track; without git, everything that is not hidden or built."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        found = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
        return sorted(
            ROOT / path
            for path in found
            if not any(part in _BUILT or part.startswith(".venv") for part in path.parts)
            and path.parts[0] not in {".git", ".mypy_cache", ".ruff_cache", ".hypothesis"}
        )
    paths = [ROOT / name for name in listed.split("\0") if name]
    return sorted(path for path in paths if path.is_file())
