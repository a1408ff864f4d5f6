"""How heavy a base installation is: the packages of requirements.txt, as they lie on this disk.

Run it as `scripts/bench install_size`. Compiled Python files are not counted: they are a cache.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]


def base_sizes() -> dict[str, int]:
    """The bytes of every package of requirements.txt that is installed here, and of Traghetto."""
    text = (ROOT / "requirements.txt").read_text()
    names = re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE)
    sizes = {}
    for name in names:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue  # For another platform.
        paths = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
        sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
    own = [*(ROOT / "src").rglob("*"), *(ROOT / "spec").rglob("*")]
    sizes["traghetto"] = sum(
        path.stat().st_size for path in own if path.is_file() and path.suffix != ".pyc"
    )
    return sizes


def base_installation() -> tuple[int, int]:
    """(number of packages, bytes) of a base installation."""
    sizes = base_sizes()
    return len(sizes), sum(sizes.values())


if __name__ == "__main__":
    for name, size_bytes in sorted(base_sizes().items(), key=lambda item: -item[1]):
        print(f"{size_bytes / 1e6:8.1f} MB  {name}")
    packages, total_bytes = base_installation()
    print(f"{total_bytes / 1e6:8.1f} MB  {packages} packages")
