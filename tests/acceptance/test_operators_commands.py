"""The operators' commands on real books, with no gateway running and beside one that is."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.client import assert_published, chat
from support.commands import Done, run_command
from support.configuration import model_toml
from support.gateway import GatewayProcess, gateway_process, running_gateway
from support.old_books import dump
from traghetto.accounts.control import SOCKET_NAME
from traghetto.clock import ManualClock
from traghetto.storage.sqlite import FILE_NAME

AT_ONCE = 24
PROCESSES = 3
REQUESTS = 3
"""Charged requests per account."""
CONFIG = (
    'rate_limits = "off"\n'
    + model_toml("m", pricing='{ input = "10000", output = "10000" }')
    + model_toml("free", pricing='{ input = "0", output = "0" }')
)
FUNDS = {"usd": "USD", "bundled": "BUNDLED_CREDITS", "diem": "DIEM"}
"""The account of each fund, which has nothing else, and what it pays in."""


@dataclass
class Place:
    """Books with accounts, keys and requests; owned by a gateway, or by nobody."""

    data_dir: Path
    gateway: GatewayProcess | None = None
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By account: the id and the secret of its key."""
    requests: dict[str, list[str]] = field(default_factory=dict)
    """By account: charged requests that were not refunded."""
    free_request: str = ""

    def run(self, *command: str) -> Done:
        return run_command(*command, "--data-dir", self.data_dir)

    def do(self, *command: str) -> Any:
        """What a command prints with `--json`; fails if it is refused."""
        return self.run(*command, "--json").json

    def key_of(self, account: str) -> dict[str, Any]:
        """A new key of an account: what is shown of it, and its `secret`."""
        created = self.do("keys", "create", "--account", account)
        return {**created["key"], "secret": created["secret"]}

    def status(self, secret: str) -> int | None:
        """What a request with a key is answered; None where nobody answers."""
        if self.gateway is None:
            return None
        return chat(self.gateway, secret, "m", max_tokens=1).status

    def rows(self) -> dict[str, Any]:
        """All that is in the books, but for what every owner and every request touches."""
        return dump(self.data_dir / FILE_NAME, but=("meta", "key_use"))

    def assert_verified(self) -> None:
        assert self.do("ledger", "verify")["differences"] == []


@pytest.fixture(scope="module", params=["alone", "beside a gateway"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    (folder / "traghetto.toml").write_text(CONFIG)
    made = Place(folder / "data")
    options = ("--config", str(folder / "traghetto.toml"), "--data-dir", str(made.data_dir))
    with gateway_process(folder, *options) as gateway:
        for account in FUNDS:
            made.do("accounts", "create", account, f"--{account}", "50")
            made.keys[account] = made.key_of(account)
            secret = made.keys[account]["secret"]
            replies = [chat(gateway, secret, "m", max_tokens=8) for _ in range(REQUESTS)]
            assert [reply.status for reply in replies] == [200] * REQUESTS
            made.requests[account] = [reply.request_id for reply in replies]
        made.free_request = chat(gateway, made.keys["usd"]["secret"], "free").request_id
        if request.param == "beside a gateway":
            made.gateway = gateway
            yield made
    if made.gateway is None:
        yield made


# Accounts and keys


def test_bundled_credits_are_given_and_corrected(place: Place) -> None:
    """They are a balance of their own, which is absent until somebody gives some."""
    made = place.do("accounts", "create", "plan", "--bundled", "3", "--usd", "1")
    assert (made["usd"], made["bundled"], made["diem"]) == ("1", "3", None)
    given = place.do("accounts", "credit", "plan", "--bundled", "0.5", "--reason", "anniversary")
    assert (given["usd"], given["bundled"]) == ("1", "3.5")
    taken = place.do("ledger", "adjust", "plan", "--bundled", "-0.25", "--reason", "a mistake")
    assert (taken["usd"], taken["bundled"]) == ("1", "3.25")
    said = place.run("ledger", "adjust", "plan", "--bundled", "-4", "--reason", "another")
    assert said.out == "plan now has 1 USD and -0.75 USD of bundled credits\n"
    table = place.run("accounts", "credit", "plan", "--bundled", "1").out.splitlines()
    assert table[0].split()[:3] == ["NAME", "USD", "BUNDLED"]
    assert table[1].split()[:4] == ["plan", "1", "0.25", "-"]
    assert place.do("accounts", "show", "usd")["bundled"] is None
    place.assert_verified()


def test_an_account_is_switched_off_and_on(place: Place) -> None:
    """From the next request on, and nothing else about it changes; twice is as good as once."""
    place.do("accounts", "create", "switched", "--usd", "5", "--pro")
    secret = place.key_of("switched")["secret"]
    before = place.do("accounts", "show", "switched")
    for _ in range(2):
        off = place.do("accounts", "disable", "switched")
        assert off == {**before, "disabled": True}
        assert place.do("accounts", "show", "switched") == off
    if place.gateway is not None:
        assert_published(chat(place.gateway, secret, "m"), "API_ACCESS_DISABLED")
    assert " disabled " in place.run("accounts", "disable", "switched").out
    assert " enabled " in place.run("accounts", "enable", "switched").out
    assert place.do("accounts", "enable", "switched") == before
    assert place.status(secret) in {200, None}


def test_limits_of_a_key_change_one_by_one(place: Place) -> None:
    """What is not given stays, `none` lifts, 0 blocks; the widest one fits."""
    key = place.key_of("usd")
    shown = ("EPOCH", None, None)
    for options, expected, status in (
        (("--limit-usd", "5"), ("EPOCH", "5", None), 200),
        (("--limit-diem", "0.5"), ("EPOCH", "5", "0.5"), 200),
        (("--period", "month"), ("MONTH", "5", "0.5"), 200),
        (("--limit-usd", "0"), ("MONTH", "0", "0.5"), 402),
        (("--limit-usd", "9999999999"), ("MONTH", "9999999999", "0.5"), 200),
        (("--limit-usd", "none", "--limit-diem", "none"), ("MONTH", None, None), 200),
        (("--limit-usd", "0.000000001", "--period", "LIFETIME"), ("LIFETIME", "0.000000001", None),
         402),
        (("--limit-usd", "none", "--limit-diem", "0"), ("LIFETIME", None, "0"), 200),
    ):  # fmt: skip
        changed = place.do("keys", "limit", key["id"], *options)
        shown = (changed["period"], changed["limit_usd"], changed["limit_diem"])
        assert shown == expected
        assert place.status(key["secret"]) in {status, None}, options
        [listed] = [row for row in place.do("keys", "list") if row["id"] == key["id"]]
        assert (listed["period"], listed["limit_usd"], listed["limit_diem"]) == shown
    [headers, row] = place.run("keys", "limit", key["id"], "--limit-diem", "7").out.splitlines()
    assert headers.split()[:2] == ["ID", "ACCOUNT"]
    assert row.startswith(key["id"])
    assert "of 7" in row
    place.assert_verified()


# Refunds


@pytest.mark.parametrize("account", FUNDS)
def test_a_request_is_refunded_once(place: Place, account: str) -> None:
    """To the fund that paid and the key that spent; the second time is refused."""
    request = place.requests[account].pop()
    key = place.keys[account]["id"]

    def state() -> tuple[float, float, int]:
        owned = place.do("accounts", "show", account)[account]
        [shown] = [
            row for row in place.do("keys", "list", "--account", account) if row["id"] == key
        ]
        spent = shown["spent_diem" if account == "diem" else "spent_usd"]
        [used] = place.do("usage", "--by", "key", "--account", account)[:1]
        return float(owned), float(spent), used["requests"]

    owned, spent, requests = state()
    done = place.do("ledger", "refund", request, "--reason", "an outage")
    assert (done["request"], done["account"], done["currency"]) == (
        request, account, FUNDS[account]
    )  # fmt: skip
    amount = float(done["amount"])
    assert amount > 0
    assert state() == (pytest.approx(owned + amount), pytest.approx(spent - amount), requests)
    before = place.rows()
    again = place.run("ledger", "refund", request, "--reason", "an outage")
    again.assert_refused(1, f"request '{request}' has been refunded already")
    assert place.rows() == before
    place.assert_verified()


def test_the_journal_of_an_account_and_of_a_request_can_be_read(place: Place) -> None:
    """Every movement with its amount, units, prices and reason, oldest first."""
    place.do("accounts", "credit", "usd", "--usd", "0.5", "--reason", "invoice 17")
    *_, before, latest = place.do("ledger", "show", "usd", "--last", "100")
    assert (latest["kind"], latest["amount"], latest["reason"]) == ("credit", "0.5", "invoice 17")
    assert before["time"] <= latest["time"]
    [only] = place.do("ledger", "show", "usd", "--last", "1")
    assert only == latest
    request = place.requests["usd"][-1]
    for name in (request, f"chatcmpl-{request}"):
        prompt, completion = place.do("ledger", "show", name)
        assert (prompt["kind"], prompt["line"], completion["line"]) == (
            "charge", "prompt", "completion"
        )  # fmt: skip
        assert float(prompt["amount"]) < 0
        assert prompt["prices"].startswith("prompt=10000000000000/1000000")
    header, *rows = place.run("ledger", "show", "usd").out.splitlines()
    assert header.split()[:4] == ["TIME", "ACCOUNT", "KIND", "LINE"]
    assert len(rows) == len(place.do("ledger", "show", "usd"))
    place.run("ledger", "show", "nobody").assert_refused(1, "there is no account 'nobody'")


def test_a_refund_says_what_it_gave_back(place: Place) -> None:
    """Its line names amount, currency and account; the id of an answer names its request too."""
    answer_id = f"chatcmpl-{place.requests['bundled'].pop()}"
    said = place.run("ledger", "refund", answer_id, "--reason", "x").out
    assert said.startswith("refunded 0.")
    assert said.endswith(" BUNDLED_CREDITS to bundled\n")


def test_a_refund_makes_room_in_a_limit_at_once(place: Place) -> None:
    """A key that has spent its limit works again as soon as a request of it is given back."""
    if place.gateway is None:
        return  # nobody answers requests there
    key = place.key_of("usd")
    place.do("keys", "limit", key["id"], "--limit-usd", "0.15", "--period", "lifetime")
    reply = chat(place.gateway, key["secret"], "m", max_tokens=1)
    assert reply.status == 200
    refused = chat(place.gateway, key["secret"], "m", max_tokens=1)
    assert_published(refused, "API_KEY_USD_SPEND_LIMIT_EXCEEDED")
    place.do("ledger", "refund", reply.request_id, "--reason", "test")
    assert place.status(key["secret"]) == 200
    place.assert_verified()


def test_simultaneous_refunds_of_one_request_give_back_once(place: Place) -> None:
    """However many ask at once: one has it, the others are told, and the books add up."""
    request = place.requests["usd"].pop()
    owned = float(place.do("accounts", "show", "usd")["usd"])
    refuse = _refund_by_processes if place.gateway is None else _refund_through_the_socket
    amounts, sentences = refuse(place, request)
    assert len(amounts) == 1
    refunded = f"request '{request}' has been refunded already"
    assert all(refunded in sentence or "is in use by" in sentence for sentence in sentences)
    assert float(place.do("accounts", "show", "usd")["usd"]) == pytest.approx(owned + amounts[0])
    place.assert_verified()
    assert place.status(place.keys["usd"]["secret"]) in {200, None}


def _refund_through_the_socket(place: Place, request: str) -> tuple[list[float], list[str]]:
    """The amounts that refunds at once were answered with, and the refusals."""
    arguments = {"request": request, "reason": "at once"}
    line = json.dumps({"operation": "ledger.refund", "arguments": arguments}).encode() + b"\n"
    connections = []
    for _ in range(AT_ONCE):
        connections.append(socket.socket(socket.AF_UNIX))
        connections[-1].settimeout(20)
        connections[-1].connect(str(place.data_dir / SOCKET_NAME))
    for connection in connections:
        connection.sendall(line)
    answers = []
    for connection in connections:
        with connection, connection.makefile("rb") as stream:
            answers.append(json.loads(stream.readline()))
    amounts = [float(answer["result"]["amount"]) for answer in answers if "result" in answer]
    return amounts, [answer["error"] for answer in answers if "error" in answer]


def _refund_by_processes(place: Place, request: str) -> tuple[list[float], list[str]]:
    """The same, where every command becomes the owner of the books."""
    command = [sys.executable, "-m", "traghetto", "ledger", "refund", request, "--reason", "x"]
    processes = [
        subprocess.Popen(
            [*command, "--json", "--data-dir", str(place.data_dir)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    ended = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert {status for _, status in ended} == {0, 1}
    amounts = [float(json.loads(out)["amount"]) for (out, _), status in ended if status == 0]
    return amounts, [error for (_, error), status in ended if status == 1]


def test_diem_of_yesterday_are_not_refunded(tmp_path: Path) -> None:
    """They have lapsed: giving them back would grant new ones, or lose the refund."""
    clock = ManualClock()
    with running_gateway(tmp_path, CONFIG, clock=clock) as gateway:
        place = Place(gateway.data_dir)
        place.do("accounts", "create", "diem", "--diem", "5")
        secret = place.key_of("diem")["secret"]
        request, other = (chat(gateway, secret, "m", max_tokens=1).request_id for _ in range(2))
        assert place.do("ledger", "refund", other, "--reason", "x")["currency"] == "DIEM"
        clock.advance(86_400)
        before = place.rows()
        refused = place.run("ledger", "refund", request, "--reason", "x")
        refused.assert_refused(1, "the DIEM of a day that is over: they lapsed")
        assert place.rows() == before
        assert gateway.differences() == []


# Refusals

HUGE = "9223372036.854775807"
REASON = ("--reason", "x")
REFUSALS: tuple[tuple[str, int, str], ...] = (
    ("accounts create new --bundled -1", 1, "an amount is at least 0"),
    ("accounts create new --bundled ten", 1, "not an amount of money: 'ten'"),
    ("accounts create new --bundled 1e999999", 1, "an amount is at most 9223372036 USD"),
    ("accounts create new --usd 1 --bundled 0.0000000001", 1, "at most 9 decimal places"),
    ("accounts create usd --bundled 1", 1, "choose another"),
    ("accounts credit bundled --bundled 0", 1, "a credit is more than 0"),
    ("accounts credit bundled --bundled -1", 1, "`traghetto ledger adjust` takes money away"),
    (f"accounts credit bundled --bundled {HUGE}", 1, "a balance is at most 9223372036 USD"),
    ("accounts credit nobody --bundled 1", 1, "there is no account 'nobody'"),
    ("accounts credit bundled", 2, "give either --usd or --bundled"),
    ("accounts credit bundled --usd 1 --bundled 1", 2, "give either --usd or --bundled"),
    ("accounts disable nobody", 1, "there is no account 'nobody'"),
    ("accounts enable nobody", 1, "there is no account 'nobody'"),
    ("accounts disable", 2, "Missing argument 'ACCOUNT'"),
    ("keys limit nothing --limit-usd 1", 1, "there is no key 'nothing'"),
    ("keys limit KEY", 2, "nothing to change"),
    ("keys limit KEY --limit-usd -1", 1, "an amount is at least 0"),
    ("keys limit KEY --limit-usd 1 --limit-diem -1", 1, "an amount is at least 0"),
    ("keys limit KEY --limit-usd lots", 1, "not an amount of money: 'lots'"),
    ("keys limit KEY --limit-usd 10000000000", 1, "an amount is at most 9999999999 USD"),
    ("keys limit KEY --limit-usd 0.0000000001", 1, "at most 9 decimal places"),
    ("keys limit KEY --period week", 2, "'week' is not one of"),
    ("ledger adjust bundled --bundled 0 --reason x", 1, "an adjustment has an amount"),
    ("ledger adjust bundled --bundled NaN --reason x", 1, "not an amount of money"),
    (f"ledger adjust bundled --bundled {HUGE} --reason x", 1, "a balance is at most"),
    ("ledger adjust nobody --bundled 1 --reason x", 1, "there is no account 'nobody'"),
    ("ledger adjust bundled --bundled 1", 2, "Missing option '--reason'"),
    ("ledger adjust bundled --bundled 1 --usd 1 --reason x", 2, "a correction is of one"),
    ("ledger refund unknown --reason x", 1, "the books have no charge of a request 'unknown'"),
    ("ledger refund FREE --reason x", 1, "the books have no charge of a request"),
    (f"ledger refund {'x' * 129} --reason x", 1, "length <= 128"),
    ("ledger refund REQUEST", 2, "Missing option '--reason'"),
    ("ledger refund REQUEST --reason \t", 1, "reason is a line of text that can be read"),
    ("usage --since 2026-02-02 --until 2026-02-01", 2, "--since is a day before --until"),
    ("usage --since 1969-12-31", 2, "both are sensible"),
    ("usage --until 2262-01-02", 2, "both are sensible"),
    ("usage --since yesterday", 2, "'yesterday' does not match the format"),
    ("usage --by week", 2, "'week' is not one of"),
    ("usage --csv --json", 2, "give either --csv or --json"),
    ("usage --account nobody", 1, "there is no account 'nobody'"),
)


@pytest.mark.parametrize(("command", "status", "sentence"), REFUSALS, ids=str)
def test_a_refusal_is_one_sentence_and_changes_nothing(
    place: Place, command: str, status: int, sentence: str
) -> None:
    """Whatever is wrong with a command, its operator is told, and the books stay as they were."""
    stands_for = {
        "KEY": place.keys["usd"]["id"],
        "FREE": place.free_request,
        "REQUEST": place.requests["usd"][0],
    }
    before = place.rows()
    arguments = [stands_for.get(word, word) for word in command.split(" ")]
    place.run(*arguments).assert_refused(status, sentence)
    assert place.rows() == before


def test_a_revoked_key_has_no_limits_to_change(place: Place) -> None:
    """It is gone for good: a new limit must not bring it back."""
    key = place.key_of("usd")
    place.do("keys", "revoke", key["id"])
    place.run("keys", "limit", key["id"], "--limit-usd", "1").assert_refused(1, "there is no key")
    assert place.status(key["secret"]) in {401, None}


def test_every_command_needs_books(tmp_path: Path) -> None:
    """A mistyped directory is said to be one, and stays as empty as it was."""
    nowhere = Place(tmp_path / "wrong")
    for command in (
        "accounts credit a --bundled 1", "accounts disable a", "accounts enable a",
        "keys limit k --limit-usd 1", "ledger adjust a --bundled 1 --reason x",
        "ledger refund r --reason x", "usage", "usage --csv",
    ):  # fmt: skip
        nowhere.run(*command.split()).assert_refused(1, "there are no books in")
    assert not nowhere.data_dir.exists()
