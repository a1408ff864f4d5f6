"""What the documents say of the lab works as it is printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from support.repository import ROOT
from traghetto.testing import Lab

PAGE = ROOT / "docs" / "how-to" / "lab.md"
PRINTED = "http://127.0.0.1:8421"
COMMANDS = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_tests_on_the_page_pass(tmp_path: Path) -> None:
    """Copied into a file of somebody else's."""
    (program,) = blocks("python")
    (tmp_path / "test_mine.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_requests_on_the_page_are_answered(lab: Lab) -> None:
    """Each of them, in order, and none is refused."""
    (requests,) = (block for block in blocks("sh") if "lab/clock" in block)
    for command in requests.splitlines():
        printed = command.replace(PRINTED, lab.url.removesuffix("/api/v1"))
        done = subprocess.run(["bash", "-c", printed], capture_output=True, check=True)
        assert "error" not in json.loads(done.stdout), command


def test_three_lines_start_a_lab_in_a_shell(tmp_path: Path, lab: Lab) -> None:
    """With a port that is free here in the place of the printed one."""
    (script,) = (block for block in blocks("sh") if "trap" in block)
    port = "18421"
    script = "set -eu\n" + script.replace("8421", port) + 'echo "$KEY"\n'
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True, text=True, check=True, timeout=30, cwd=tmp_path,
        env={**os.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout.startswith("VENICE_INFERENCE_KEY_")
