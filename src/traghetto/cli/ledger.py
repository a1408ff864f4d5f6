"""`traghetto ledger`: prove the books, and correct them with entries that say why."""

from __future__ import annotations

from pathlib import Path

import click

from traghetto.accounts.operations import AccountShown
from traghetto.cli.connection import data_dir_option, json_option, perform
from traghetto.cli.output import print_json
from traghetto.ledger.verify import verify as verify_books
from traghetto.storage.connector import StoreUnusable
from traghetto.storage.sqlite import open_read_only

EXIT_DIFFERENCES = 1


@click.group()
def ledger() -> None:
    """Verify the books, and correct them."""


@ledger.command()
@click.argument("account")
@click.option("--usd", metavar="USD", help="How much to add; negative to take away.")
@click.option("--diem", metavar="DIEM", help="The same for what is left of today's DIEM.")
@click.option("--reason", required=True, help="Why; kept in the journal.")
@data_dir_option()
@json_option()
def adjust(
    account: str,
    usd: str | None,
    diem: str | None,
    reason: str,
    data_dir: Path,
    as_json: bool,
) -> None:
    """Correct a balance with a new entry: nothing in the books is ever changed.

    A balance may become negative; its account is then refused until somebody pays.
    """
    if (usd is None) == (diem is None):
        raise click.UsageError("give either --usd or --diem: a correction is in one currency")
    arguments = {"account": account, "usd": usd, "diem": diem, "reason": reason}
    shown: AccountShown = perform(data_dir, "ledger.adjust", arguments, AccountShown)
    if as_json:
        print_json(shown)
    else:
        diem_left = "" if shown.diem is None else f" and {shown.diem} DIEM of today"
        click.echo(f"{shown.name} now has {shown.usd} USD{diem_left}")


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
            f"{len(found.differences)} differences in {found.entries} entries, {found.usages} "
            f"usage records, {found.balances} balances, {found.key_spends} key counters and "
            f"{found.open_holds} open holds"
        )
    if found.differences:
        context.exit(EXIT_DIFFERENCES)
