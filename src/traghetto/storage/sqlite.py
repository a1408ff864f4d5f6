"""The books in one SQLite file, written by one thread that commits in groups.

A batch is whatever was submitted during the previous commit, so one fsync serves many requests and
no timer is needed. Each kind of row is one statement per batch; the interpreter is free for
requests while SQLite works.

Invariants: one process writes (lock and generation number); a batch is one transaction; after a
failed commit nothing more is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Literal, TypeVar

import apsw
import msgspec

from traghetto.storage.batch import Batch
from traghetto.storage.connector import Durable, StoreBroken, StoreUnusable, tell_nobody
from traghetto.storage.directory_lock import PRIVATE_FILE_MODE, DataDirectoryLock
from traghetto.storage.facts import (
    AccountSaved,
    AllocationSet,
    AnswerKept,
    BalanceRow,
    Entry,
    Fact,
    GrantedRow,
    HoldOpened,
    KeptBytes,
    KeySaved,
    KeySpendRow,
    KeyUsed,
    StoredState,
    UsageRecorded,
)
from traghetto.storage.migrate import check_version, migrate, require_current
from traghetto.storage.named_sql import load_queries

FILE_NAME: Final = "traghetto.sqlite3"
WAL_BYTES_MAX: Final = 64 * 1024 * 1024
BUSY_MILLISECONDS: Final = 5_000

Durability = Literal["full", "normal"]
_SYNCHRONOUS: Final[dict[Durability, str]] = {"full": "FULL", "normal": "NORMAL"}
_WRITE: Final = load_queries("write.sql")
_READ: Final = load_queries("read.sql")
_RowT = TypeVar("_RowT", bound=msgspec.Struct)
_ArgumentT = TypeVar("_ArgumentT")


class SqliteStore:
    """The store of a single gateway; see `connector.Store`."""

    def __init__(
        self, data_dir: Path, *, durability: Durability = "full", vfs: str | None = None
    ) -> None:
        """Take the data directory, bring the schema up to date and start the writer.

        `vfs` names the file system that SQLite is to use, if not its own for this platform.
        Raises StoreUnusable: the directory belongs to another process, or a newer version wrote
        the books.
        """
        self._lock = DataDirectoryLock(data_dir)
        try:
            self._path = data_dir / FILE_NAME
            self._connection = _open_for_writing(self._path, durability, vfs)
            [[self._generation]] = self._connection.execute(_WRITE["next_generation"]).fetchall()
            self._reader = _open_for_reading(self._path, vfs)
        except BaseException:
            self._lock.release()
            raise
        self._reading = threading.Lock()
        """Held while `_reader` is used: by one thread at a time, none of which is the loop's."""
        self.on_broken: Callable[[str], None] = tell_nobody
        self._wal_path = data_dir / f"{FILE_NAME}-wal"
        self._mutex = threading.Lock()
        self._facts: list[Fact] = []
        self._waiting: Durable | None = None
        self._failure: StoreBroken | None = None
        self._is_closing = False
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_batches, name="books", daemon=True)
        self._writer.start()

    @property
    def healthy(self) -> bool:
        return self._failure is None

    def submit(self, facts: Sequence[Fact]) -> Durable:
        with self._mutex:
            waiting = self._waiting
            if waiting is None:
                waiting = Durable(loop=asyncio.get_running_loop())
                if self._failure is not None or self._is_closing:
                    waiting.resolve(self._failure or StoreBroken("the store is closed"))
                    return waiting
                self._waiting = waiting
                self._wake.put(True)
            self._facts.extend(facts)
        return waiting

    def load(self, day: str) -> StoredState:
        return _read_state(self._connection, day)

    async def find_answer(self, handle: bytes) -> AnswerKept | None:
        return await asyncio.to_thread(self._find_answer, handle)

    def _find_answer(self, handle: bytes) -> AnswerKept | None:
        with self._reading:
            return next(_rows(self._reader, "kept_answer", AnswerKept, handle), None)

    async def aclose(self) -> None:
        with self._mutex:
            self._is_closing = True  # nothing is taken that the writer would not see any more
            self._wake.put(False)
        await asyncio.to_thread(self._writer.join)
        self._failure = self._failure or StoreBroken("the store is closed")
        with self._reading:
            self._reader.close()
        self._connection.close()
        self._lock.release()

    def _write_batches(self) -> None:
        while self._wake.get():
            with self._mutex:
                facts, waiting = self._facts, self._waiting
                self._facts, self._waiting = [], None
            assert waiting is not None, "the writer is woken once per batch"
            loop = waiting.get_loop()
            try:
                self._commit(facts)
            except Exception as failure:  # noqa: BLE001 - whatever it is, the books are in doubt
                self._break(loop, failure, waiting)
                return
            _call(loop, waiting.resolve, None)
            try:
                self._trim_log()
            except Exception as failure:  # noqa: BLE001 - the next commit may go the same way
                self._break(loop, failure)
                return

    def _commit(self, facts: list[Fact]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            self._check_generation()
            for name, parameters in Batch(facts).statements():
                execute(_WRITE[name], parameters)
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(apsw.Error):
                execute("ROLLBACK")
            raise

    def _trim_log(self) -> None:
        """Keep the write-ahead log short; what is committed stays so, whatever happens here."""
        if self._wal_path.stat().st_size <= WAL_BYTES_MAX:
            return
        # A reader may keep the log busy. The next batch tries again, and does not wait for it now.
        self._connection.set_busy_timeout(0)
        try:
            with contextlib.suppress(apsw.BusyError):
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self._connection.set_busy_timeout(BUSY_MILLISECONDS)

    def _check_generation(self) -> None:
        """The lock keeps a second writer out; this catches one on a file system without locks."""
        [[generation]] = self._connection.execute(_WRITE["read_generation"]).fetchall()
        if generation != self._generation:
            raise StoreBroken("another process has taken over the books")

    def _break(
        self, loop: asyncio.AbstractEventLoop, cause: Exception, waiting: Durable | None = None
    ) -> None:
        """Fail the batch `waiting`, all that waits behind it, and everything still to come."""
        failure = cause if isinstance(cause, StoreBroken) else StoreBroken(f"commit: {cause}")
        failure.__cause__ = cause
        with self._mutex:
            self._failure = failure
            behind, self._waiting = self._waiting, None
            self._facts = []
        for future in (waiting, behind):
            if future is not None:
                _call(loop, future.resolve, failure)
        _call(loop, self._tell_broken, str(failure))

    def _tell_broken(self, reason: str) -> None:
        self.on_broken(reason)  # whoever is to hear of it now, not when the batch was taken


class SqliteSnapshot:
    """One consistent, read-only view; see `connector.Snapshot`. Close it, or the log grows."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection: Final = connection

    def __enter__(self) -> SqliteSnapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the view."""
        self.connection.close()

    def load(self, day: str) -> StoredState:
        return _read_state(self.connection, day)

    def accounts(self) -> Iterable[AccountSaved]:
        return _accounts(self.connection)

    def allocations(self) -> Iterable[AllocationSet]:
        return _rows(self.connection, "allocations", AllocationSet)

    def entries(self) -> Iterable[Entry]:
        return _rows(self.connection, "entries", Entry)

    def usages(self) -> Iterable[UsageRecorded]:
        return _rows(self.connection, "usages", UsageRecorded)

    def balances(self) -> Iterable[BalanceRow]:
        return _rows(self.connection, "balances", BalanceRow)

    def key_spends(self) -> Iterable[KeySpendRow]:
        return _rows(self.connection, "key_spends", KeySpendRow)

    def holds(self) -> Iterable[HoldOpened]:
        return _rows(self.connection, "holds", HoldOpened)


def require_books(data_dir: Path) -> None:
    """Raises StoreUnusable if there are no books in `data_dir`; touches nothing."""
    if not (data_dir / FILE_NAME).exists():
        raise StoreUnusable(
            f"there are no books in {data_dir}: start `traghetto serve` once, or name the right "
            "directory with --data-dir"
        )


def open_read_only(data_dir: Path) -> SqliteSnapshot:
    """A snapshot of the books in `data_dir`, whether or not a gateway is running on them.

    Raises StoreUnusable if there are no books there, or another version wrote them.
    """
    require_books(data_dir)
    connection = open_view(data_dir / FILE_NAME)
    try:
        require_current(connection)
    except BaseException:
        connection.close()
        raise
    return SqliteSnapshot(connection)


def open_view(path: Path) -> apsw.Connection:
    """One consistent, read-only view of the books in a file, whatever version wrote them.

    Raises StoreUnusable if it was a newer version than this one.
    """
    connection = _open_for_reading(path)
    try:
        connection.execute("BEGIN")
        check_version(connection)  # the first read of the transaction, which fixes the view
    except BaseException:
        connection.close()
        raise
    return connection


def _open_for_reading(path: Path, vfs: str | None = None) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    return connection


def _open_for_writing(path: Path, durability: Durability, vfs: str | None) -> apsw.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE))
    connection = apsw.Connection(str(path), vfs=vfs)
    try:
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", _SYNCHRONOUS[durability])
        connection.pragma("foreign_keys", True)
        connection.pragma("journal_size_limit", WAL_BYTES_MAX)
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _call(
    loop: asyncio.AbstractEventLoop, function: Callable[[_ArgumentT], None], argument: _ArgumentT
) -> None:
    # The loop is closed when the program ends without `aclose`; then nobody waits any more.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, argument)


def _read_state(connection: apsw.Connection, day: str) -> StoredState:
    first_of_month = day[:-2] + "01"
    return StoredState(
        day=day,
        accounts=tuple(_accounts(connection)),
        keys=tuple(_rows(connection, "keys", KeySaved)),
        allocations=tuple(_rows(connection, "allocations", AllocationSet)),
        balances=tuple(_rows(connection, "balances_from", BalanceRow, day)),
        grants=tuple(_rows(connection, "grants_from", GrantedRow, day)),
        key_spends=tuple(_rows(connection, "key_spends_from", KeySpendRow, first_of_month)),
        key_lifetimes=tuple(_rows(connection, "key_lifetimes", KeySpendRow)),
        holds=tuple(_rows(connection, "holds", HoldOpened)),
        key_uses=tuple(_rows(connection, "key_uses", KeyUsed)),
        kept_bytes=tuple(_rows(connection, "kept_bytes", KeptBytes)),
        pepper_proof=next((row[0] for row in connection.execute(_READ["pepper_proof"])), None),
    )


def _accounts(connection: apsw.Connection) -> Iterator[AccountSaved]:
    for row in connection.execute(_READ["accounts"]):
        features = msgspec.json.decode(row[7], type=tuple[str, ...])
        yield msgspec.convert((*row[:7], features, row[8]), AccountSaved, strict=False)


def _rows(
    connection: apsw.Connection, query: str, row_type: type[_RowT], *arguments: Any
) -> Iterator[_RowT]:
    return read_rows(connection, _READ[query], row_type, arguments)


def read_rows(
    connection: apsw.Connection, statement: str, row_type: type[_RowT], parameters: Sequence[Any]
) -> Iterator[_RowT]:
    """The rows of a statement whose columns are the fields of `row_type`, in order."""
    for row in connection.execute(statement, parameters):
        yield msgspec.convert(row, row_type, strict=False)
