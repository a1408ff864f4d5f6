"""`traghetto keys`: create, list and revoke API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from traghetto.accounts.operations import KeyCreated, KeyRevoked, KeyShown, KeysShown
from traghetto.accounts.values import ModelPrivacy
from traghetto.cli.connection import data_dir_option, json_option, perform
from traghetto.cli.output import note, print_json, print_table
from traghetto.money import LimitPeriod

_HEADERS = ("ID", "ACCOUNT", "KIND", "ENDS IN", "PERIOD", "USD", "DIEM", "EXPIRES", "FOR")
EXPIRY_YEAR_MAX = 2261
"""The last whole year that a 64-bit number of nanoseconds reaches."""


@click.group()
def keys() -> None:
    """Create, list, limit and revoke API keys."""


@keys.command()
@click.option("--account", default="default", show_default=True, help="Name or id of its account.")
@click.option("--admin", is_flag=True, help="May also manage keys and read billing.")
@click.option("--description", default="", help="What the key is for.")
@click.option("--limit-usd", metavar="USD", help="Most USD per period; 0 blocks USD.")
@click.option("--limit-diem", metavar="DIEM", help="Most DIEM per period; 0 blocks DIEM.")
@click.option(
    "--period",
    type=click.Choice([period.value for period in LimitPeriod], case_sensitive=False),
    default=LimitPeriod.EPOCH.value,
    show_default=True,
    help="Window of the limits: a UTC day, a calendar month (UTC), or for ever.",
)
@click.option(
    "--privacy",
    type=click.Choice([privacy.value for privacy in ModelPrivacy], case_sensitive=False),
    default=ModelPrivacy.ALL.value,
    show_default=True,
    help="Which models the key may use.",
)
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]),
    help="When the key stops working (UTC).",
)
@click.option("--openai-errors", is_flag=True, help="Answer its errors as OpenAI objects.")
@data_dir_option()
@json_option()
def create(
    period: str,
    privacy: str,
    expires: datetime | None,
    data_dir: Path,
    as_json: bool,
    **members: Any,
) -> None:
    """Create a key and print it. It is shown this once and stored as a digest only."""
    if expires is not None:
        if expires.year > EXPIRY_YEAR_MAX:
            raise click.BadParameter(f"a key expires in {EXPIRY_YEAR_MAX} at the latest")
        members["expires_at_ns"] = int(expires.replace(tzinfo=UTC).timestamp()) * 1_000_000_000
    arguments = {"period": period.upper(), "privacy": privacy.upper(), **members}
    created: KeyCreated = perform(data_dir, "keys.create", arguments, KeyCreated)
    if as_json:
        print_json(created)
    else:
        note(f"Key {created.key.id} of account {created.key.account}. Keep it: it is shown once.")
        click.echo(created.secret)


@keys.command("list")
@click.option("--account", help="Name or id of an account; all without it.")
@data_dir_option()
@json_option()
def list_keys(account: str | None, data_dir: Path, as_json: bool) -> None:
    """List keys with their limits and what they spent in the current period."""
    shown: KeysShown = perform(data_dir, "keys.list", {"account": account}, KeysShown)
    if as_json:
        print_json(shown.keys)
        return
    print_table(_HEADERS, map(_row, shown.keys))


@keys.command("limit")
@click.argument("key_id")
@click.option("--limit-usd", metavar="USD", help="Most USD per period; 0 blocks, `none` lifts.")
@click.option("--limit-diem", metavar="DIEM", help="Most DIEM per period; 0 blocks, `none` lifts.")
@click.option(
    "--period",
    type=click.Choice([period.value for period in LimitPeriod], case_sensitive=False),
    help="Window of the limits: a UTC day, a calendar month (UTC), or for ever.",
)
@data_dir_option()
@json_option()
def limit_key(
    key_id: str, period: str | None, data_dir: Path, as_json: bool, **limits: str | None
) -> None:
    """Change the limits of a key, from its next request on; what is not given stays."""
    arguments = {"key": key_id, "period": period and period.upper(), **limits}
    if all(value is None for name, value in arguments.items() if name != "key"):
        raise click.UsageError("nothing to change: give at least one option, see --help")
    shown: KeyShown = perform(data_dir, "keys.limit", arguments, KeyShown)
    if as_json:
        print_json(shown)
    else:
        print_table(_HEADERS, [_row(shown)])


@keys.command()
@click.argument("key_id")
@data_dir_option()
@json_option()
def revoke(key_id: str, data_dir: Path, as_json: bool) -> None:
    """End a key at once and for good."""
    revoked: KeyRevoked = perform(data_dir, "keys.revoke", {"key": key_id}, KeyRevoked)
    if as_json:
        print_json(revoked)
    else:
        click.echo(f"revoked {revoked.id}")


def _row(key: KeyShown) -> tuple[object, ...]:
    expires = f"{key.expires_at} (expired)" if key.expired else key.expires_at
    return (
        key.id,
        key.account,
        key.kind.value,
        key.last_six,
        key.period.value,
        f"{key.spent_usd} of {key.limit_usd or 'any'}",
        f"{key.spent_diem} of {key.limit_diem or 'any'}",
        expires,
        key.description or None,
    )
