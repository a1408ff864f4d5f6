"""What operators do: the operations, the control socket, and the command line over both."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner

from support.gateway import running_gateway
from traghetto.accounts.administration import OPERATIONS, Administration, OperationRefused
from traghetto.accounts.control import LINE_BYTES_MAX, SOCKET_NAME, serve_control
from traghetto.accounts.directory import Directory
from traghetto.accounts.pepper import PepperUnusable, open_pepper
from traghetto.accounts.values import KeyKind
from traghetto.cli.accounts import accounts
from traghetto.cli.keys import keys
from traghetto.cli.ledger import ledger
from traghetto.clock import ManualClock, SystemClock
from traghetto.ledger.book import Book
from traghetto.ledger.verify import verify
from traghetto.ledger.windows import day_window
from traghetto.storage.connector import Store
from traghetto.storage.facts import FUNDS, EntryKind
from traghetto.storage.memory import MemoryDisk, MemoryStore
from traghetto.storage.sqlite import SqliteStore


def administer(store: Store, clock: Any = None, pepper: bytes = b"p" * 32) -> Administration:
    clock = clock or ManualClock()
    state = store.load(day_window(clock.utc_ns()))
    journal: Any = store.disk if isinstance(store, MemoryStore) else None
    directory = Directory(store, clock, pepper, state)
    return Administration(directory, Book(store, clock, state), journal)


def test_the_first_start_makes_one_account_and_one_admin_key() -> None:
    """Account `default` with 0 USD; the secret is given once, never at a later start."""

    async def run() -> None:
        disk = MemoryDisk()
        first = administer(MemoryStore(disk))
        secret = await first.first_start()
        assert secret is not None
        found = first._directory.authenticate(secret)
        assert found is not None
        key, account = found
        assert (key.kind, account.name) == (KeyKind.ADMIN, "default")
        shown: Any = await first.perform("accounts.show", {"account": "default"})
        assert (shown.usd, shown.diem, shown.diem_per_day) == ("0", None, "0")
        assert await first.first_start() is None
        assert await administer(MemoryStore(disk)).first_start() is None

    asyncio.run(run())


def test_the_first_admin_key_belongs_to_the_account_of_that_purpose() -> None:
    """Accounts that were made before the first start do not become administrators by it."""

    async def run() -> None:
        disk = MemoryDisk()
        admin = administer(MemoryStore(disk))
        await admin.perform("accounts.create", {"name": "acme"})
        assert await admin.first_start() is not None
        (key,) = (await admin.perform("keys.list", {})).keys
        assert (key.account, key.kind) == ("default", KeyKind.ADMIN)
        again = administer(MemoryStore(MemoryDisk()))
        made = await again.perform("accounts.create", {"name": "default", "usd": "1"})
        assert await again.first_start() is not None
        (shown,) = (await again.perform("accounts.list", {})).accounts
        assert shown == made

    asyncio.run(run())


def test_operations_change_what_they_say() -> None:
    """Create, credit, set, list, key with limits, revoke: each answers with what is now true."""

    async def run() -> None:
        disk = MemoryDisk()
        admin = administer(MemoryStore(disk))

        async def do(operation: str, **arguments: Any) -> Any:
            return await admin.perform(operation, arguments)

        made = await do("accounts.create", name="acme", usd="1.5", diem="2", pro=True)
        assert (made.usd, made.diem, made.pro, made.subscription) == ("1.5", "2", True, "none")
        credited = await do("accounts.credit", account="acme", usd="0.000000001", reason="gift")
        assert credited.usd == "1.500000001"
        changed = await do(
            "accounts.set", account="acme", subscription="active", features=["x"], disabled=True
        )
        assert (changed.subscription, changed.features, changed.pro) == ("active", ("x",), True)
        assert changed.disabled
        kept = await do("accounts.set", account=made.id, diem="0", disabled=False)
        assert (kept.features, kept.diem_per_day, kept.disabled) == (("x",), "0", False)
        created = await do("keys.create", account="acme", limit_usd="0", period="MONTH")
        assert (created.key.limit_usd, created.key.limit_diem) == ("0", None)
        listed = await do("keys.list", account="acme")
        assert [key.id for key in listed.keys] == [created.key.id]
        await do("keys.revoke", key=created.key.id)
        assert (await do("keys.list")).keys == ()
        everyone = await do("accounts.list")
        assert [account.name for account in everyone.accounts] == ["acme"]
        assert {e.reason for e in disk.entries() if e.credit == FUNDS} >= {"gift", "first credit"}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("operation", "arguments", "sentence"),
    [
        ("accounts.explode", {}, "no operation"),
        ("accounts.show", {}, "required field `account`"),
        ("accounts.show", {"account": "nobody"}, "accounts list"),
        ("accounts.create", {"name": "acme"}, "choose another"),
        ("accounts.create", {"name": "new", "usd": "-1"}, "at least 0"),
        ("accounts.create", {"name": "new", "usd": 1.5}, "Expected `str"),
        ("accounts.create", {"name": "new", "diem": "0.05"}, "at least 0.1"),
        ("accounts.create", {"name": "new", "colour": "red"}, "unknown field `colour`"),
        ("accounts.create", {"name": " "}, "text that can be read"),
        ("accounts.credit", {"account": "acme", "usd": "0"}, "more than 0"),
        ("accounts.credit", {"account": "acme", "usd": "-1"}, "`traghetto ledger adjust` takes"),
        ("keys.create", {"account": "acme", "expires_at_ns": 0}, "expires in the future"),
        ("accounts.credit", {"account": "acme", "usd": "1e-10"}, "9 decimal places"),
        ("accounts.set", {"account": "acme", "tier": "gold"}, "Invalid enum value"),
        ("keys.create", {"account": "nobody"}, "accounts list"),
        ("keys.create", {"account": "acme", "limit_usd": "-1"}, "at least 0"),
        ("keys.create", {"account": "acme", "expires_at_ns": 2**63}, "9223372036854775807"),
        ("accounts.create", {"name": "acme\x00"}, "text that can be read"),
        ("accounts.create", {"name": "line\n"}, "text that can be read"),
        ("keys.revoke", {"key": "nothing"}, "keys list"),
        ("ledger.adjust", {"account": "acme", "usd": "1"}, "required field `reason`"),
        ("ledger.adjust", {"account": "acme", "usd": "1", "reason": " "}, "text that can be read"),
        ("ledger.adjust", {"account": "acme", "reason": "x"}, "exactly one amount"),
        (
            "ledger.adjust",
            {"account": "acme", "usd": "1", "diem": "1", "reason": "x"},
            "exactly one amount",
        ),
        ("ledger.adjust", {"account": "acme", "usd": "0", "reason": "x"}, "an amount"),
        ("ledger.adjust", {"account": "acme", "diem": "1", "reason": "x"}, "no DIEM today"),
        ("ledger.adjust", {"account": "nobody", "usd": "1", "reason": "x"}, "accounts list"),
    ],
)
def test_a_refusal_is_a_sentence_and_changes_nothing(
    operation: str, arguments: dict[str, Any], sentence: str
) -> None:
    """Wrong names, amounts and fields are refused before anything is written."""

    async def run() -> None:
        disk = MemoryDisk()
        store = MemoryStore(disk)
        admin = administer(store)
        await admin.perform("accounts.create", {"name": "acme"})
        before = disk.load("E:2026-01-01")
        with pytest.raises(OperationRefused, match=sentence):
            await admin.perform(operation, arguments)
        await store.aclose()
        assert disk.load("E:2026-01-01") == before

    asyncio.run(run())


def test_an_adjustment_corrects_either_currency_and_says_why() -> None:
    """Up or down, as an entry with its reason; beyond what is owned, because it tells the truth."""

    async def run() -> None:
        disk = MemoryDisk()
        admin = administer(MemoryStore(disk))
        await admin.perform("accounts.create", {"name": "acme", "usd": "1", "diem": "2"})

        async def adjust(**arguments: str) -> Any:
            return await admin.perform("ledger.adjust", {"account": "acme", **arguments})

        assert (await adjust(usd="-1.25", reason="paid twice")).usd == "-0.25"
        assert (await adjust(usd="0.5", reason="a gift")).usd == "0.25"
        assert (await adjust(diem="-0.5", reason="an outage")).diem == "1.5"
        reasons = [entry.reason for entry in disk.entries() if entry.kind is EntryKind.ADJUST]
        assert reasons == ["paid twice", "a gift", "an outage"]
        assert not verify(disk).differences

    asyncio.run(run())


def test_every_operation_has_a_sentence_and_closed_arguments() -> None:
    """The table is total: documented handlers, arguments that refuse unknown fields."""
    for name, operation in OPERATIONS.items():
        assert operation.run.__doc__, name
        assert operation.arguments.__struct_config__.forbid_unknown_fields, name


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for line in lines:
        writer.write(line + b"\n")
        answers.append(json.loads(await reader.readline()))
    writer.close()
    await writer.wait_closed()
    return answers


def test_the_control_socket_answers_line_by_line(tmp_path: Path) -> None:
    """Results, refusals and junk each get one line; the socket is private and goes away."""

    async def run() -> None:
        path = tmp_path / SOCKET_NAME
        path.touch()  # a socket that a dead process left
        control = await serve_control(path, administer(MemoryStore()))
        assert path.stat().st_mode & 0o777 == 0o600
        made, refused, junk, listed = await ask(
            path,
            b'{"operation": "accounts.create", "arguments": {"name": "acme", "usd": "3"}}',
            b'{"operation": "accounts.create", "arguments": {"name": "acme"}}',
            b"junk",
            b'{"operation": "accounts.list"}',
        )
        assert made["result"]["usd"] == "3"
        assert "choose another" in refused["error"]
        assert "malformed" in junk["error"]
        assert [account["name"] for account in listed["result"]["accounts"]] == ["acme"]
        [too_long] = await ask(path, b"x" * (LINE_BYTES_MAX + 10))
        assert "at most" in too_long["error"]
        await control.aclose()
        assert not path.exists()

    asyncio.run(run())


def test_closing_the_control_socket_ends_idle_connections(tmp_path: Path) -> None:
    """A command that never says anything does not keep the gateway from stopping."""

    async def run() -> None:
        control = await serve_control(tmp_path / "s", administer(MemoryStore()))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(control.aclose(), 2)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    asyncio.run(run())


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """The sentence names the directory to change."""
    folder = tmp_path / ("x" * 100)

    async def run() -> None:
        with pytest.raises(ValueError, match="shorter path"):
            await serve_control(folder / SOCKET_NAME, administer(MemoryStore()))

    asyncio.run(run())


class Gateway:
    """What a running gateway is to a command: an owner of the books with a control socket."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        store = SqliteStore(self._data_dir)
        pepper = open_pepper(self._data_dir / "pepper", store, store.load("E:2026-01-01"))
        admin = administer(store, SystemClock(), pepper)
        await admin.first_start()
        control = await serve_control(self._data_dir / SOCKET_NAME, admin)
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._stopped.wait()
        await control.aclose()
        await store.aclose()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)


@pytest.fixture(params=["alone", "beside a gateway"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A data directory with the first account; owned by nobody, or by a running gateway."""
    gateway = Gateway(tmp_path)
    if request.param == "alone":
        gateway.stop()
        yield tmp_path
    else:
        yield tmp_path
        gateway.stop()


def command(group: Any, data_dir: Path, *arguments: str, status: int = 0) -> Any:
    """Run a command with `--json`; its decoded output, or its output if it fails."""
    result = CliRunner().invoke(
        group, [*arguments, "--data-dir", str(data_dir), "--json"], catch_exceptions=False
    )
    assert result.exit_code == status, result.output
    return json.loads(result.stdout) if status == 0 else result.output


def test_commands_work_with_and_without_a_gateway(data_dir: Path) -> None:
    """The same commands give the same answers, whoever owns the books."""
    assert command(accounts, data_dir, "credit", "default", "--usd", "2.5")["usd"] == "2.5"
    made = command(accounts, data_dir, "create", "acme", "--diem", "1", "--feature", "x", "--pro")
    assert (made["diem"], made["features"], made["pro"]) == ("1", ["x"], True)
    changed = command(
        accounts, data_dir, "set", "acme", "--no-pro", "--disabled", "--subscription", "inactive"
    )
    assert (changed["pro"], changed["disabled"], changed["features"]) == (False, True, ["x"])
    assert command(accounts, data_dir, "show", "acme")["subscription"] == "inactive"
    key = command(
        keys, data_dir, "create", "--account", "acme", "--limit-usd", "5", "--limit-diem", "0",
        "--period", "lifetime", "--privacy", "private_only", "--expires", "2199-01-01",
        "--description", "ci", "--openai-errors",
    )  # fmt: skip
    assert key["secret"].startswith("VENICE_INFERENCE_KEY_")
    shown = key["key"]
    assert (shown["limit_usd"], shown["limit_diem"], shown["period"]) == ("5", "0", "LIFETIME")
    assert shown["expires_at"] == "2199-01-01T00:00:00.000Z"
    assert [row["id"] for row in command(keys, data_dir, "list", "--account", "acme")] == [
        shown["id"]
    ]
    command(keys, data_dir, "revoke", shown["id"])
    assert command(keys, data_dir, "list", "--account", "acme") == []
    assert [row["name"] for row in command(accounts, data_dir, "list")] == ["default", "acme"]
    adjusted = command(
        ledger, data_dir, "adjust", "default", "--usd", "-0.5", "--reason", "paid twice"
    )
    assert adjusted["usd"] == "2"
    assert command(ledger, data_dir, "verify")["differences"] == []


def test_an_adjustment_without_a_reason_or_with_two_amounts_is_not_understood(
    data_dir: Path,
) -> None:
    """The command says what is missing, before it touches the books."""
    refused = command(ledger, data_dir, "adjust", "default", "--usd", "1", status=2)
    assert "--reason" in refused
    both = ("--usd", "1", "--diem", "1")
    for amounts in ((), both):
        refused = command(
            ledger, data_dir, "adjust", "default", *amounts, "--reason", "x", status=2
        )
        assert "one of --usd, --bundled and --diem" in refused


def test_commands_refuse_in_sentences(data_dir: Path) -> None:
    """A refusal is one line that says what to do, and exit status 1."""
    refused = command(accounts, data_dir, "credit", "nobody", "--usd", "1", status=1)
    assert refused.startswith("Error: there is no account 'nobody'")
    assert "9 decimal places" in command(
        accounts, data_dir, "create", "x", "--usd", "0.0000000001", status=1
    )
    assert "needs a name" in command(accounts, data_dir, "create", " ", status=2)
    assert "nothing to change" in command(accounts, data_dir, "set", "default", status=2)
    assert "in the future" in command(keys, data_dir, "create", "--expires", "2020-01-01", status=1)


def test_a_key_cannot_expire_beyond_the_books(tmp_path: Path) -> None:
    """A year that a 64-bit time cannot hold is refused by the command."""
    refused = command(keys, tmp_path, "create", "--expires", "2999-01-01", status=2)
    assert "2261 at the latest" in refused


def test_a_key_is_never_made_with_a_second_pepper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that does not know where the pepper is refuses to make a key, and makes no file."""
    data_dir, elsewhere = tmp_path / "data", tmp_path / "secret"
    Gateway(data_dir).stop()
    (data_dir / "pepper").rename(elsewhere)
    refused = command(keys, data_dir, "create", status=1)
    assert "does not exist" in refused
    assert "TRAGHETTO_PEPPER_FILE" in refused
    assert not (data_dir / "pepper").exists()
    monkeypatch.setenv("TRAGHETTO_PEPPER_FILE", str(elsewhere))
    assert command(keys, data_dir, "create")["secret"]
    other = tmp_path / "other"
    other.write_bytes(b"x" * 32)
    other.chmod(0o600)
    monkeypatch.setenv("TRAGHETTO_PEPPER_FILE", str(other))
    assert "another pepper" in command(keys, data_dir, "create", status=1)


def test_a_gateway_refuses_to_start_with_another_pepper(tmp_path: Path) -> None:
    """Rather than turn every key away; it lets go of the books, so the next start can have them."""
    pepper = tmp_path / "data" / "pepper"
    with running_gateway(tmp_path):
        right = pepper.read_bytes()
    pepper.write_bytes(b"x" * 32)
    with pytest.raises(PepperUnusable, match="another pepper"), running_gateway(tmp_path):
        pass
    pepper.write_bytes(right)
    with running_gateway(tmp_path) as gateway:
        assert gateway.started.admin_key is None


def test_a_lost_pepper_can_be_replaced_once_its_keys_are_revoked(tmp_path: Path) -> None:
    """Nothing but making keys needs the pepper, so its loss can be mended with commands."""
    Gateway(tmp_path).stop()
    (tmp_path / "pepper").unlink()
    for key in command(keys, tmp_path, "list"):
        command(keys, tmp_path, "revoke", key["id"])
    assert command(keys, tmp_path, "create", "--admin")["secret"].startswith("VENICE_ADMIN_KEY_")
    assert (tmp_path / "pepper").exists()


def test_people_get_tables(data_dir: Path) -> None:
    """Without `--json` lists are tables, and a new key stands alone on standard output."""
    runner = CliRunner()
    listed = runner.invoke(accounts, ["list", "--data-dir", str(data_dir)])
    assert listed.stdout.split()[:2] == ["NAME", "USD"]
    assert "default" in listed.stdout
    created = runner.invoke(keys, ["create", "--data-dir", str(data_dir)])
    assert created.stdout.startswith("VENICE_INFERENCE_KEY_")
    assert created.stdout.count("\n") == 1
    listed = runner.invoke(keys, ["list", "--data-dir", str(data_dir)])
    assert listed.stdout.count("\n") == 3
    adjusted = runner.invoke(
        ledger,
        ["adjust", "default", "--usd", "-1", "--reason", "x", "--data-dir", str(data_dir)],
    )
    assert adjusted.stdout == "default now has -1 USD\n"
    verified = runner.invoke(ledger, ["verify", "--data-dir", str(data_dir)])
    assert verified.stdout.startswith("0 differences")


def test_verification_fails_with_the_differences(tmp_path: Path) -> None:
    """Books that were tampered with exit 1 and name the balance."""
    Gateway(tmp_path).stop()
    command(accounts, tmp_path, "credit", "default", "--usd", "1")
    connection = apsw.Connection(str(tmp_path / "traghetto.sqlite3"))
    connection.execute("UPDATE balance SET amount = amount + 1")
    connection.close()
    result = CliRunner().invoke(ledger, ["verify", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "in USD: the books say 1000000001, the entries 1000000000" in result.stdout


def test_reading_an_empty_directory_creates_nothing(tmp_path: Path) -> None:
    """Lists and verification say what is missing and leave the directory as it was."""
    for group, name in ((accounts, "list"), (keys, "list"), (ledger, "verify")):
        assert "no books" in command(group, tmp_path / "none", name, status=1)
    assert not (tmp_path / "none").exists()


def test_changing_an_empty_directory_begins_no_books_unless_asked(tmp_path: Path) -> None:
    """An account is not made in the wrong place by a mistyped directory."""
    wrong = tmp_path / "wrong"
    for group, *arguments in (
        (accounts, "create", "acme", "--usd", "5"),
        (accounts, "credit", "acme", "--usd", "5"),
        (accounts, "set", "acme", "--pro"),
        (keys, "create"),
        (keys, "revoke", "x"),
        (ledger, "adjust", "acme", "--usd", "1", "--reason", "x"),
    ):
        assert "no books" in command(group, wrong, *arguments, status=1)
    assert not wrong.exists()
    command(accounts, wrong, "create", "acme", "--new-books")
    assert command(keys, wrong, "create", "--account", "acme")["secret"]
