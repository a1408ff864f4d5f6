"""Schema changes: numbered files in `migrations/`, each applied once, in one transaction."""

from __future__ import annotations

from functools import cache
from importlib import resources

import apsw

from traghetto.storage.connector import StoreUnusable


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """Number and text of every migration, in order; the first four digits are the number."""
    folder = resources.files("traghetto.storage").joinpath("migrations")
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return tuple(sorted((int(file.name[:4]), file.read_text("utf-8")) for file in files))


def migrate(connection: apsw.Connection) -> None:
    """Bring the schema up to date.

    Raises StoreUnusable if the database was written by a newer version: an older program must not
    write books whose rules it does not know.
    """
    for number, statements in _pending(connection):
        connection.execute("BEGIN IMMEDIATE")
        try:
            _apply(connection, number, statements)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def rehearse(connection: apsw.Connection) -> None:
    """Bring the schema up to date within the open transaction, which the caller rolls back.

    It shows how this program would read books of an older version, and leaves them as they are.
    """
    for number, statements in _pending(connection):
        _apply(connection, number, statements)


def require_current(connection: apsw.Connection) -> None:
    """Raises StoreUnusable unless this program can read the schema as it is."""
    version, newest = check_version(connection), migrations()[-1][0]
    if version < newest:
        raise StoreUnusable(
            f"the books have schema version {version}, this program reads {newest}: "
            "`traghetto backup` copies them as they are, `traghetto serve` brings them up to date"
        )


def check_version(connection: apsw.Connection) -> int:
    """The schema's version; raises StoreUnusable if it is newer than this program."""
    version = int(connection.pragma("user_version"))
    newest = migrations()[-1][0]
    if version > newest:
        raise StoreUnusable(
            f"the books have schema version {version}, this program knows {newest}: "
            "install the newer version of Traghetto that wrote them"
        )
    return version


def _pending(connection: apsw.Connection) -> list[tuple[int, str]]:
    version = check_version(connection)
    return [migration for migration in migrations() if migration[0] > version]


def _apply(connection: apsw.Connection, number: int, statements: str) -> None:
    connection.execute(statements)
    connection.pragma("user_version", number)
