"""What is read from the books for people: histories and sums, beside a running gateway.

Every report is one consistent, read-only view of its own, read in a worker thread, so that it
neither waits for the writer nor keeps requests waiting. A report that takes too long is given up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar
from weakref import WeakValueDictionary

import apsw
import msgspec

from traghetto.money import Currency
from traghetto.storage.facts import Entry, EntryKind, KeySpendRow
from traghetto.storage.named_sql import load_queries
from traghetto.storage.sqlite import open_read_only, read_rows

REPORTS_AT_ONCE_MAX: Final = 2
STEPS_BETWEEN_LOOKS: Final = 20_000
"""Steps of the database's machine between two looks at whether to go on; a few milliseconds."""
SUMS_MAX: Final = 200_000
"""Rows of one report of sums; more are as good as a report that takes too long."""
REQUEST_ID_CHARACTERS_MAX: Final = 128

_SQL: Final = load_queries("reports.sql")
_ResultT = TypeVar("_ResultT")


class ReportTimeout(Exception):
    """A report was given up because it took too long."""


class UsageEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A charge or refund, with what its request used. Tokens are None for a request without any."""

    seq: int
    created_ns: int
    kind: EntryKind
    line: str
    currency: Currency
    amount: int
    units: int
    price_version: str
    request_id: str
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    duration_ms: int | None

    @property
    def into_funds(self) -> int:
        """What the customer's funds gained by it, in nano_usd: negative for a charge."""
        return self.amount if self.kind is EntryKind.REFUND else -self.amount


class UsageSum(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Charges less refunds of one UTC day, model, key, line and currency; amounts in nano_usd."""

    day: int
    """Days since 1970-01-01."""
    model: str
    key_id: str
    line: str
    currency: Currency
    amount: int
    units: int


class UsageTotal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Requests of one UTC day, account, key, model and currency, free ones included (None)."""

    day: int
    """Days since 1970-01-01."""
    account_id: str
    key_id: str
    model: str
    currency: Currency | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    nano_usd: int
    """Charged, less what was refunded."""


class Reports(Protocol):
    """What endpoints and commands ask for. Times are UTC nanoseconds, ends are exclusive.

    Every method raises ReportTimeout.
    """

    async def usage_entries(
        self,
        account_id: str,
        *,
        after: tuple[int, int],
        end_ns: int,
        currency: Currency | None,
        rows_max: int,
    ) -> list[UsageEntry]:
        """Charges and refunds behind the place `after` (`created_ns`, `seq`), oldest first."""
        ...

    async def usage_sums(self, account_id: str, *, start_ns: int, end_ns: int) -> list[UsageSum]:
        """What an account was charged, summed."""
        ...

    async def usage_totals(
        self, account_id: str | None, *, start_ns: int, end_ns: int
    ) -> list[UsageTotal]:
        """Totals of an account, or of all accounts."""
        ...

    async def key_spends(self, account_id: str, *, first_day: str) -> list[KeySpendRow]:
        """What the keys of an account spent per day, from the day window `first_day` on."""
        ...

    async def account_entries(self, account_id: str, *, rows_max: int) -> list[Entry]:
        """The last entries of an account, whatever moved its money; oldest first."""
        ...

    async def request_entries(self, request_id: str) -> list[Entry]:
        """The charges and refunds of one request."""
        ...


class SqliteReports:
    """Reports from the books in a data directory; see `Reports`."""

    def __init__(self, data_dir: Path, *, seconds_max: float) -> None:
        self._data_dir = data_dir
        self._seconds_max = seconds_max
        self._free = asyncio.Semaphore(REPORTS_AT_ONCE_MAX)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One report of an account at a time, so that nobody's many keep out everybody else's."""

    async def usage_entries(
        self,
        account_id: str,
        *,
        after: tuple[int, int],
        end_ns: int,
        currency: Currency | None,
        rows_max: int,
    ) -> list[UsageEntry]:
        parameters = (account_id, *after, end_ns, currency, rows_max)
        return await self._read(
            account_id, lambda books: _all(books, "usage_entries", UsageEntry, parameters)
        )

    async def usage_sums(self, account_id: str, *, start_ns: int, end_ns: int) -> list[UsageSum]:
        parameters = (account_id, start_ns, end_ns, SUMS_MAX + 1)
        sums = await self._read(
            account_id, lambda books: _all(books, "usage_sums", UsageSum, parameters)
        )
        if len(sums) > SUMS_MAX:
            raise ReportTimeout
        return sums

    async def usage_totals(
        self, account_id: str | None, *, start_ns: int, end_ns: int
    ) -> list[UsageTotal]:
        parameters = (account_id, start_ns, end_ns)
        return await self._read(
            "", lambda books: _all(books, "usage_totals", UsageTotal, parameters)
        )

    async def key_spends(self, account_id: str, *, first_day: str) -> list[KeySpendRow]:
        parameters = (account_id, first_day)
        return await self._read(
            account_id, lambda books: _all(books, "key_spends_of_account", KeySpendRow, parameters)
        )

    async def account_entries(self, account_id: str, *, rows_max: int) -> list[Entry]:
        parameters = (account_id, rows_max)
        latest = await self._read(
            account_id, lambda books: _all(books, "account_entries", Entry, parameters)
        )
        return latest[::-1]

    async def request_entries(self, request_id: str) -> list[Entry]:
        if len(request_id) > REQUEST_ID_CHARACTERS_MAX:
            return []
        return await self._read(
            "", lambda books: _all(books, "request_entries", Entry, (request_id,))
        )

    async def _read(
        self, account_id: str, report: Callable[[apsw.Connection], _ResultT]
    ) -> _ResultT:
        """A report for an account (empty: for operators), its waiting for a turn included.

        The turn lasts until the database has stopped, also if nobody waits for the report any more.
        """
        turn = self._turns.setdefault(account_id, asyncio.Lock())
        given_up = threading.Event()
        try:
            async with asyncio.timeout(self._seconds_max), turn, self._free:
                reading = asyncio.ensure_future(asyncio.to_thread(self._run, report, given_up))
                try:
                    return await asyncio.shield(reading)
                except asyncio.CancelledError:
                    given_up.set()
                    await asyncio.wait((reading,))
                    reading.exception()
                    raise
        except TimeoutError:
            raise ReportTimeout from None

    def _run(
        self, report: Callable[[apsw.Connection], _ResultT], given_up: threading.Event
    ) -> _ResultT:
        with open_read_only(self._data_dir) as snapshot:
            books = snapshot.connection
            books.set_progress_handler(given_up.is_set, STEPS_BETWEEN_LOOKS)
            return report(books)


_RowT = TypeVar("_RowT", bound=msgspec.Struct)


def _all(
    books: apsw.Connection, query: str, row_type: type[_RowT], parameters: tuple[object, ...]
) -> list[_RowT]:
    return list(read_rows(books, _SQL[query], row_type, parameters))
