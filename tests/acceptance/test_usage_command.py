"""`traghetto usage`: its sums are those of the books, whoever owns them and however it prints."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from support.books import USD, account_row, charge, key_row, open_books
from support.client import chat
from support.commands import run_command
from support.configuration import model_toml
from support.gateway import running_gateway
from traghetto.clock import ManualClock
from traghetto.money import Currency, format_usd
from traghetto.storage.facts import EntryKind
from traghetto.storage.reports import SqliteReports, UsageTotal
from traghetto.storage.sqlite import SqliteStore, open_read_only

CONFIG = (
    'rate_limits = "off"\n'
    + model_toml("m", pricing='{ input = "1000", output = "1000" }')
    + model_toml("other", pricing='{ input = "1", output = "3" }')
    + model_toml("free", pricing='{ input = "0", output = "0" }')
)
FORMULA = "=HYPERLINK(1)"
DAYS = ("2026-01-01", "2026-01-02", "2026-02-10")
_AMOUNTS = {Currency.USD: "usd", Currency.BUNDLED_CREDITS: "bundled", Currency.DIEM: "diem"}


@pytest.fixture(scope="module", params=["alone", "beside a gateway"])
def data_dir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Requests of three days, accounts, models and currencies, free and refunded ones included."""
    folder = tmp_path_factory.mktemp("usage")
    clock = ManualClock()
    with running_gateway(folder, CONFIG, clock=clock) as gateway:
        keys = {}
        for name, *funds in (
            ("acme", "--usd", "9", "--diem", "1"),
            (FORMULA, "--usd", "9", "--bundled", "9"),
            ("-1", "--usd", "9"),
        ):
            here = ("--data-dir", gateway.data_dir, "--json")
            run_command("accounts", "create", *funds, *here, "--", name)
            created = run_command("keys", "create", "--account", name, *here).json
            keys[name] = created["secret"]
        early = chat(gateway, keys["acme"], "m").request_id
        for name, model in product(keys, ("m", "other", "free")):
            assert chat(gateway, keys[name], model).status == 200
        clock.advance(86_400)
        given_back = chat(gateway, keys[FORMULA], "m").request_id
        assert chat(gateway, keys["-1"], "m").status == 200
        assert chat(gateway, keys["acme"], "free").status == 200
        with pytest.raises(Exception, match="lapsed"):
            gateway.perform("ledger.refund", request=early, reason="too late")
        clock.advance(40 * 86_400 - 60)
        gateway.perform("ledger.refund", request=given_back, reason="test")
        assert chat(gateway, keys["acme"], "other").status == 200
        assert gateway.differences() == []
        if request.param == "beside a gateway":
            yield gateway.data_dir
    if request.param == "alone":
        yield folder / "data"


def usage(data_dir: Path, *options: str) -> Any:
    """What the command prints with `--json`."""
    return run_command("usage", *options, "--data-dir", data_dir, "--json").json


def expected(
    data_dir: Path, by: str, account: str | None, since: str, until: str
) -> list[dict[str, Any]]:
    """The same from the rows of the books, one by one."""
    lines: dict[str, dict[str, Any]] = {}
    spent: defaultdict[tuple[str, str], int] = defaultdict(int)
    with open_read_only(data_dir) as books:
        names = {row.id: row.name for row in books.accounts()}
        last_six = {row.id: row.last_six for row in books.load(DAYS[0]).keys}
        refunds = [row for row in books.entries() if row.kind is EntryKind.REFUND]
        for row in books.usages():
            day = date(1970, 1, 1) + timedelta(row.created_ns // 86_400 // 10**9)
            if account not in (None, names[row.account_id]) or not since <= str(day) <= until:
                continue
            name = {"model": row.model, "key": row.key_id, "day": str(day)}[by]
            nobody = {"account": None, "ends_in": None, "description": None}
            line = lines.setdefault(name, {"name": name, **nobody})
            if by == "key":
                line["account"] = names[row.account_id]
                line["ends_in"] = last_six[row.key_id]
            for member, amount in (
                ("requests", 1),
                ("prompt_tokens", row.prompt_tokens),
                ("completion_tokens", row.completion_tokens),
            ):
                line[member] = line.get(member, 0) + amount
            if row.currency is not None:
                back = sum(e.amount for e in refunds if e.request_id == row.request_id)
                spent[name, _AMOUNTS[row.currency]] += row.charged - back
    for name, line in lines.items():
        line |= {member: format_usd(spent[name, member]) for member in _AMOUNTS.values()}
    return [lines[name] for name in sorted(lines)]


@pytest.mark.parametrize("by", ["model", "key", "day"])
@pytest.mark.parametrize(
    ("account", "since", "until"),
    [
        (None, None, None),
        ("acme", None, None),
        (FORMULA, None, None),
        (None, DAYS[1], None),
        (None, None, DAYS[1]),
        (None, DAYS[0], DAYS[0]),
        ("-1", DAYS[1], DAYS[2]),
        (None, "2026-01-03", "2026-02-09"),
        (None, "1970-01-01", "2262-01-01"),
    ],
)
def test_its_sums_are_those_of_the_books(
    data_dir: Path, by: str, account: str | None, since: str | None, until: str | None
) -> None:
    """Each request counts once, on its day, less what was given back of it, whenever that was."""
    given = (("--account", account), ("--since", since), ("--until", until))
    options = [f"{name}={value}" for name, value in given if value is not None]
    found = usage(data_dir, "--by", by, *options)
    assert found == expected(data_dir, by, account, since or "", until or "9")
    if (since, until) == ("2026-01-03", "2026-02-09"):
        assert found == [], "nothing was used then"
    elif account is None:
        assert found


def test_it_sums_by_model_unless_asked_otherwise(data_dir: Path) -> None:
    """Free requests are there with nothing charged, and a fully refunded day costs nothing."""
    assert [line["name"] for line in usage(data_dir)] == ["free", "m", "other"]
    [free] = [line for line in usage(data_dir) if line["name"] == "free"]
    assert (free["usd"], free["bundled"], free["diem"], free["requests"]) == ("0", "0", "0", 4)
    [day] = usage(data_dir, "--by", "day", f"--account={FORMULA}", "--since", DAYS[1])
    assert (day["name"], day["requests"], day["bundled"], day["usd"]) == (DAYS[1], 1, "0", "0")
    assert day["prompt_tokens"] > 0, "it was used all the same"


_PRINTED = {"description": "for"}


@pytest.mark.parametrize("by", ["model", "key", "day"])
def test_tables_and_csv_say_the_same_as_json(data_dir: Path, by: str) -> None:
    """Three ways to print one answer; text that a spreadsheet would compute is marked as text."""
    lines = usage(data_dir, "--by", by)
    account = ["account", "ends_in", "description"] if by == "key" else []
    members = [
        "name", *account, "requests", "prompt_tokens", "completion_tokens", "usd", "bundled", "diem"
    ]  # fmt: skip
    cells = [["-" if line[m] is None else str(line[m]) for m in members] for line in lines]
    printed = run_command("usage", "--by", by, "--csv", "--data-dir", data_dir)
    headers, *rows = csv.reader(io.StringIO(printed.out))
    assert headers == [by, *(_PRINTED.get(member, member) for member in members[1:])]
    marked = [
        ["" if cell == "-" else f"'{cell}" if cell[0] in "=-" else cell for cell in row]
        for row in cells
    ]
    assert rows == marked
    table = run_command("usage", "--by", by, "--data-dir", data_dir).out.splitlines()
    assert table[0].split("  ")[0].strip() == by.upper()
    assert [line.split() for line in table[1:]] == cells
    if by == "key":
        assert {row[1] for row in rows} == {"acme", f"'{FORMULA}", "'-1"}


def test_nothing_used_is_a_header(data_dir: Path) -> None:
    """An empty answer is one, in each of the three ways."""
    future = ("--since", "2030-01-01", "--data-dir", data_dir)
    assert run_command("usage", *future).out.split()[0] == "MODEL"
    assert run_command("usage", *future).out.count("\n") == 1
    assert run_command("usage", "--csv", *future).out == (
        "model,requests,prompt_tokens,completion_tokens,usd,bundled,diem\n"
    )
    assert json.loads(run_command("usage", "--json", *future).out) == []


def test_it_knows_an_account_that_came_while_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a gateway accounts are made at any moment; sums by key must not fail on a new one."""
    asyncio.run(SqliteStore(tmp_path).aclose())
    totals = SqliteReports.usage_totals

    async def spend_first(self: SqliteReports, *arguments: Any, **bounds: int) -> list[UsageTotal]:
        books = open_books(SqliteStore(tmp_path), usd=USD)
        await books.store.submit((account_row("b"), key_row("k2", "b")))
        await books.book.credit("b", USD, reason="test")
        hold = books.reserve("r", 10, account_id="b", key_id="k2")
        await hold.settle(charge("r", 10, account_id="b", key_id="k2")).durable
        await books.store.aclose()
        return await totals(self, *arguments, **bounds)

    # A stand-in for the moment between two readings, which nothing else can hit for sure.
    monkeypatch.setattr(SqliteReports, "usage_totals", spend_first)
    [line] = usage(tmp_path, "--by", "key")
    assert (line["name"], line["account"], line["usd"]) == ("k2", "name of b", "0.00000001")
