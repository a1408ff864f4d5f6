"""What an operator does with a running gateway: every command, signal and restart, for real."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import Answer, assert_published, chat, chat_body, raw_chat
from support.configuration import model_toml
from support.gateway import GatewayProcess, gateway_process, operate
from support.upstream import DONE, event
from support.waiting import wait_until
from traghetto.storage.sqlite import open_read_only

KILLS = 5
SECONDS_MAX = 20.0


def traghetto(data_dir: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command for the books in `data_dir`, whether it succeeds or not."""
    return subprocess.run(
        [sys.executable, "-m", "traghetto", *command, "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def write_config(folder: Path, price: str = "1", pace: float = 0.0) -> Path:
    path = folder / "traghetto.toml"
    usual = {"context_tokens": "", "pricing": f'{{ input = "{price}", output = "{price}" }}'}
    path.write_text(
        'rate_limits = "off"\n'
        + model_toml("m", **usual)
        + model_toml("paced", **usual, token_seconds=str(pace))
    )
    return path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def gateway(tmp_path: Path, data_dir: Path) -> Iterator[GatewayProcess]:
    config = write_config(tmp_path, pace=0.05)
    options = ("--config", str(config), "--data-dir", str(data_dir))
    with gateway_process(tmp_path, *options, "--drain-seconds-max", "20") as running:
        yield running


def new_key(data_dir: Path, *options: str, account: str = "someone", usd: str = "5") -> str:
    operate(data_dir, "accounts", "create", account, "--usd", usd, "--new-books")
    secret: str = operate(data_dir, "keys", "create", "--account", account, *options)["secret"]
    return secret


def ask(gateway: GatewayProcess, key: str | None, model: str = "m", **members: Any) -> Answer:
    return chat(gateway, key, model, max_tokens=8, **members)


def events(gateway: GatewayProcess) -> list[str]:
    lines = gateway.log.read_text().splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{")]


def test_a_start_names_its_process(gateway: GatewayProcess) -> None:
    """Signals need the process id, which nobody should have to look for."""
    wait_until(lambda: f"Process: {gateway.process.pid}\n" in gateway.log.read_text())


# Accounts and keys


def test_what_a_command_changes_holds_for_the_next_request(
    gateway: GatewayProcess, data_dir: Path
) -> None:
    """Create, credit, disable, enable, limit and revoke, all beside the running gateway."""
    key = new_key(data_dir, usd="0")
    assert_published(ask(gateway, key), "INSUFFICIENT_BALANCE")
    operate(data_dir, "accounts", "credit", "someone", "--usd", "2.5", "--reason", "paid")
    reply = ask(gateway, key)
    assert reply.status == 200
    assert reply.headers["x-venice-balance-usd"] == "2.5"
    operate(data_dir, "accounts", "set", "someone", "--disabled")
    assert_published(ask(gateway, key), "API_ACCESS_DISABLED")
    operate(data_dir, "accounts", "set", "someone", "--enabled", "--subscription", "inactive")
    assert_published(ask(gateway, key), "AUTHENTICATION_FAILED_INACTIVE_KEY")
    operate(data_dir, "accounts", "set", "someone", "--subscription", "active")
    assert ask(gateway, key).status == 200
    limited = operate(data_dir, "keys", "create", "--account", "someone", "--limit-usd", "0")
    assert_published(ask(gateway, limited["secret"]), "API_KEY_USD_SPEND_LIMIT_EXCEEDED")
    (first, second) = operate(data_dir, "keys", "list", "--account", "someone")
    assert second["id"] == limited["key"]["id"]
    operate(data_dir, "keys", "revoke", first["id"])
    assert_published(ask(gateway, key), "AUTHENTICATION_FAILED")


def test_the_books_can_be_verified_while_money_moves(
    gateway: GatewayProcess, data_dir: Path
) -> None:
    """A snapshot is consistent at any moment; the gateway does not notice it."""
    key = new_key(data_dir)
    stop = threading.Event()
    statuses: list[int] = []

    def spend() -> None:
        while not stop.is_set():
            statuses.append(ask(gateway, key, stream=len(statuses) % 2 == 0).status)

    spender = threading.Thread(target=spend)
    spender.start()
    try:
        counts = []
        for _ in range(3):
            found = operate(data_dir, "ledger", "verify")
            assert found["differences"] == []
            counts.append(found["usages"])
    finally:
        stop.set()
        spender.join()
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    assert set(statuses) == {200}


# Starting


def test_the_first_start_shows_one_admin_key_once(tmp_path: Path, data_dir: Path) -> None:
    """The key works, is shown at the first start alone, and is nowhere else."""
    options = ("--data-dir", str(data_dir))
    with gateway_process(tmp_path, *options) as first:
        key = first.admin_key
        assert key is not None
        assert ask(first, key, "simulator").status == 200
        log = first.log.read_text()
        assert key not in log
        assert "Models: simulator" in log
    with gateway_process(tmp_path, *options) as second:
        assert second.admin_key is None
        assert ask(second, key, "simulator").status == 200
    for path in data_dir.iterdir():
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_gateway_on_the_same_books_is_refused(
    gateway: GatewayProcess, data_dir: Path
) -> None:
    """It says why, exits with an error, and leaves the first one alone."""
    refused = traghetto(data_dir, "serve", "--port", "0")
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert str(data_dir) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert ask(gateway, new_key(data_dir)).status == 200


def test_a_model_without_a_price_is_refused_at_its_line(tmp_path: Path, data_dir: Path) -> None:
    """A forgotten price would give work away: the start is refused, naming file, line and cure."""
    path = tmp_path / "traghetto.toml"
    path.write_text('# a comment\n\n[[models]]\nid = "forgotten"\nengine = "simulator"\n')
    refused = traghetto(data_dir, "serve", "--port", "0", "--config", str(path))
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert re.search(rf"{re.escape(str(path))}\D{{1,8}}3\b", refused.stderr), refused.stderr
    assert "forgotten" in refused.stderr
    assert "pricing = {" in refused.stderr
    assert "Traceback" not in refused.stderr


# Signals


def test_sighup_changes_prices_and_keeps_the_old_ones_on_an_error(
    gateway: GatewayProcess, tmp_path: Path, data_dir: Path
) -> None:
    """A request is charged by the prices it began with, the next one by the new ones."""
    key = new_key(data_dir)

    def price() -> float:
        cost: dict[str, float] = (reply := ask(gateway, key, seed=1)).json["cost"]
        assert reply.status == 200
        return cost["usd"]

    before = price()
    write_config(tmp_path, price="10")
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in events(gateway), SECONDS_MAX)
    assert price() == pytest.approx(10 * before)
    (tmp_path / "traghetto.toml").write_text("[[models]]\nid = 7\n")
    gateway.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload_refused" in events(gateway), SECONDS_MAX)
    assert price() == pytest.approx(10 * before)
    assert operate(data_dir, "ledger", "verify")["differences"] == []


def test_sigterm_lets_a_stream_finish(gateway: GatewayProcess, data_dir: Path) -> None:
    """New connections are refused at once; what runs ends properly and is charged."""
    key = new_key(data_dir)
    with socket.create_connection(gateway.address, timeout=20) as connection:
        connection.sendall(raw_chat(chat_body("paced", stream=True, max_tokens=20), key))
        received = connection.recv(65536)
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in events(gateway), SECONDS_MAX)
        with pytest.raises(OSError):
            socket.create_connection(gateway.address, timeout=5).close()
        while piece := connection.recv(65536):
            received += piece
    assert received.endswith(event(DONE) + b"\r\n0\r\n\r\n")
    assert gateway.process.wait(20) == 0
    assert events(gateway)[-1] == "stopped"
    with open_read_only(data_dir) as books:
        (usage,) = books.usages()
        assert list(books.holds()) == []
    assert 0 < usage.completion_tokens <= 20
    assert usage.charged > 0


# Crashes


def test_a_killed_gateway_starts_again_with_true_books(tmp_path: Path, data_dir: Path) -> None:
    """Killed amid requests again and again: what was answered is charged, nothing else is."""
    config = write_config(tmp_path, pace=0.01)
    options = ("--config", str(config), "--data-dir", str(data_dir))
    key = new_key(data_dir, usd="100")
    rng = random.Random(3)
    answered: dict[str, int] = {}
    """By request id: the tokens that a complete answer reported to its client."""
    for _ in range(KILLS):
        with gateway_process(tmp_path, *options) as gateway:
            with open_read_only(data_dir) as books:
                assert list(books.holds()) == [], "orphans are voided before the first request"
            threads = [
                threading.Thread(target=keep_asking, args=(gateway, key, n, answered))
                for n in range(6)
            ]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.2, 0.6))
            gateway.kill()
            for thread in threads:
                thread.join()
        assert operate(data_dir, "ledger", "verify")["differences"] == []
    with gateway_process(tmp_path, *options) as gateway:
        assert ask(gateway, key).status == 200
    with open_read_only(data_dir) as books:
        charged = {usage.request_id: usage.completion_tokens for usage in books.usages()}
        spent = sum(usage.charged for usage in books.usages())
    assert len(answered) >= KILLS
    assert answered.items() <= charged.items(), "an answer was complete without its charge"
    usd = operate(data_dir, "accounts", "show", "someone")["usd"]
    assert round(float(usd) * 10**9) == 100 * 10**9 - spent


def keep_asking(gateway: GatewayProcess, key: str, n: int, answered: dict[str, int]) -> None:
    """Ask until the gateway is gone, and write down every complete answer."""
    model = "paced" if n % 3 == 0 else "m"
    with contextlib.suppress(OSError, AssertionError, http.client.HTTPException):
        while True:
            reply = ask(gateway, key, model, stream=n % 2 == 0)
            last = reply.chunks[-1] if n % 2 == 0 else reply.json
            answered[reply.request_id] = last["usage"]["completion_tokens"]
