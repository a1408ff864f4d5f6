"""`traghetto ledger`: prove the books."""

from __future__ import annotations

from pathlib import Path

import click

from traghetto.cli.connection import data_dir_option, json_option
from traghetto.cli.output import print_json
from traghetto.ledger.verify import verify as verify_books
from traghetto.storage.connector import StoreUnusable
from traghetto.storage.sqlite import open_read_only

EXIT_DIFFERENCES = 1


@click.group()
def ledger() -> None:
    """Verify the books."""


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
