"""UNKNOWN_ERROR, provoked for real, and the end of the process that follows it.

The operating system refuses to let the books grow: a limit on the size of files is put on the
running process, so that the next write to the journal of the database fails as on a full disk.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.recipes import CANARY
from support.client import Answer, ask, chat_body
from support.configuration import model_toml
from support.gateway import GatewayProcess, gateway_process

EXIT_SECONDS_MAX = 20
BODY = b'{"error":"An unknown error occurred"}'


def _forbid_growth(gateway: GatewayProcess, data_dir: Path) -> None:
    """From now on the journal may not grow; SIGXFSZ is ignored by Python.

    The limit is the journal's size, so that the much smaller log can still be written.
    """
    (journal,) = data_dir.glob("*-wal")
    size = journal.stat().st_size
    assert size > 16_384
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (size, size))


def _traghetto(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "traghetto", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


def _configured(tmp_path: Path) -> tuple[str, ...]:
    config = tmp_path / "traghetto.toml"
    config.write_text(model_toml("priced"))
    return ("--config", str(config), "--data-dir", str(tmp_path / "data"))


def _new_key(tmp_path: Path) -> str:
    """A key of the first account, which gets one USD."""
    data_dir = ("--data-dir", str(tmp_path / "data"))
    credited = _traghetto("accounts", "credit", "default", "--usd", "1", *data_dir)
    assert credited.returncode == 0, credited.stderr
    created = _traghetto("keys", "create", "--json", *data_dir)
    assert created.returncode == 0, created.stderr
    secret: str = json.loads(created.stdout)["secret"]
    return secret


def _body(**members: object) -> dict[str, object]:
    return chat_body("priced", messages=[{"role": "user", "content": CANARY}], **members)


def _assert_unknown(answer: Answer) -> None:
    assert answer.status == 500
    assert answer.reason == "Internal Server Error"
    assert answer.body == BODY
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["x-error-code"] == "UNKNOWN_ERROR"
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    assert answer.headers["cf-ray"] == answer.request_id


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_that_cannot_be_charged_ends_the_gateway(tmp_path: Path, stream: bool) -> None:
    """The store fails under a request: UNKNOWN_ERROR and no charge; then the process ends by
    itself, says why, and the next start serves the same books."""
    arguments = _configured(tmp_path)
    data_dir = tmp_path / "data"
    with gateway_process(tmp_path, *arguments) as gateway:
        key = _new_key(tmp_path)
        assert ask(gateway, key, _body()).status == 200
        _forbid_growth(gateway, data_dir)
        answer = ask(gateway, key, _body(stream=stream))
        _assert_unknown(answer)
        assert gateway.process.wait(EXIT_SECONDS_MAX) == 1
    written = gateway.log.read_text()
    _assert_logged_once(written, answer)
    records = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    (stopping,) = (record for record in records if record["event"] == "store_broken")
    assert "disk I/O error" in stopping["reason"]
    assert "the books could not be written" in written.splitlines()[-1]
    assert CANARY not in written
    assert key not in written
    verified = _traghetto("ledger", "verify", "--data-dir", str(data_dir))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    with gateway_process(tmp_path, *arguments) as again:
        answer = ask(again, key, _body())
        assert answer.status == 200
        assert answer.headers["x-venice-balance-usd"] == "0.999956", "one charge, of the answer"


def _assert_logged_once(written: str, answer: Answer) -> None:
    records = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    (record,) = (r for r in records if r.get("request_id") == answer.request_id)
    assert (record["level"], record["code"]) == ("error", "UNKNOWN_ERROR")
    assert record["causes"], "the log says why"
