"""How a command reaches the books: through the running gateway, or itself if none is running.

Read-only operations always read one snapshot of the books, and disturb nobody. The others go to
the owner of the data directory over its control socket; without an owner the command becomes the
owner for as long as it takes. New books are made only where that is asked for.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec

from traghetto.accounts.administration import OPERATIONS, Administration, OperationRefused
from traghetto.accounts.control import SOCKET_NAME
from traghetto.accounts.directory import Directory
from traghetto.accounts.pepper import FILE_NAME as PEPPER_NAME
from traghetto.accounts.pepper import FILE_VARIABLE as PEPPER_VARIABLE
from traghetto.accounts.pepper import PepperUnusable, open_pepper
from traghetto.clock import Clock, SystemClock
from traghetto.ledger.book import Book
from traghetto.ledger.windows import day_window
from traghetto.settings import default_data_dir
from traghetto.storage.connector import SnapshotStore, Store, StoreBroken, StoreUnusable
from traghetto.storage.directory_lock import DataDirectoryBusy
from traghetto.storage.facts import StoredState
from traghetto.storage.reports import SqliteReports
from traghetto.storage.sqlite import SqliteStore, open_read_only, require_books

ANSWER_SECONDS_MAX: Final = 30.0

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])


def data_dir_option() -> Callable[[_CommandT], _CommandT]:
    """The `--data-dir` option, the same on every command."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=default_data_dir,
        envvar="TRAGHETTO_DATA_DIR",
        show_default="the directory that `serve` uses",
        help="Directory of the books and keys.",
    )


def json_option() -> Callable[[_CommandT], _CommandT]:
    """The `--json` option, the same on every command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def perform(
    data_dir: Path,
    operation: str,
    arguments: dict[str, Any],
    result_type: Any,
    *,
    new_books: bool = False,
) -> Any:
    """Carry out an operation of `accounts.administration` and return its typed result.

    `arguments` that are None are left out. A directory without books is refused, unless
    `new_books` may be made there. Raises click.ClickException with a sentence.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        if OPERATIONS[operation].read_only:
            return asyncio.run(_read(data_dir, operation, given))
        if data_dir.exists() and (connection := _connect(data_dir)) is not None:
            with connection:
                return msgspec.convert(_ask(connection, operation, given), result_type)
        if not new_books:
            require_books(data_dir)
        return asyncio.run(_own(data_dir, operation, given))
    except (OperationRefused, PepperUnusable, StoreUnusable, StoreBroken) as refusal:
        raise click.ClickException(str(refusal)) from refusal


def _connect(data_dir: Path) -> socket.socket | None:
    """A connection to the gateway that owns `data_dir`; None if none is running."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS_MAX)
    try:
        connection.connect(str(data_dir / SOCKET_NAME))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, operation: str, arguments: dict[str, Any]) -> Any:
    request = {"operation": operation, "arguments": arguments}
    try:
        connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline()
    except TimeoutError:
        raise OperationRefused(
            f"the gateway did not answer within {ANSWER_SECONDS_MAX:.0f} seconds: whether the "
            "change was made is not known, look before you repeat it"
        ) from None
    if not line:
        raise OperationRefused(
            "the gateway closed the connection: whether the change was made is not known"
        )
    answer = msgspec.json.decode(line)
    if "error" in answer:
        raise OperationRefused(answer["error"])
    return answer["result"]


async def _own(data_dir: Path, operation: str, arguments: dict[str, Any]) -> msgspec.Struct:
    """Carry it out as the owner of the books.

    The pepper is looked at only where a key is made: whoever has lost it can still revoke keys.
    """
    try:
        store = SqliteStore(data_dir)
    except DataDirectoryBusy as busy:
        raise OperationRefused(
            f"{busy}. It has no control socket yet: if it is starting, try again"
        ) from busy
    try:
        clock = SystemClock()
        state = store.load(day_window(clock.utc_ns()))
        pepper = b""
        if OPERATIONS[operation].makes_secret:
            pepper = open_pepper(_pepper_path(data_dir), store, state)
        administration = _administration(data_dir, store, clock, pepper, state)
        return await administration.perform(operation, arguments)
    finally:
        await store.aclose()


async def _read(data_dir: Path, operation: str, arguments: dict[str, Any]) -> msgspec.Struct:
    """Carry it out on a snapshot; no key is checked there, so no pepper is needed."""
    with open_read_only(data_dir) as snapshot:
        store, clock = SnapshotStore(snapshot), SystemClock()
        state = store.load(day_window(clock.utc_ns()))
        administration = _administration(data_dir, store, clock, b"", state)
        return await administration.perform(operation, arguments)


def directory_of(data_dir: Path) -> Directory:
    """The accounts and keys as they are now; no key is checked, so no pepper is needed.

    Raises StoreUnusable if there are no books.
    """
    clock = SystemClock()
    with open_read_only(data_dir) as snapshot:
        state = snapshot.load(day_window(clock.utc_ns()))
        return Directory(SnapshotStore(snapshot), clock, b"", state)


def _pepper_path(data_dir: Path) -> Path:
    """Where the pepper is, as far as a command knows that has not read the configuration file."""
    named = os.environ.get(PEPPER_VARIABLE)
    return Path(named) if named else data_dir / PEPPER_NAME


def _administration(
    data_dir: Path, store: Store, clock: Clock, pepper: bytes, state: StoredState
) -> Administration:
    journal = SqliteReports(data_dir, seconds_max=ANSWER_SECONDS_MAX)
    directory = Directory(store, clock, pepper, state)
    return Administration(directory, Book(store, clock, state), journal)
