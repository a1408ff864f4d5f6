"""`traghetto usage`: what was used and charged, by model, key or day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import click
import msgspec

from traghetto.accounts.directory import DirectoryRefusal
from traghetto.cli.connection import data_dir_option, directory_of, json_option
from traghetto.cli.output import print_csv, print_json, print_table
from traghetto.money import Currency, format_usd
from traghetto.storage.connector import StoreUnusable
from traghetto.storage.reports import ReportTimeout, SqliteReports, UsageTotal

REPORT_SECONDS_MAX: Final = 600.0
_FIRST_DAY: Final = date(1970, 1, 1)
_LAST_DAY: Final = date(2262, 1, 1)
_NS_PER_DAY: Final = 86_400 * 10**9
_DATE = click.DateTime(["%Y-%m-%d"])
_KEY_COLUMNS: Final = ("ACCOUNT", "ENDS IN", "FOR")
_COLUMNS: Final = ("REQUESTS", "PROMPT TOKENS", "COMPLETION TOKENS", "USD", "BUNDLED", "DIEM")


class UsageLine(msgspec.Struct, kw_only=True):
    """One model, key or day. Amounts are decimal USD in text, less what was refunded."""

    name: str
    account: str | None = None
    ends_in: str | None = None
    description: str | None = None
    """Of a key, as the one before."""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: str = "0"
    bundled: str = "0"
    diem: str = "0"


@click.command()
@click.option(
    "--by", type=click.Choice(["model", "key", "day"]), default="model", show_default=True
)
@click.option("--account", help="Name or id of an account; all without it.")
@click.option("--since", type=_DATE, help="First UTC day, such as 2026-11-01.")
@click.option("--until", type=_DATE, help="Last UTC day.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@data_dir_option()
@json_option()
def usage(
    by: str,
    account: str | None,
    since: datetime | None,
    until: datetime | None,
    as_csv: bool,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Show what was used and charged, free requests included, refunds taken off.

    It reads one consistent view of the books, also beside a running gateway.
    """
    if as_csv and as_json:
        raise click.UsageError("give either --csv or --json")
    first = _FIRST_DAY if since is None else since.date()
    last = _LAST_DAY if until is None else until.date()
    if not _FIRST_DAY <= first <= last <= _LAST_DAY:
        raise click.UsageError("--since is a day before --until, and both are sensible")
    try:
        lines = asyncio.run(_lines(data_dir, by, account, first, last))
    except (StoreUnusable, DirectoryRefusal) as refusal:
        raise click.ClickException(str(refusal)) from refusal
    except ReportTimeout:
        raise click.ClickException(
            "it took too long: ask for fewer days with --since and --until"
        ) from None
    if as_json:
        print_json(lines)
        return
    headers = (by.upper(), *(_KEY_COLUMNS if by == "key" else ()), *_COLUMNS)
    rows = (_row(line, of_key=by == "key") for line in lines)
    (print_csv if as_csv else print_table)(headers, rows)


async def _lines(
    data_dir: Path, by: str, account: str | None, first: date, last: date
) -> list[UsageLine]:
    account_id = None if account is None else directory_of(data_dir).account(account).id
    reports = SqliteReports(data_dir, seconds_max=REPORT_SECONDS_MAX)
    totals = await reports.usage_totals(
        account_id, start_ns=_start_ns(first), end_ns=_start_ns(last + timedelta(1))
    )
    directory = directory_of(
        data_dir
    )  # read after the totals, so that it knows all accounts in them
    names: dict[str, Callable[[UsageTotal], str]] = {
        "model": lambda row: row.model,
        "day": lambda row: (_FIRST_DAY + timedelta(row.day)).isoformat(),
        "key": lambda row: row.key_id,
    }
    lines = _summed(totals, names[by])
    if by == "key":
        owners = {row.key_id: directory.account(row.account_id).name for row in totals}
        for line in lines:
            description, line.ends_in = directory.key_label(line.name)
            line.account, line.description = owners[line.name], description or None
    return lines


def _summed(totals: Iterable[UsageTotal], name: Callable[[UsageTotal], str]) -> list[UsageLine]:
    """One line per name, in the order of names."""
    lines: dict[str, UsageLine] = {}
    amounts: dict[str, dict[Currency, int]] = {}
    for row in totals:
        identity = name(row)
        line = lines.setdefault(identity, UsageLine(name=identity))
        line.requests += row.requests
        line.prompt_tokens += row.prompt_tokens
        line.completion_tokens += row.completion_tokens
        if row.currency is not None:
            spent = amounts.setdefault(identity, {})
            spent[row.currency] = spent.get(row.currency, 0) + row.nano_usd
    for identity, spent in amounts.items():
        line = lines[identity]
        line.usd = format_usd(spent.get(Currency.USD, 0))
        line.bundled = format_usd(spent.get(Currency.BUNDLED_CREDITS, 0))
        line.diem = format_usd(spent.get(Currency.DIEM, 0))
    return [lines[identity] for identity in sorted(lines)]


def _row(line: UsageLine, *, of_key: bool) -> tuple[object, ...]:
    return (
        line.name,
        *((line.account, line.ends_in, line.description) if of_key else ()),
        line.requests,
        line.prompt_tokens,
        line.completion_tokens,
        line.usd,
        line.bundled,
        line.diem,
    )


def _start_ns(day: date) -> int:
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return (midnight.date() - _FIRST_DAY).days * _NS_PER_DAY
