"""Writes docs/reference from the code: errors, settings and the command line.

Run it as `scripts/docs`; with `--check` it changes nothing and fails if a page is out of date.
Each page is derived from one table of the package, so that a fact is written in one place.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click

from traghetto.catalog.model_table import ModelTable
from traghetto.cli import root
from traghetto.errors import PUBLISHED_STYLE, Adjunct, Code, ErrorCode, Shape, row_of
from traghetto.guide.facts import facts_of, published_facts
from traghetto.guide.words import WORDS
from traghetto.limits.rates import TIERS
from traghetto.settings import (
    Moderation,
    RateNumbers,
    SettingRow,
    Upstream,
    setting_rows,
    table_rows,
)
from traghetto.settings.sources import MODERATION_NAMES

REFERENCE = Path(__file__).parent / "reference"
COLUMNS = 100

_HEADER = "<!-- Written by scripts/docs; edit the code that it describes instead. -->\n"
_SHAPE_NAMES = {Shape.PLAIN: "plain", Shape.CODED: "coded", Shape.OPENAI: "OpenAI"}


def errors_page() -> str:
    """docs/reference/errors.md: both tables of the catalogue, and a section on each code."""
    examples = "\n".join(
        f"- **{name}**: `{facts_of(code, PUBLISHED_STYLE).body_example}`"
        for name, code in (
            ("plain", ErrorCode.MODEL_NOT_FOUND),
            ("plain, with the violations of a refused body", ErrorCode.INVALID_REQUEST),
            ("coded", ErrorCode.PAYLOAD_TOO_LARGE),
            ("OpenAI", ErrorCode.TOO_MANY_TOKENS),
        )
    )
    sections = "\n\n".join(_error_section(code) for code in ErrorCode)
    return f"""{_HEADER}# Errors

`traghetto errors list` prints this table, and `traghetto errors show CODE` all that is known of
one code, with `--lang it` in Italian. A running gateway has the same at `/errors` and
`/errors/CODE`, without a key: pages for browsers, in English or Italian, and JSON for programs.

Every error answer carries its name in `x-error-code` and tells in `x-should-retry` whether the
same request can succeed later; every 429 and 503 says when, in `Retry-After`.

- *Shape* is the form of the body, see below.
- *Log* is the level of the one record that is written; `-` writes none.
- *Retry* is what `x-should-retry` says.
- *Counted* errors count against the budget of failed requests of a key.

## The 40 codes
{_error_table(ErrorCode)}
## Errors outside the 40, and further wordings of them
A row that *stands for* a code is a wording of that code: `x-error-code` carries the code.
{_error_table(Adjunct, with_parent=True)}
## Shapes of the body
{examples}

## The codes, one by one
{sections}
"""


def _error_table(codes: Iterable[Code], *, with_parent: bool = False) -> str:
    headers = ["Code", "Status", "Message", "Shape", "Log", "Retry", "Counted"]
    rows = []
    for code in codes:
        row = row_of(code)
        counted = facts_of(code, PUBLISHED_STYLE).counted_as_failed
        name = f"`{code.name}`" if isinstance(code, Adjunct) else _linked(code)
        cells = [name, str(row.status), row.message, _SHAPE_NAMES[row.shape]]
        cells += [row.log_level or "-", _yes(row.should_retry), _yes(counted)]
        if with_parent:
            cells.append(f"`{row.of}`" if row.of else "itself")
        rows.append(cells)
    return _table([*headers, "Stands for"] if with_parent else headers, rows)


def _linked(code: ErrorCode) -> str:
    """The name of a code, leading to its section."""
    return f"[`{code.name}`](#{code.name.lower()})"


def _error_section(code: ErrorCode) -> str:
    """What is to be said about a code, in English."""
    words, facts = WORDS["en"], published_facts(code, PUBLISHED_STYLE)
    explanation = facts.explanation["en"]
    paragraphs = [
        f"### {code.name}",
        f'{facts.status} "{facts.message}". {explanation.meaning}',
        "\n".join(f"- {cause}" for cause in explanation.causes),
        f"**{words.remedy}.** {explanation.remedy}",
        f"**{words.charge}.** {explanation.charge}",
    ]
    if facts.other_messages:
        paragraphs.append(f"**{words.other_messages}:**")
        paragraphs.append("\n".join(f"- {message}" for message in facts.other_messages))
    if not facts.served:
        paragraphs.append(words.not_served)
    return "\n\n".join(paragraphs)


def settings_page() -> str:
    """docs/reference/settings.md: settings, and the tables of the configuration file."""
    settings = _table(
        ("Setting", "Default", "Kind", "Meaning", "Environment"),
        (
            (f"`{row.name}`", row.default, row.kind, row.description, f"`{row.environment}`")
            for row in setting_rows()
        ),
    )
    return f"""{_HEADER}# Settings

A value comes from the command line, else the environment, else the configuration file, else the
default. The flag of a setting is its name with dashes: `body_bytes_max` is `--body-bytes-max`.
Names end in their unit. `traghetto serve --config FILE` reads TOML; an unknown key is refused with
its line and the nearest known one.

## Settings
{settings}
## `[[upstreams]]`: servers behind the gateway
{_member_table(table_rows(Upstream))}
## `[[models]]`: what is served, and for how much
Every model that is written down has a price; `0` is a price. An amount is a decimal number of USD,
best written as a string.
{_member_table(table_rows(ModelTable))}
## `[moderation]`: what images and their prompts may show
[Moderation](../how-to/moderation.md) has examples. A variable replaces the value of the file; there
are no flags.
{_moderation_table()}
## `[rate_limits.CLASS]`: own limits of a size class
{_member_table(table_rows(RateNumbers))}
Own numbers replace these, which hold for an account and a model in 60 seconds:

{_rate_table()}"""


def _rate_table() -> str:
    """The built-in limits, by size class and tier."""
    columns = [(tier, member) for tier in TIERS for member in ("requests", "tokens")]
    headers = ["Class", *(f"{member.capitalize()}, {tier}" for tier, member in columns)]
    rows = [
        [f"`{size}`"]
        + [_limit(getattr(TIERS[tier][size], f"{member}_per_minute")) for tier, member in columns]
        for size in TIERS["standard"]
    ]
    return _table(headers, rows)


def _limit(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _moderation_table() -> str:
    """The members of `[moderation]`, with the variables of those that have one."""
    return _table(
        ("Member", "Default", "Kind", "Meaning", "Environment"),
        (
            (
                f"`{row.name}`",
                row.default,
                row.kind,
                row.description,
                f"`{row.environment}`" if row.name in MODERATION_NAMES else "",
            )
            for row in table_rows(Moderation, "moderation_")
        ),
    )


def _member_table(rows: Iterable[SettingRow]) -> str:
    return _table(
        ("Member", "Default", "Kind", "Meaning"),
        ((f"`{row.name}`", row.default, row.kind, row.description) for row in rows),
    )


def command_line_page() -> str:
    """docs/reference/cli.md: the help of every command."""
    sections = "\n".join(
        f"## `{path}`\n```text\n{text}\n```" for path, text in _help_texts(root, "traghetto", None)
    )
    return f"{_HEADER}# Command line\n\n{sections}\n"


def _help_texts(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    name = path.rpartition(" ")[2]
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=COLUMNS,
        max_content_width=COLUMNS,
        **({} if parent is not None else command.context_settings),
    )
    yield path, command.get_help(context).rstrip()
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None, f"{path} lists {child} but does not have it"
            yield from _help_texts(found, f"{path} {child}", context)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


PAGES: dict[str, Callable[[], str]] = {
    "errors.md": errors_page,
    "settings.md": settings_page,
    "cli.md": command_line_page,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if outdated")
    check = parser.parse_args().check
    # Help texts must not depend on whose machine or terminal writes them.
    os.environ |= {"HOME": "/nowhere", "COLUMNS": str(COLUMNS)}
    os.environ.pop("XDG_DATA_HOME", None)
    outdated = []
    for name, page in PAGES.items():
        path = REFERENCE / name
        text = page()
        if path.exists() and path.read_text() == text:
            continue
        outdated.append(name)
        if not check:
            path.write_text(text)
    if outdated and check:
        sys.exit(f"docs/reference is out of date ({', '.join(outdated)}); run scripts/docs")
    print(f"docs/reference: {'wrote ' + ', '.join(outdated) if outdated else 'up to date'}")


if __name__ == "__main__":
    main()
