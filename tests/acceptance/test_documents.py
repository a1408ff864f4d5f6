"""Every command, request and configuration in the documents works as it is printed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.repository import ROOT

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PRINTED_URL = "http://127.0.0.1:8420"
COMMANDS = Path(sys.executable).parent


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Running:
    """A gateway that was started as the documents say."""

    url: str
    environment: dict[str, str]

    def run(self, command: list[str]) -> str:
        """Standard output of a command that must succeed, in the environment of its reader."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.environment["HOME"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shell(self, text: str) -> str:
        return self.run(["bash", "-euo", "pipefail", "-c", text.replace(PRINTED_URL, self.url)])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`traghetto serve` with a free port and a fresh data directory, and nothing else."""
    with serving(tmp_path_factory.mktemp("data")) as running:
        yield running


@contextlib.contextmanager
def serving(data: Path) -> Iterator[Running]:
    """A gateway as the documents start it, for one reader."""
    environment = {
        "PATH": f"{COMMANDS}:{os.environ['PATH']}",
        "HOME": str(data),
        "TRAGHETTO_DATA_DIR": str(data / "books"),
    }
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "traghetto", "serve", "--port", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        address, key = process.stdout.readline(), process.stdout.readline()
        assert address.startswith("Traghetto answers at "), (data / "log").read_text()
        assert key.startswith("Admin key (shown once): "), (data / "log").read_text()
        environment["TRAGHETTO_KEY"] = key.split()[-1]
        yield Running(address.split()[-1].removesuffix("/api/v1"), environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        assert process.wait(20) == 0, (data / "log").read_text()


def test_first_request_with_curl(gateway: Running) -> None:
    """The requests with curl in the README are answered by the simulators."""
    request, picture = (block for block in blocks(ROOT / "README.md", "sh") if "curl" in block)
    gateway.shell(picture)
    saved = json.loads((Path(gateway.environment["HOME"]) / "ferry.json").read_bytes())
    assert saved["data"][0]["b64_json"]
    answer = json.loads(gateway.shell(request))
    assert answer["object"] == "chat.completion"
    assert "simulat" in answer["choices"][0]["message"]["content"].lower()


def test_first_request_with_the_openai_client(gateway: Running) -> None:
    """The program in the README streams an answer with the `openai` package."""
    (program,) = blocks(ROOT / "README.md", "python")
    program = program.replace(PRINTED_URL, gateway.url)
    assert "simulat" in gateway.run([sys.executable, "-c", program]).lower()


def test_error_of_the_tutorial(gateway: Running) -> None:
    """The tutorial's wrong model name gives the body and the header that it promises."""
    tutorial = ROOT / "docs" / "tutorial" / "first-steps.md"
    (request,) = (block for block in blocks(tutorial, "sh") if "no-such-model" in block)
    head, _, body = gateway.shell(request).partition("\r\n\r\n")
    assert "x-error-code: MODEL_NOT_FOUND" in head
    assert f"`{body}`" in tutorial.read_text()


def test_commands_of_the_readme(gateway: Running) -> None:
    """The commands on accounts, keys, books and errors in the README succeed, in order."""
    commands = [
        line
        for block in blocks(ROOT / "README.md", "sh")
        for line in block.splitlines()
        if line.startswith("traghetto ")
    ]
    assert len(commands) >= 5
    for command in commands:
        gateway.shell(command)


HOW_TOS = sorted((ROOT / "docs" / "how-to").glob("*.md"))


OF_A_LAB = {"lab.md"}
"""Pages whose requests are for a lab: tests/lab carries them out."""


@pytest.mark.parametrize(
    "path",
    [path for path in HOW_TOS if "curl" in path.read_text() and path.name not in OF_A_LAB],
    ids=named,
)
def test_requests_of_the_how_tos(path: Path, gateway: Running) -> None:
    """Every printed request is answered, and none with an error."""
    requests = [block for block in blocks(path, "sh") if "curl" in block]
    commands = [command for block in requests for command in block.replace("\\\n", "").splitlines()]
    assert commands
    for command in commands:
        answer = gateway.shell(command.strip()).encode()
        if (saved := re.search(r"--output (\S+)", command)) is not None:
            answer = (Path(gateway.environment["HOME"]) / saved[1]).read_bytes()
        assert answer
        assert b'"error"' not in answer


def test_programs_of_the_how_tos(gateway: Running) -> None:
    """The program on the page about images makes one with the `openai` package."""
    (program,) = blocks(ROOT / "docs" / "how-to" / "images.md", "python")
    program = program.replace(PRINTED_URL, gateway.url)
    assert gateway.run([sys.executable, "-c", program]).strip() == "True"


def test_programs_of_the_page_on_the_client(gateway: Running) -> None:
    """Each program on the page about the Python client runs, and prints what stands below it."""
    page = ROOT / "docs" / "how-to" / "python-client.md"
    (setup,) = blocks(page, "sh")
    programs = re.findall(
        r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?",
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert len(programs) == 5
    for program, printed in programs:
        output = gateway.shell(f"{setup}python -W error - <<'END'\n{program}END")
        assert output == printed if printed else output


@pytest.mark.parametrize("name", ["keys-and-limits.md", "operate.md"])
def test_commands_of_the_how_tos(name: str, tmp_path: Path) -> None:
    """Printed commands succeed in order, for a reader who has an account and a key."""
    commands = [
        line
        for block in blocks(ROOT / "docs" / "how-to" / name, "sh")
        for line in block.splitlines()
        if line.startswith("traghetto ") and "REQUEST_ID" not in line
    ]
    assert len(commands) >= 5
    with serving(tmp_path) as running:
        if "accounts create acme" not in "\n".join(commands):
            running.shell("traghetto accounts create acme")
        key = json.loads(running.shell("traghetto keys create --json"))["key"]["id"]
        for command in commands:
            here = command.replace("/backups/", f"{tmp_path}/").replace("/var/lib/", f"{tmp_path}/")
            running.shell(here.replace("KEY_ID", key))


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "toml")], ids=named)
def test_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    """Every printed configuration would be accepted, once what it names exists."""
    keys = {"GPU_1_KEY": "a key", "CLASSIFIER_KEY": "a key", "FORGE_LOGIN": "user:password"}
    environment = os.environ | keys
    for words in (block for block in blocks(path, "text") if "[blocked]" in block):
        (tmp_path / "words.txt").write_text(words)
    for block in blocks(path, "toml"):
        for named_file in re.findall(r'"/srv/models/(.+)"', block):
            (tmp_path / named_file).touch()
        for named_file in re.findall(r'"/srv/workflows/(.+)"', block):
            (tmp_path / named_file).write_text("".join(blocks(path, "json")))
        config = tmp_path / "traghetto.toml"
        here = block
        for folder in ("/srv/models", "/srv/workflows", "/etc/traghetto"):
            here = here.replace(folder, str(tmp_path))
        config.write_text(here)
        command = [sys.executable, "-m", "traghetto", "models", "check", "--config", str(config)]
        done = subprocess.run(
            command if "[[models]]" in block else [*command, "--found-later"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_commands_exist(path: Path) -> None:
    """Every printed command line has options that its command knows."""
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for line in (line for block in blocks(path, "sh") for line in block.splitlines()):
        match = re.match(r"(?:scripts/serve|traghetto (\w+)(?: (\w+))?)( .*)?$", line)
        if match is None:
            continue
        name = " ".join(["traghetto", *(part for part in match.groups()[:2] if part)])
        name = "traghetto serve" if line.startswith("scripts/serve") else name
        options = re.findall(r" (--[a-z-]+)", (match[3] or "").partition(" #")[0])
        section = reference.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert section, f"{line}: no command {name}"
        assert [option for option in options if option not in section] == [], line
