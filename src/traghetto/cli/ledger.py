"""`traghetto ledger`: prove the books, and correct them with entries that say why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click
import msgspec

from traghetto.accounts.administration import COMPLETION_PREFIX
from traghetto.accounts.operations import AccountShown, Refunded
from traghetto.cli.connection import data_dir_option, directory_of, json_option, perform
from traghetto.cli.output import print_json, print_table
from traghetto.clock import iso8601
from traghetto.ledger.verify import verify as verify_books
from traghetto.money import Currency, format_usd
from traghetto.storage.connector import StoreUnusable
from traghetto.storage.facts import Entry, EntryKind
from traghetto.storage.reports import ReportTimeout, SqliteReports
from traghetto.storage.sqlite import open_read_only

EXIT_DIFFERENCES = 1
REPORT_SECONDS_MAX = 60.0
_HEADERS = ("TIME", "ACCOUNT", "KIND", "LINE", "AMOUNT", "CURRENCY", "REQUEST", "REASON")


class EntryShown(msgspec.Struct, frozen=True, kw_only=True):
    """A movement of money, as operators see it; amounts are decimal numbers in text."""

    time: str
    account: str
    kind: EntryKind
    line: str
    amount: str
    currency: Currency
    request: str
    units: int
    prices: str
    reason: str

    @classmethod
    def of(cls, entry: Entry, account: str) -> EntryShown:
        """An entry of the account of that name."""
        return cls(
            time=iso8601(entry.created_ns),
            account=account,
            kind=entry.kind,
            line=entry.line,
            amount=format_usd(entry.into_funds),
            currency=entry.currency,
            request=entry.request_id,
            units=entry.units,
            prices=entry.price_version,
            reason=entry.reason,
        )


@click.group()
def ledger() -> None:
    """Show, verify and correct the books."""


@ledger.command()
@click.argument("account")
@click.option("--usd", metavar="USD", help="How much to add; negative to take away.")
@click.option("--bundled", metavar="USD", help="The same for bundled credits.")
@click.option("--diem", metavar="DIEM", help="The same for what is left of today's DIEM.")
@click.option("--reason", required=True, help="Why; kept in the journal.")
@data_dir_option()
@json_option()
def adjust(account: str, reason: str, data_dir: Path, as_json: bool, **amounts: str | None) -> None:
    """Correct a balance with a new entry: nothing in the books is ever changed.

    A balance may become negative; nothing is paid in its currency then, until somebody adds to it.
    The account's other currencies can still be spent: `accounts disable` stops an account.
    """
    if sum(amount is not None for amount in amounts.values()) != 1:
        raise click.UsageError("give one of --usd, --bundled and --diem: a correction is of one")
    arguments = {"account": account, "reason": reason, **amounts}
    shown: AccountShown = perform(data_dir, "ledger.adjust", arguments, AccountShown)
    if as_json:
        print_json(shown)
    else:
        owned = [f"{shown.usd} USD"]
        if shown.bundled is not None:
            owned.append(f"{shown.bundled} USD of bundled credits")
        if shown.diem is not None:
            owned.append(f"{shown.diem} DIEM of today")
        click.echo(f"{shown.name} now has {' and '.join(owned)}")


@ledger.command()
@click.argument("what", metavar="ACCOUNT|REQUEST_ID")
@click.option("--last", "rows_max", type=click.IntRange(1, 10_000), default=20, show_default=True)
@data_dir_option()
@json_option()
def show(what: str, rows_max: int, data_dir: Path, as_json: bool) -> None:
    """Show the last entries of an account, or those of one request, oldest first.

    Positive amounts went to the account, negative ones it paid.
    """
    try:
        entries = asyncio.run(_entries(data_dir, what, rows_max))
    except StoreUnusable as refusal:
        raise click.ClickException(str(refusal)) from refusal
    except ReportTimeout:
        raise click.ClickException("it took too long: ask for fewer entries with --last") from None
    if as_json:
        print_json(entries)
    else:
        print_table(_HEADERS, map(_row, entries))


async def _entries(data_dir: Path, what: str, rows_max: int) -> list[EntryShown]:
    reports = SqliteReports(data_dir, seconds_max=REPORT_SECONDS_MAX)
    directory = directory_of(data_dir)
    account = directory.find_account(what)
    if account is not None:
        entries = await reports.account_entries(account.id, rows_max=rows_max)
    else:
        entries = await reports.request_entries(what.removeprefix(COMPLETION_PREFIX))
        if not entries:
            raise click.ClickException(
                f"there is no account {what!r}, and no charge of a request of that id"
            )
    return [EntryShown.of(entry, directory.account(entry.account_id).name) for entry in entries]


def _row(entry: EntryShown) -> tuple[object, ...]:
    return (
        entry.time,
        entry.account,
        entry.kind.value,
        entry.line or None,
        entry.amount,
        entry.currency.value,
        entry.request,
        entry.reason or None,
    )


@ledger.command()
@click.argument("request_id")
@click.option("--reason", required=True, help="Why; kept in the journal.")
@data_dir_option()
@json_option()
def refund(request_id: str, reason: str, data_dir: Path, as_json: bool) -> None:
    """Give back all that a request was charged, once, with a new entry.

    It goes to the funds that paid, and to the limit of the key in the window in which it was spent.
    DIEM of a day that is over have lapsed and are not given back.
    """
    arguments = {"request": request_id, "reason": reason}
    done: Refunded = perform(data_dir, "ledger.refund", arguments, Refunded)
    if as_json:
        print_json(done)
    else:
        click.echo(f"refunded {done.amount} {done.currency} to {done.account}")


@ledger.command()
@data_dir_option()
@json_option()
@click.pass_context
def verify(context: click.Context, data_dir: Path, as_json: bool) -> None:
    """Recompute every balance, counter and hold from the entries; exit 1 if anything differs.

    It reads one consistent snapshot, also beside a running gateway, and mends nothing.
    """
    try:
        with open_read_only(data_dir) as snapshot:
            found = verify_books(snapshot)
    except StoreUnusable as refusal:
        raise click.ClickException(str(refusal)) from refusal
    if as_json:
        print_json(found)
    else:
        for difference in found.differences:
            click.echo(str(difference))
        click.echo(
            f"{len(found.differences)} differences in {found.entries} entries ({found.refunds} "
            f"refunds), {found.usages} usage records, {found.balances} balances, "
            f"{found.key_spends} key counters and {found.open_holds} open holds"
        )
    if found.differences:
        context.exit(EXIT_DIFFERENCES)
