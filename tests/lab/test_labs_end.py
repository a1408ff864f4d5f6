"""Labs come and go, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from support.processes import is_running
from support.waiting import wait_until
from traghetto.testing import Lab, start_lab
from traghetto.testing.http import ask

LABS = 50


def use(lab: Lab) -> None:
    """What a test does: an account, a fault, a reset and an image."""
    headers = {"authorization": f"Bearer {lab.key()}", "content-type": "application/json"}
    body = {"model": "chat", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    lab.fault("overloaded", calls=1)
    url = f"{lab.url}/chat/completions"
    assert ask("POST", url, headers, msgspec.json.encode(body)).status == 429
    lab.reset()
    headers["authorization"] = f"Bearer {lab.key()}"
    assert ask("POST", url, headers, msgspec.json.encode(body)).status == 200


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_fifty_labs_at_once_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process, no port, no file."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pids: list[int] = []
    ports: list[int] = []

    def start_use_and_stop(_: int) -> None:
        with start_lab() as lab:
            facts = ask("GET", lab.control_url, {}).json
            pids.append(facts["pid"])
            ports.append(urllib.parse.urlsplit(lab.url).port or 0)
            use(lab)

    with ThreadPoolExecutor(LABS) as threads:
        list(threads.map(start_use_and_stop, range(LABS)))
    assert len(set(pids)) == LABS
    assert not [pid for pid in pids if is_running(pid)]
    assert all(map(is_free, ports))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_lab_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: signal.Signals
) -> None:
    """As it does for `traghetto serve`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "traghetto", "lab", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        msgspec.json.decode(process.stdout.readline())
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal_number)
        assert process.wait(20) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_lab_is_the_same_wherever_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What configures a gateway of the same user does not reach it."""
    monkeypatch.setenv("TRAGHETTO_PEPPER_FILE", str(tmp_path / "pepper"))
    monkeypatch.setenv("TRAGHETTO_PORT", "no port")
    with start_lab() as lab:
        assert lab.key()
    assert list(tmp_path.iterdir()) == []


def test_a_lab_without_input_ends_at_once() -> None:
    """As it was asked to, whatever kind of file its input is."""
    command = [sys.executable, "-m", "traghetto", "lab", "--port", "0", "--until-eof"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_a_lab_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """A test run that is killed leaves no lab."""
    program = textwrap.dedent("""
        from traghetto.testing import start_lab
        from traghetto.testing.http import ask
        import time
        with start_lab() as lab:
            print(ask("GET", lab.control_url, {}).json["pid"], flush=True)
            time.sleep(600)
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.kill()
    wait_until(lambda: not is_running(pid) and list(tmp_path.iterdir()) == [])


def test_what_a_killed_lab_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not what a living one has, nor what is too young to be judged."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "traghetto", "lab", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as killed:
        assert killed.stdout is not None
        killed.stdout.readline()
        killed.kill()
    (left,) = tmp_path.iterdir()
    with start_lab() as living:
        (young,) = set(tmp_path.iterdir()) - {left}
        long_ago = time.time() - 3600
        os.utime(left, (long_ago, long_ago))
        os.utime(young, (long_ago, long_ago))
        with start_lab():
            assert not left.exists()
            assert young.exists()
        assert living.key()


def test_the_plugin_gives_fixtures(tmp_path: Path) -> None:
    """In a test run that knows nothing of us but that we are installed."""
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent("""
            import urllib.request

            KEYS = []

            def test_first(lab, lab_url):
                assert lab_url == lab.url
                KEYS.append(lab.key())
                lab.fault("broken")

            def test_second(lab):
                request = urllib.request.Request(
                    f"{lab.url}/chat/completions",
                    b'{"model":"chat","messages":[{"role":"user","content":"Hi"}]}',
                    {"Authorization": f"Bearer {lab.key()}", "Content-Type": "application/json"},
                )
                with urllib.request.urlopen(request) as answer:
                    assert answer.status == 200
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
