"""How commands print: aligned tables for people, one JSON document for programs.

Standard output carries results only; explanations and progress go to standard error, so that
`--json` can always be piped.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import msgspec

from traghetto.wire.csv_cells import csv_text


def print_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `rows` under `headers` in columns as wide as their longest cell.

    None prints as `-`; columns whose every value is an int are aligned to the right. An empty
    table prints its headers alone, so that "nothing" differs from "not asked".
    """
    values = [list(row) for row in rows]
    cells = [["-" if value is None else str(value) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    numeric = [
        bool(values) and all(type(row[index]) is int for row in values)
        for index in range(len(headers))
    ]
    for line in (headers, *cells):
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def print_csv(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `rows` as CSV under `headers` in lower case; None is an empty cell.

    Text that a spreadsheet would take for a formula is marked as text.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header.lower().replace(" ", "_") for header in headers)
    for row in rows:
        writer.writerow(csv_text(cell) if isinstance(cell, str) else cell for cell in row)
    click.echo(text.getvalue(), nl=False)


def print_json(value: Any) -> None:
    """Print `value` (anything msgspec encodes) as one indented JSON document."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def note(text: str) -> None:
    """Tell a person something that is not a result: one line on standard error."""
    click.echo(text, err=True)


def progress_line(what: str) -> Callable[[int, int], None]:
    """What shows how far long work is, on one line of standard error, if that is a terminal."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            share = 100 * done // max(1, total)
            click.echo(f"\r{what}: {share} %", err=True, nl=done >= total)

    return show
