"""The SQLite file: one owner, a known schema, real failures of the disk, real deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from support.books import USD, account_row, charge, open_books
from traghetto.ledger.verify import verify
from traghetto.storage import sqlite
from traghetto.storage.connector import StoreBroken, StoreUnusable
from traghetto.storage.directory_lock import DataDirectoryBusy
from traghetto.storage.migrate import migrations
from traghetto.storage.sqlite import SqliteStore, open_read_only


def script(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process that can import the test support."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_second_owner_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """One process owns the books; when it is gone the next one may."""

    async def run() -> None:
        store = SqliteStore(tmp_path)
        with pytest.raises(DataDirectoryBusy, match=f"process {os.getpid()}"):
            SqliteStore(tmp_path)
        await store.aclose()
        await SqliteStore(tmp_path).aclose()

    asyncio.run(run())


def test_what_comes_while_the_store_closes_is_told_so(tmp_path: Path) -> None:
    """It is not waited for: the writer looks at nothing any more."""

    async def run() -> None:
        store = SqliteStore(tmp_path)
        closing = asyncio.ensure_future(store.aclose())
        await asyncio.sleep(0)
        with pytest.raises(StoreBroken, match="closed"):
            await asyncio.wait_for(store.submit([account_row()]), 5)
        await closing

    asyncio.run(run())


def test_a_writer_that_lost_the_books_stops(tmp_path: Path) -> None:
    """Without a working lock, the generation number stops the older of two writers."""

    async def run() -> None:
        store = SqliteStore(tmp_path)
        other = apsw.Connection(str(tmp_path / sqlite.FILE_NAME))
        other.execute("UPDATE meta SET value = value + 1 WHERE name = 'generation'")
        other.close()
        with pytest.raises(StoreBroken, match="taken over"):
            await store.submit((account_row(),))
        await store.aclose()

    asyncio.run(run())


def test_newer_books_are_refused(tmp_path: Path) -> None:
    """An older program neither writes nor reads books whose rules it does not know."""

    async def run() -> None:
        await SqliteStore(tmp_path).aclose()
        connection = apsw.Connection(str(tmp_path / sqlite.FILE_NAME))
        connection.pragma("user_version", migrations()[-1][0] + 1)
        connection.close()
        with pytest.raises(StoreUnusable, match="newer version"):
            SqliteStore(tmp_path)
        with pytest.raises(StoreUnusable, match="newer version"):
            open_read_only(tmp_path)

    asyncio.run(run())


def test_the_books_are_private(tmp_path: Path) -> None:
    """The directory is 0700, every file in it 0600."""

    async def run() -> None:
        folder = tmp_path / "data"
        store = SqliteStore(folder)
        await store.submit((account_row(),))
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
        await store.aclose()

    asyncio.run(run())


def test_a_new_data_directory_outlives_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every directory that is made for the books is on the disk before there are any."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))

    async def run() -> None:
        await SqliteStore(tmp_path / "above" / "data").aclose()
        expected = [(tmp_path / "above").stat().st_ino, tmp_path.stat().st_ino]
        assert synced == expected
        await SqliteStore(tmp_path / "above" / "data").aclose()
        assert synced == expected

    asyncio.run(run())


def test_reading_needs_books(tmp_path: Path) -> None:
    """A read-only command on an empty directory says so and creates nothing."""
    with pytest.raises(StoreUnusable, match="no books"):
        open_read_only(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_snapshot_does_not_move(tmp_path: Path) -> None:
    """What commits after a snapshot was opened is not in it."""

    async def run() -> None:
        store = SqliteStore(tmp_path)
        await store.submit((account_row("a"),))
        with open_read_only(tmp_path) as snapshot:
            await store.submit((account_row("b"),))
            assert [row.id for row in snapshot.accounts()] == ["a"]
        await store.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(
    "statement", ["UPDATE entry SET amount = 1", "DELETE FROM entry WHERE seq = 1"]
)
def test_the_journal_is_append_only(tmp_path: Path, statement: str) -> None:
    """The database itself refuses to change or delete an entry."""

    async def run() -> None:
        store = SqliteStore(tmp_path)
        await open_books(store, usd=USD).book.credit("a", 5, reason="test")
        await store.aclose()
        connection = apsw.Connection(str(tmp_path / sqlite.FILE_NAME))
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            connection.execute(statement)
        connection.close()

    asyncio.run(run())


def test_a_long_log_is_cut_between_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write-ahead log is emptied as soon as it passes its limit."""
    monkeypatch.setattr(sqlite, "WAL_BYTES_MAX", 10_000)

    async def run() -> None:
        store = SqliteStore(tmp_path)
        for number in range(20):
            await store.submit((account_row(str(number)),))
        log = tmp_path / f"{sqlite.FILE_NAME}-wal"
        async with asyncio.timeout(5):
            # It is cut after the waiters of the batch were told.
            while log.stat().st_size > 10_000:
                await asyncio.sleep(0.001)
        await store.aclose()

    asyncio.run(run())


def test_a_reader_that_keeps_the_log_long_delays_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a view of the books is open, batches go on as fast as the disk allows."""
    monkeypatch.setattr(sqlite, "WAL_BYTES_MAX", 10_000)

    async def run() -> None:
        store = SqliteStore(tmp_path)
        await store.submit((account_row("a"),))
        with open_read_only(tmp_path):
            async with asyncio.timeout(sqlite.BUSY_MILLISECONDS / 1_000):
                for number in range(5):
                    await store.submit((account_row(str(number)),))
        await store.aclose()

    asyncio.run(run())


def test_a_log_that_cannot_be_cut_fails_no_batch_that_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that succeeded is reported as one; the trouble after it breaks the store itself."""

    def fails(*_: object, **__: object) -> None:
        raise OSError("no more")

    async def run() -> None:
        store = SqliteStore(tmp_path)
        told: asyncio.Queue[str] = asyncio.Queue()
        store.on_broken = told.put_nowait
        monkeypatch.setattr(store, "_trim_log", fails)
        await store.submit((account_row("a"),))
        async with asyncio.timeout(5):
            assert "no more" in await told.get()
        assert not store.healthy
        with pytest.raises(StoreBroken, match="no more"):
            await store.submit((account_row("b"),))
        await store.aclose()
        with open_read_only(tmp_path) as snapshot:
            assert [row.id for row in snapshot.accounts()] == ["a"]

    asyncio.run(run())


def test_full_synchronisation_is_the_default(tmp_path: Path) -> None:
    """FULL unless the operator says otherwise; foreign keys always."""

    async def run() -> None:
        for durability, expected in (("full", 2), ("normal", 1)):
            store = SqliteStore(tmp_path / durability, durability=durability)
            assert store._connection.pragma("synchronous") == expected
            assert store._connection.pragma("foreign_keys") == 1
            assert store._connection.pragma("journal_mode") == "wal"
            await store.aclose()

    asyncio.run(run())


def test_a_full_disk_breaks_the_store_and_loses_nothing(tmp_path: Path) -> None:
    """With a real write error the waiter hears it, and what was durable before still verifies."""
    process = script(
        """
        import asyncio, resource, sys
        from pathlib import Path
        from support.books import USD, charge, open_books
        from traghetto.storage.connector import StoreBroken
        from traghetto.storage.sqlite import SqliteStore

        async def run():
            store = SqliteStore(Path(sys.argv[1]))
            books = open_books(store, usd=1000 * USD)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
            durable = 0
            try:
                while True:
                    request = f"r{durable}"
                    await books.reserve(request, 10).settle(charge(request, 1, 2)).durable
                    durable += 1
            except StoreBroken:
                print(durable, store.healthy, flush=True)

        asyncio.run(run())
        """,
        str(tmp_path),
    )
    output, _ = process.communicate(timeout=60)
    durable, healthy = output.split()
    assert healthy == "False"
    with open_read_only(tmp_path) as snapshot:
        found = verify(snapshot)
    assert found.usages == int(durable) > 0
    assert not found.differences


def test_a_killed_process_keeps_every_promise(tmp_path: Path) -> None:
    """After kill -9 every acknowledged charge is in the books, and orphan holds are voided."""
    process = script(
        """
        import asyncio, sys
        from pathlib import Path
        from support.books import USD, charge, open_books
        from traghetto.storage.sqlite import SqliteStore

        async def run():
            books = open_books(SqliteStore(Path(sys.argv[1])), usd=1000 * USD)

            async def client(name):
                for number in range(1_000_000):
                    request = f"{name}-{number}"
                    hold = books.reserve(request, 1_000)
                    await hold.durable()
                    await hold.settle(charge(request, number % 97 + 1)).durable
                    print(request, flush=True)

            stuck = books.reserve("stuck", 5 * USD)
            await stuck.durable()
            await asyncio.gather(*(client(name) for name in range(32)))

        asyncio.run(run())
        """,
        str(tmp_path),
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(2_000)]
    process.send_signal(signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.stdout.close()
    process.wait()
    requests = {line.strip() for line in acknowledged if line.endswith("\n")}

    async def recover() -> None:
        store = SqliteStore(tmp_path)
        books = open_books(store, register=False)
        recovery = books.book.recover()
        assert recovery.holds_voided >= 1
        assert recovery.durable is not None
        await recovery.durable
        await books.reserve("after", 10).settle(charge("after", 3)).durable
        await store.aclose()

    asyncio.run(recover())
    with open_read_only(tmp_path) as snapshot:
        found = verify(snapshot)
        charged = {row.request_id for row in snapshot.usages()}
    assert requests <= charged
    assert found.open_holds == 0
    assert not found.differences
