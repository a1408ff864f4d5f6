"""Books of an older version: brought up to date whole, or left exactly as they were."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from support import old_books
from support.gateway import operate, running_gateway
from support.old_books import ENTRIES, HOLDS, USAGES, dump, write_old_books
from traghetto.ledger.verify import verify
from traghetto.storage.connector import StoreUnusable
from traghetto.storage.migrate import migrations
from traghetto.storage.named_sql import load_queries
from traghetto.storage.sqlite import FILE_NAME, SqliteStore, open_read_only

NEWEST = migrations()[-1][0]
SAME = ("account", "diem_allocation", "entry", "balance", "key_spend", "hold", "pepper")
"""Tables whose rows a migration does not widen."""


def bring_up_to_date(data_dir: Path) -> None:
    """What every start does first."""

    async def run() -> None:
        await SqliteStore(data_dir).aclose()

    asyncio.run(run())


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_old_books(folder)
    return folder


@pytest.fixture
def migrated(data_dir: Path) -> apsw.Connection:
    bring_up_to_date(data_dir)
    connection = apsw.Connection(str(data_dir / FILE_NAME))
    connection.pragma("foreign_keys", True)
    return connection


def test_every_row_of_older_books_is_kept(data_dir: Path) -> None:
    """Tables are written anew, and nothing that anybody owns, spent or used may get lost in it."""
    before = dump(data_dir / FILE_NAME)
    bring_up_to_date(data_dir)
    after = dump(data_dir / FILE_NAME)
    assert (before["version"], after["version"]) == (old_books.VERSION, NEWEST)
    for table in SAME:
        assert after[table] == before[table], table
        assert after[table], f"{table} has rows, or it proves nothing"
    assert after["usage"] == {(*row, None) for row in before["usage"]}, "their time is not known"
    assert after["api_key"] == {(*row, 0, 0) for row in before["api_key"]}, "no limit has a rest"
    assert after["key_use"] == after["kept_answer"] == set()
    assert not [name for _, name, _ in after["schema"] if name.startswith("new_")]


def test_they_verify_and_keep_the_order_of_their_journal(data_dir: Path) -> None:
    """The books add up, and entries and usages come in the order in which they were written."""
    bring_up_to_date(data_dir)
    with open_read_only(data_dir) as books:
        found = verify(books)
        assert [row.request_id for row in books.entries()] == [row[0] for row in ENTRIES]
        assert [row.request_id for row in books.usages()] == [row[0] for row in USAGES]
        assert {row.duration_ms for row in books.usages()} == {None}
    assert found.differences == ()
    assert (found.entries, found.usages, found.open_holds) == (
        len(ENTRIES), len(USAGES), len(HOLDS)
    )  # fmt: skip


def test_bringing_them_up_to_date_twice_changes_nothing(data_dir: Path) -> None:
    """A migration is applied once: only the number of the owner grows with every start."""
    bring_up_to_date(data_dir)
    first = dump(data_dir / FILE_NAME, but=("meta",))
    bring_up_to_date(data_dir)
    assert dump(data_dir / FILE_NAME, but=("meta",)) == first


def test_a_migrated_schema_is_that_of_new_books(data_dir: Path, tmp_path: Path) -> None:
    """Old and new installations must not differ in a constraint, an index or a trigger."""
    bring_up_to_date(data_dir)
    bring_up_to_date(tmp_path / "new")
    old, new = (dump(folder / FILE_NAME)["schema"] for folder in (data_dir, tmp_path / "new"))
    assert old == new
    named = {(kind, name) for kind, name, sql in old if kind in ("index", "trigger") and sql}
    assert named == {
        ("trigger", "entry_is_never_changed"),
        ("trigger", "entry_is_never_deleted"),
        ("index", "diem_grant_of_window"),
        ("index", "usage_entry_of_account"),
        ("index", "refund_of_request"),
        ("index", "api_key_of_account"),
        ("index", "kept_answer_by_expiry"),
    }


@pytest.mark.parametrize("statement", ["UPDATE entry SET amount = 1", "DELETE FROM entry"])
def test_their_journal_is_still_append_only(migrated: apsw.Connection, statement: str) -> None:
    """Writing a table anew drops its triggers; they must be there again."""
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        migrated.execute(statement)


@pytest.mark.parametrize(
    ("queries", "name", "parameters", "index"),
    [
        ("reports.sql", "usage_entries", ("acme", 0, 0, 2**62, None, 10), "usage_entry_of_account"),
        ("reports.sql", "usage_sums", ("acme", 0, 2**62, 9), "usage_entry_of_account"),
        ("reports.sql", "usage_totals", (None, 0, 2**62), "refund_of_request"),
        ("reports.sql", "key_spends_of_account", ("acme", ""), "api_key_of_account"),
        ("reports.sql", "request_entries", ("r1",), "sqlite_autoindex_entry_1"),
        ("read.sql", "grants_from", (old_books.DAY,), "diem_grant_of_window"),
    ],
)
def test_statements_still_find_their_index(
    migrated: apsw.Connection, queries: str, name: str, parameters: tuple[Any, ...], index: str
) -> None:
    """Without its index a history page reads the whole journal."""
    statement = load_queries(queries)[name]
    plan = [row[3] for row in migrated.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    assert any(f"INDEX {index}" in step for step in plan), plan
    if name == "usage_entries":
        assert not any("TEMP B-TREE" in step for step in plan), "it is read in order"


def entry(**changes: Any) -> tuple[Any, ...]:
    row: dict[str, Any] = {
        "request_id": "new", "kind": "credit", "line": "", "account_id": "acme",
        "debit": "funding", "credit": "funds", "currency": "BUNDLED_CREDITS", "window": "",
        "amount": 5, "units": 0, "key_id": None, "key_window": "", "price_version": "",
        "created_ns": 1, "reason": "",
    }  # fmt: skip
    assert changes.keys() <= row.keys()
    return tuple((row | changes).values())


REFUND = {"kind": "refund", "debit": "revenue", "currency": "USD"}


@pytest.mark.parametrize(
    ("row", "accepted"),
    [
        (entry(), True),
        (entry(**REFUND), True),
        (entry(**REFUND, request_id="r1", line="prompt"), True),
        (entry(window=old_books.DAY), False),
        (entry(currency="EUR"), False),
        (entry(kind="gift"), False),
        (entry(**REFUND | {"debit": "funding"}), False),
        (entry(debit="revenue"), False),
        (entry(amount=0), False),
        (entry(account_id="nobody"), False),
        (entry(request_id="r2", kind="charge", line="prompt", debit="funds", credit="revenue"),
         False),
    ],
    ids=lambda value: value if isinstance(value, bool) else "-".join(map(str, value[:7])),
)  # fmt: skip
def test_what_is_new_is_accepted_and_nonsense_still_refused(
    migrated: apsw.Connection, row: tuple[Any, ...], accepted: bool
) -> None:
    """Bundled credits and refunds can be written; every constraint of before holds for them."""
    marks = ", ".join("?" * len(row))
    statement = f"INSERT INTO entry VALUES (NULL, {marks})"
    if accepted:
        migrated.execute(statement, row)
        return
    with pytest.raises(apsw.ConstraintError):
        migrated.execute(statement, row)


@pytest.mark.parametrize(
    "obstacle",
    [
        "CREATE TABLE new_entry (x)",
        "CREATE TABLE new_hold (x)",
        "CREATE TABLE kept_answer (x)",
        "CREATE TABLE kept_answer_by_expiry (x)",
    ],
)
def test_a_migration_that_fails_leaves_the_older_books(tmp_path: Path, obstacle: str) -> None:
    """At its first, in its middle or at its last statement: all of it or nothing."""
    data_dir = tmp_path / "data"
    write_old_books(data_dir, then=obstacle)
    before = dump(data_dir / FILE_NAME)
    for _ in range(2):  # the second time: the lock was let go
        with pytest.raises(apsw.SQLError, match="already"):
            bring_up_to_date(data_dir)
        assert dump(data_dir / FILE_NAME) == before
    connection = apsw.Connection(str(data_dir / FILE_NAME))
    connection.execute(f"DROP TABLE {obstacle.split()[2]}")
    connection.close()
    bring_up_to_date(data_dir)
    with open_read_only(data_dir) as books:
        assert verify(books).differences == ()


def test_reading_older_books_is_refused_with_what_to_do(data_dir: Path) -> None:
    """Commands that only read cannot bring books up to date: they say who does, and change nothing."""
    before = dump(data_dir / FILE_NAME)
    with pytest.raises(StoreUnusable, match=r"schema version 2.*`traghetto serve` brings them up"):
        open_read_only(data_dir)
    assert dump(data_dir / FILE_NAME) == before


def test_a_gateway_starts_on_older_books(data_dir: Path, tmp_path: Path) -> None:
    """Its keys authenticate, balances and limits are those of before, orphaned holds are voided."""
    with running_gateway(tmp_path) as gateway:
        directory = gateway.gateway.administration._directory
        found = gateway.call(directory.authenticate, old_books.SECRET)
        assert found is not None
        assert found[1].name == "acme"
        assert gateway.differences() == []
    (acme, beta) = operate(data_dir, "accounts", "list")
    assert (acme["usd"], acme["bundled"], acme["diem_per_day"]) == ("9.999999", None, "3")
    assert (beta["usd"], beta["disabled"], acme["features"]) == ("-0.00000001", True, ["vision"])
    first = operate(data_dir, "keys", "list")[0]
    assert (first["limit_usd"], first["limit_diem"], first["period"]) == ("5", "0", "MONTH")
    with open_read_only(data_dir) as books:
        assert list(books.holds()) == []
    refunded = operate(data_dir, "ledger", "refund", "r2", "--reason", "of an older version")
    assert (refunded["currency"], refunded["amount"]) == ("USD", "0.000001")
    assert operate(data_dir, "ledger", "verify")["differences"] == []
