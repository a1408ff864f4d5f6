"""A backup that is taken while a gateway works, and the gateway that is started from it."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.client import ask, chat, chat_body, pending_chat
from support.commands import run_command
from support.configuration import model_toml
from support.gateway import GatewayProcess, gateway_process
from support.old_books import dump
from support.waiting import wait_until
from traghetto.ledger.verify import verify
from traghetto.storage.sqlite import FILE_NAME, SqliteSnapshot, open_read_only, open_view

ACCOUNTS = ("usd", "bundled", "diem")
BACKUPS = 3
HELD = 2
"""Streams that outlive every backup."""
CONFIG = (
    'rate_limits = "off"\n'
    + model_toml("m", pricing='{ input = "10", output = "10" }')
    + model_toml("paced", token_seconds="0.5")
)


@dataclass
class Taken:
    """A backup, and what its gateway had answered before and after it was taken."""

    file: Path
    answered_before: int
    answered_after: int

    @contextlib.contextmanager
    def opened(self) -> Iterator[SqliteSnapshot]:
        with SqliteSnapshot(open_view(self.file)) as books:
            yield books


@dataclass
class Scene:
    """Backups taken under load, the keys of each account, and the pepper of their books."""

    folder: Path
    pepper: Path
    keys: dict[str, str]
    backups: list[Taken]

    def options(self, data_dir: Path) -> tuple[str, ...]:
        return ("--config", str(self.folder / "traghetto.toml"), "--data-dir", str(data_dir))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "traghetto.toml").write_text(CONFIG)
    data_dir = folder / "data"
    made = Scene(folder, data_dir / "pepper", {}, [])
    with gateway_process(folder, *made.options(data_dir), "--drain-seconds-max", "1") as gateway:
        for name in ACCOUNTS:
            here = ("--data-dir", data_dir, "--json")
            assert run_command("accounts", "create", name, f"--{name}", "50", *here).status == 0
            key = run_command("keys", "create", "--account", name, *here).json
            made.keys[name] = key["secret"]
        with under_load(gateway, made.keys) as answered:
            for number in range(BACKUPS):
                before = len(answered)
                file = folder / f"backup-{number}"
                done = run_command("backup", file, "--data-dir", data_dir)
                assert done.status == 0, done.err
                made.backups.append(Taken(file, before, len(answered)))
                wait_until(lambda: len(answered) > made.backups[-1].answered_after, 20)
        assert dict.fromkeys(answered) == {200: None}, "nobody noticed"
    return made


@contextlib.contextmanager
def under_load(gateway: GatewayProcess, keys: dict[str, str]) -> Iterator[list[int]]:
    """Requests of every account go on, and some are held open; the statuses so far."""
    answered: list[int] = []
    stop = threading.Event()

    def keep_asking(key: str) -> None:
        while not stop.is_set():
            answered.append(chat(gateway, key, "m", stream=len(answered) % 2 == 0).status)

    threads = [threading.Thread(target=keep_asking, args=(key,)) for key in keys.values()]
    with contextlib.ExitStack() as streams:
        for _ in range(HELD):
            streams.enter_context(
                pending_chat(gateway, keys["usd"], "paced", stream=True, max_tokens=400)
            )
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(answered) > len(keys), 20)
            yield answered
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def funds(data_dir: Path) -> dict[str, Any]:
    """What every account owns, as its operator is shown it."""
    rows = run_command("accounts", "list", "--data-dir", data_dir, "--json").json
    return {row["name"]: (row["usd"], row["bundled"], row["diem"]) for row in rows}


def test_a_backup_under_load_is_one_moment(scene: Scene) -> None:
    """Half of a request in it, or one before the backup that is not, would be false books."""
    counts = []
    for taken in scene.backups:
        with taken.opened() as books:
            found = verify(books)
            assert found.differences == ()
            assert found.usages >= taken.answered_before, "what was answered is in the books"
            counts.append(found.usages)
            requests = {usage.request_id for usage in books.usages()}
            assert not {hold.request_id for hold in books.holds()} & requests
            assert len(list(books.holds())) >= HELD, "open streams are in it as holds"
    assert counts == sorted(set(counts)), "each is a later moment than the one before"


def test_a_gateway_starts_from_a_backup(scene: Scene, tmp_path: Path) -> None:
    """With the pepper its keys work and its balances are those of that moment; holds are over."""
    taken = scene.backups[1]
    data_dir = tmp_path / "data"
    assert run_command("restore", taken.file, "--data-dir", data_dir).status == 0
    assert dump(data_dir / FILE_NAME) == dump(taken.file)
    shutil.copy(scene.pepper, data_dir / "pepper")
    with taken.opened() as books:
        owned = {(row.account_id, row.currency): row.amount for row in books.balances()}
        ids = {account.name: account.id for account in books.accounts()}
        holds = len(list(books.holds()))
    before = funds(data_dir)
    with gateway_process(tmp_path, *scene.options(data_dir)) as gateway:
        assert gateway.admin_key is None, "it has one: this is no first start"
        with open_read_only(data_dir) as books:
            assert list(books.holds()) == []
        log = gateway.log.read_text()
        assert f'"holds_recovered","count":{holds}' in log.replace(" ", ""), log
        assert funds(data_dir) == before
        for name, key in scene.keys.items():
            currency = {"usd": "USD", "bundled": "BUNDLED_CREDITS", "diem": "DIEM"}[name]
            reply = chat(gateway, key, "m")
            assert reply.status == 200
            with open_read_only(data_dir) as books:
                [usage] = [row for row in books.usages() if row.request_id == reply.request_id]
                [now] = [
                    row.amount
                    for row in books.balances()
                    if (row.account_id, row.currency) == (ids[name], currency)
                ]
            assert usage.currency == currency
            assert now == owned[ids[name], currency] - usage.charged
    verified = run_command("ledger", "verify", "--data-dir", data_dir, "--json").json
    assert verified["differences"] == []
    assert verified["open_holds"] == 0


def test_a_restored_gateway_without_the_pepper_says_what_is_missing(
    scene: Scene, tmp_path: Path
) -> None:
    """It must not start, make another pepper and turn every key away."""
    data_dir = tmp_path / "data"
    assert run_command("restore", scene.backups[0].file, "--data-dir", data_dir).status == 0
    done = run_command("serve", "--port", "0", *scene.options(data_dir))
    done.assert_refused(1, f"{data_dir / 'pepper'} does not exist, but the keys in these books")
    assert "restore it from a backup; if it is lost, revoke every key" in done.err
    assert not (data_dir / "pepper").exists()


def test_a_running_gateways_books_are_not_replaced(scene: Scene, tmp_path: Path) -> None:
    """Neither its directory nor its requests notice that somebody tried."""
    data_dir = tmp_path / "data"
    assert run_command("restore", scene.backups[2].file, "--data-dir", data_dir).status == 0
    shutil.copy(scene.pepper, data_dir / "pepper")
    with gateway_process(tmp_path, *scene.options(data_dir)) as gateway:
        files = {path.name for path in data_dir.iterdir()}
        done = run_command("restore", scene.backups[0].file, "--data-dir", data_dir)
        done.assert_refused(1, f"is in use by process {gateway.process.pid}")
        assert {path.name for path in data_dir.iterdir()} == files
        assert ask(gateway, scene.keys["usd"], chat_body("m")).status == 200
