"""Reports are read beside each other: who asks for many, or for long ones, keeps nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import apsw
import pytest

from support.books import USD, charge, open_books
from traghetto.storage import reports
from traghetto.storage.reports import ReportTimeout, SqliteReports
from traghetto.storage.sqlite import SqliteStore

SPENT = 3


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Books of account `a` with a few charges."""

    async def run() -> None:
        books = open_books(SqliteStore(tmp_path), usd=USD)
        for number in range(SPENT):
            await books.reserve(f"r{number}", 1_000).settle(charge(f"r{number}", 700)).durable
        await books.store.aclose()

    asyncio.run(run())
    return tmp_path


async def total(place: SqliteReports, account_id: str) -> int:
    """How many rows an account's sums have."""
    return len(await place.usage_sums(account_id, start_ns=0, end_ns=2**62))


def test_an_account_with_many_reports_does_not_keep_another(data_dir: Path) -> None:
    """One report of an account at a time: there is always room for somebody else's."""
    go_on = threading.Event()

    def slow(_: apsw.Connection) -> None:
        assert go_on.wait(10)

    async def run() -> None:
        place = SqliteReports(data_dir, seconds_max=10)
        greedy = [asyncio.create_task(place._read("greedy", slow)) for _ in range(20)]
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(total(place, "a"), 5) > 0
        assert not any(task.done() for task in greedy)
        go_on.set()
        await asyncio.gather(*greedy)
        assert not place._turns

    asyncio.run(run())


def test_a_report_that_waits_too_long_for_its_turn_is_given_up(data_dir: Path) -> None:
    """The time it may take begins when it is asked for, and those behind it have their turn."""
    go_on = threading.Event()

    def slow(_: apsw.Connection) -> None:
        assert go_on.wait(10)

    async def run() -> None:
        place = SqliteReports(data_dir, seconds_max=0.2)
        first = asyncio.create_task(place._read("a", slow))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(ReportTimeout):
            await total(place, "a")
        assert time.monotonic() - began < 5
        go_on.set()
        with pytest.raises(ReportTimeout):
            await first
        assert await total(place, "a") > 0

    asyncio.run(run())


def test_a_report_with_too_many_sums_is_given_up(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound on rows, too: what does not fit is refused, not cut."""

    async def run() -> None:
        place = SqliteReports(data_dir, seconds_max=10)
        rows = await total(place, "a")
        monkeypatch.setattr(reports, "SUMS_MAX", rows)
        assert await total(place, "a") == rows
        monkeypatch.setattr(reports, "SUMS_MAX", rows - 1)
        with pytest.raises(ReportTimeout):
            await total(place, "a")

    asyncio.run(run())
