"""`traghetto accounts`: create, credit, change and show accounts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from traghetto.accounts.operations import AccountShown, AccountsShown
from traghetto.cli.connection import data_dir_option, json_option, perform
from traghetto.cli.output import print_json, print_table

_HEADERS = (
    "NAME",
    "USD",
    "BUNDLED",
    "DIEM TODAY",
    "DIEM/DAY",
    "PRO",
    "SUBSCRIPTION",
    "TIER",
    "STATE",
    "ID",
)


@click.group()
def accounts() -> None:
    """Create, credit and list accounts."""


def _entitlements(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `create` and `set` share; absent ones change nothing."""
    options = (
        click.option("--diem", metavar="DIEM", help="DIEM granted per UTC day; 0 ends it."),
        click.option("--pro/--no-pro", default=None, help="May use Pro models."),
        click.option(
            "--subscription",
            type=click.Choice(["none", "inactive", "active"]),
            help="`none` pays per use; `inactive` needs a subscription and has none.",
        ),
        click.option("--disabled/--enabled", default=None, help="Whether it is switched off."),
        click.option(
            "--tier", type=click.Choice(["standard", "partner"]), help="Table of rate limits."
        ),
        click.option(
            "--feature",
            "features",
            multiple=True,
            help="Entitlement that a model asks for; repeat it. Replaces the earlier ones.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@accounts.command()
@click.argument("name")
@click.option("--usd", metavar="USD", help="First credit.")
@click.option("--bundled", metavar="USD", help="First bundled credits: spent before USD.")
@_entitlements
@click.option(
    "--new-books", is_flag=True, help="Begin new books if there are none, before any `serve`."
)
@data_dir_option()
@json_option()
def create(
    name: str,
    features: tuple[str, ...],
    new_books: bool,
    data_dir: Path,
    as_json: bool,
    **members: Any,
) -> None:
    """Create an account."""
    if not name.strip():
        raise click.BadParameter("an account needs a name that can be read", param_hint="NAME")
    arguments = {"name": name, "features": features, **members}
    _print(
        perform(data_dir, "accounts.create", arguments, AccountShown, new_books=new_books), as_json
    )


@accounts.command()
@click.argument("account")
@click.option("--usd", metavar="USD", help="How much to add.")
@click.option("--bundled", metavar="USD", help="The same as bundled credits: spent before USD.")
@click.option("--reason", help="Why; kept in the journal.")
@data_dir_option()
@json_option()
def credit(account: str, data_dir: Path, as_json: bool, **members: str | None) -> None:
    """Add USD or bundled credits to an account."""
    if (members["usd"] is None) == (members["bundled"] is None):
        raise click.UsageError("give either --usd or --bundled: a credit is in one currency")
    arguments = {"account": account, **members}
    _print(perform(data_dir, "accounts.credit", arguments, AccountShown), as_json)


@accounts.command("set")
@click.argument("account")
@_entitlements
@data_dir_option()
@json_option()
def set_account(
    account: str, features: tuple[str, ...], data_dir: Path, as_json: bool, **members: Any
) -> None:
    """Change an account; what is not given stays."""
    if not features and all(value is None for value in members.values()):
        raise click.UsageError("nothing to change: give at least one option, see --help")
    arguments = {"account": account, "features": features or None, **members}
    _print(perform(data_dir, "accounts.set", arguments, AccountShown), as_json)


@accounts.command()
@click.argument("account")
@data_dir_option()
@json_option()
def disable(account: str, data_dir: Path, as_json: bool) -> None:
    """Switch an account off: its keys are refused from the next request on."""
    arguments = {"account": account, "disabled": True}
    _print(perform(data_dir, "accounts.set", arguments, AccountShown), as_json)


@accounts.command()
@click.argument("account")
@data_dir_option()
@json_option()
def enable(account: str, data_dir: Path, as_json: bool) -> None:
    """Switch an account on again."""
    arguments = {"account": account, "disabled": False}
    _print(perform(data_dir, "accounts.set", arguments, AccountShown), as_json)


@accounts.command()
@click.argument("account")
@data_dir_option()
@json_option()
def show(account: str, data_dir: Path, as_json: bool) -> None:
    """Show one account."""
    _print(perform(data_dir, "accounts.show", {"account": account}, AccountShown), as_json)


@accounts.command("list")
@data_dir_option()
@json_option()
def list_accounts(data_dir: Path, as_json: bool) -> None:
    """List every account with its balances."""
    shown: AccountsShown = perform(data_dir, "accounts.list", {}, AccountsShown)
    if as_json:
        print_json(shown.accounts)
    else:
        print_table(_HEADERS, map(_row, shown.accounts))


def _print(account: AccountShown, as_json: bool) -> None:
    if as_json:
        print_json(account)
    else:
        print_table(_HEADERS, [_row(account)])


def _row(account: AccountShown) -> tuple[object, ...]:
    return (
        account.name,
        account.usd,
        account.bundled,
        account.diem,
        account.diem_per_day,
        "yes" if account.pro else "no",
        account.subscription,
        account.tier,
        "disabled" if account.disabled else "enabled",
        account.id,
    )
