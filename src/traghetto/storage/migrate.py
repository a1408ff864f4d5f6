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
    known = migrations()
    version = check_version(connection)
    for number, statements in known:
        if number <= version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(statements)
            connection.pragma("user_version", number)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


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
