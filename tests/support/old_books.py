"""Books as schema version 2 wrote them: every kind of row, adding up, with a pepper that is known.

The statements are those of that version, written out: they must not follow the code of today.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import apsw

from traghetto.accounts.pepper import FILE_NAME as PEPPER_NAME
from traghetto.ids import INFERENCE_KEY_PREFIX, key_digester, new_api_key
from traghetto.storage.migrate import migrations
from traghetto.storage.sqlite import FILE_NAME

VERSION: Final = 2
PEPPER: Final = b"p" * 32
SECRET: Final = new_api_key(INFERENCE_KEY_PREFIX)
DAY: Final = "E:2025-11-23"
NOW: Final = 1_763_900_000_000_000_000
"""A moment of that day."""

_digest = key_digester(PEPPER)

ACCOUNTS: Final = (
    ("acme", "acme", 1, 1, 1, 0, "partner", '["vision"]', 1),
    ("beta", "=beta", 0, 0, 0, 1, "standard", "[]", 2),
)
KEYS: Final = (
    ("key", "acme", "INFERENCE", "ci", SECRET[-6:], 5 * 10**9, 0, "MONTH", "ALL", None, 0,
     _digest(SECRET), 3, 0),
    ("none", "acme", "ADMIN", "", "abcdef", None, None, "EPOCH", "PRIVATE_ONLY", NOW, 1,
     b"d" * 32, 4, 0),
    ("gone", "beta", "INFERENCE", "", "ghijkl", 0, 2**63 - 1, "LIFETIME", "ALL", None, 0,
     b"e" * 32, 5, 1),
)  # fmt: skip


def _entry(
    request: str, kind: str, line: str, account: str, sides: str, currency: str, amount: int,
    key: str | None = None, units: int = 0,
) -> tuple[Any, ...]:  # fmt: skip
    debit, credit = sides.split(">")
    window = DAY if currency == "DIEM" else ""
    version = "" if key is None else "prompt=100000000/1000000"
    key_window = "" if key is None else DAY
    reason = "" if kind in ("charge", "diem_grant") else f"a {kind}"
    return (
        request, kind, line, account, debit, credit, currency, window, amount, units, key,
        key_window, version, NOW, reason,
    )  # fmt: skip


ENTRIES: Final = (
    _entry("c1", "credit", "", "acme", "funding>funds", "USD", 10 * 10**9),
    _entry("g1", "diem_grant", "allocation", "acme", "diem_grant>funds", "DIEM", 2 * 10**9),
    _entry("g1", "diem_grant", "rise:x", "acme", "diem_grant>funds", "DIEM", 10**9),
    _entry("r1", "charge", "prompt", "acme", "funds>revenue", "DIEM", 700, "key", 7),
    _entry("r1", "charge", "completion", "acme", "funds>revenue", "DIEM", 300, "key", 3),
    _entry("r2", "charge", "prompt", "acme", "funds>revenue", "USD", 1_000, "none", 10),
    _entry("c2", "credit", "", "beta", "funding>funds", "USD", 5),
    _entry("a1", "adjust", "", "beta", "funds>adjustment", "USD", 15),
    _entry("a2", "adjust", "", "acme", "adjustment>funds", "DIEM", 4),
)
BALANCES: Final = (
    ("acme", "DIEM", DAY, 3 * 10**9 - 996),
    ("acme", "USD", "", 10 * 10**9 - 1_000),
    ("beta", "USD", "", -10),
)
KEY_SPENDS: Final = (("key", "DIEM", DAY, 1_000), ("none", "USD", DAY, 1_000))
USAGES: Final = (
    ("r1", "acme", "key", "m", 7, 3, 1, 2, "backend", 1, "DIEM", 1_000, 1_000, NOW),
    ("r2", "acme", "none", "m", 1, 0, 0, 0, "counted", 0, "USD", 2_000, 1_000, NOW),
    ("r3", "beta", "gone", "free", 9, 9, 0, 0, "none", 0, None, 0, 0, NOW),
)
HOLDS: Final = (
    ("r4", "acme", "key", "DIEM", DAY, DAY, 50, NOW, NOW + 1),
    ("r5", "acme", "none", "USD", "", DAY, 60, NOW, NOW + 1),
)
_ROWS: Final[dict[str, tuple[tuple[Any, ...], ...]]] = {
    "account": ACCOUNTS,
    "api_key": KEYS,
    "diem_allocation": (("acme", 3 * 10**9), ("beta", 0)),
    "entry": tuple((seq, *row) for seq, row in enumerate(ENTRIES, 11)),
    "balance": BALANCES,
    "key_spend": KEY_SPENDS,
    "usage": tuple((seq, *row) for seq, row in enumerate(USAGES, 21)),
    "hold": HOLDS,
    "pepper": ((1, _digest("the pepper of these books")),),
}


def write_old_books(data_dir: Path, *, then: str = "") -> None:
    """Books of version 2 with their pepper in a new directory; `then` is more SQL."""
    data_dir.mkdir(mode=0o700, exist_ok=True)
    pepper = data_dir / PEPPER_NAME
    pepper.write_bytes(PEPPER)
    pepper.chmod(0o600)
    connection = apsw.Connection(str(data_dir / FILE_NAME))
    connection.pragma("journal_mode", "wal")
    connection.pragma("foreign_keys", True)
    connection.execute("BEGIN")
    for number, statements in migrations():
        if number <= VERSION:
            connection.execute(statements)
    connection.pragma("user_version", VERSION)
    for table, rows in _ROWS.items():
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    connection.execute("COMMIT")
    connection.execute(then)
    connection.close()
    (data_dir / FILE_NAME).chmod(0o600)


def dump(path: Path, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything in a file of books: the version, the schema, and the rows of tables not in `but`.

    It compares books, whatever version wrote them.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        schema = set(connection.execute("SELECT type, name, sql FROM sqlite_master"))
        tables = [name for kind, name, _ in schema if kind == "table" and name not in but]
        rows = {name: set(connection.execute(f"SELECT * FROM {name}")) for name in tables}
        return {"version": connection.pragma("user_version"), "schema": schema, **rows}
    finally:
        connection.close()
