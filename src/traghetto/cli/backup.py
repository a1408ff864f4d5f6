"""`traghetto backup` and `traghetto restore`: a copy of the books, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from traghetto.accounts.directory import Directory
from traghetto.accounts.pepper import FILE_NAME as PEPPER_NAME
from traghetto.cli.connection import data_dir_option
from traghetto.cli.output import note, progress_line
from traghetto.clock import SystemClock
from traghetto.ledger.verify import verify
from traghetto.ledger.windows import day_window
from traghetto.storage.backup import back_up
from traghetto.storage.backup import restore as put_back
from traghetto.storage.connector import SnapshotStore, StoreUnusable
from traghetto.storage.sqlite import SqliteSnapshot

DIFFERENCES_SHOWN = 5


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@data_dir_option()
def backup(file: Path, data_dir: Path) -> None:
    """Copy the books to a new FILE, also beside a running gateway, and verify the copy.

    The copy is one moment of the books. The file `pepper`, without which the API keys in it are
    worth nothing, is not in it: keep a copy of that apart.
    """
    _carry_out(lambda: back_up(data_dir, file, check=_check, progress=progress_line("copied")))
    click.echo(f"{file}: {file.stat().st_size} bytes, verified")
    note(f"Keep a copy of {data_dir / PEPPER_NAME} apart: the keys in the books need it.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@data_dir_option()
def restore(file: Path, data_dir: Path) -> None:
    """Put the books of a backup FILE into a data directory that has none, and verify them.

    Holds that were open when the backup was made are released by the next `serve`.
    """
    _carry_out(lambda: put_back(file, data_dir, check=_check, progress=progress_line("restored")))
    click.echo(f"{data_dir}: restored and verified")
    if not (data_dir / PEPPER_NAME).exists():
        note(f"Put the copy of the pepper back as {data_dir / PEPPER_NAME}: `serve` needs it.")


def _carry_out(work: Callable[[], None]) -> None:
    try:
        work()
    except StoreUnusable as refusal:
        raise click.ClickException(str(refusal)) from refusal


def _check(snapshot: SqliteSnapshot) -> None:
    """Raises StoreUnusable, naming the first differences, for books that do not add up.

    Raises ValueError for accounts and keys that no gateway could start with.
    """
    clock = SystemClock()
    Directory(SnapshotStore(snapshot), clock, b"", snapshot.load(day_window(clock.utc_ns())))
    differences = verify(snapshot).differences
    if differences:
        shown = "; ".join(map(str, differences[:DIFFERENCES_SHOWN]))
        raise StoreUnusable(f"the books do not add up ({len(differences)} differences): {shown}")
