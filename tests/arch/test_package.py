"""What is shipped: the wheel and the weight of a base installation."""

import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.repository import ROOT, SOURCE


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from this checkout."""
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_contract_and_the_licence(wheel_names: list[str]) -> None:
    """The facts of the contract, the type marker and the licence travel with the code."""
    assert {"traghetto/spec/errors.json", "traghetto/spec/openapi.json"} <= set(wheel_names)
    assert "traghetto/py.typed" in wheel_names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


def test_wheel_holds_every_file_of_the_package(wheel_names: list[str]) -> None:
    """SQL, texts and other data files are not left behind."""
    shipped = {
        f"traghetto/{path.relative_to(SOURCE).as_posix()}"
        for path in SOURCE.rglob("*")
        if path.is_file()
        and path.suffix in {".css", ".json", ".md", ".py", ".sql", ".toml", ".typed"}
    }
    assert shipped <= set(wheel_names)


def test_wheel_runs_nothing_at_interpreter_start(wheel_names: list[str]) -> None:
    """A `.pth` file would run code in every Python of the environment."""
    assert [name for name in wheel_names if Path(name).suffix == ".pth"] == []


def test_base_installation_stays_lean() -> None:
    """A base installation is at most 35 packages and 100 MB."""
    measure = runpy.run_path(str(ROOT / "benchmarks" / "install_size.py"))["base_installation"]
    packages, size_bytes = measure()
    assert packages <= 35
    assert size_bytes <= 100_000_000
