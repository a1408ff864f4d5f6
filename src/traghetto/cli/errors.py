"""`traghetto errors`: the error contract, read from the catalogue that the server answers from."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import click

from traghetto.cli.output import note, print_json, print_table
from traghetto.errors import PUBLISHED_STYLE, Adjunct, Code, ErrorCode, row_of
from traghetto.guide.explanations import LANGUAGES, Language, retry_advice
from traghetto.guide.facts import Facts, PublishedFacts, facts_of, published_facts
from traghetto.guide.words import WORDS, Words
from traghetto.testing import Lab, LabRefused, start_lab
from traghetto.testing.verification import Server, verify

_LABEL_COLUMNS: Final = 20
_COLUMNS_MAX: Final = 100


@click.group()
def errors() -> None:
    """Show the error contract, code by code."""


@errors.command("list")
@click.option("--all", "everything", is_flag=True, help="Add the errors outside the 40 codes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_errors(everything: bool, as_json: bool) -> None:
    """List every error code with its status, text and log level."""
    codes: list[Code] = [*ErrorCode, *Adjunct] if everything else list(ErrorCode)
    rows = [_contract_row(code) for code in codes]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("CODE", "STATUS", "LOG", "MESSAGE"),
            [(row["code"], row["status"], row["log_level"], row["message"]) for row in rows],
        )


@errors.command("show")
@click.argument("name", metavar="CODE")
@click.option("--lang", type=click.Choice(LANGUAGES), default="en", help="Language of the words.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, all languages.")
def show_error(name: str, lang: Language, as_json: bool) -> None:
    """Show what a client sees for CODE, what it means, what to do, and what it costs."""
    code = find_code(name)
    facts = _everything_about(code)
    if as_json:
        print_json(facts)
        return
    words = WORDS[lang]
    for label, value in _fact_lines(facts, retry_advice(code, lang), words):
        click.echo(f"{label + ':':<{_LABEL_COLUMNS}}{value}")
    if isinstance(facts, PublishedFacts):
        for heading, text in _sections(facts, lang, words):
            click.echo(f"\n{heading}\n{text}")


@errors.command("verify")
@click.option(
    "--base-url",
    metavar="URL",
    help="The API to verify, such as http://127.0.0.1:8421/api/v1; a lab of its own if not given.",
)
@click.option(
    "--api-key",
    envvar="TRAGHETTO_API_KEY",
    help="A key for a server that is no lab. Nothing is charged to it.",
)
@click.option(
    "--model",
    help="A model for chats of a server that is no lab; the first that it lists if not given.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def verify_errors(
    base_url: str | None, api_key: str | None, model: str | None, as_json: bool
) -> None:
    """Provoke every error, and compare what comes back with the contract.

    Exits with 1 if an error is not as published, or is missing because its endpoint does not
    exist. Of a server that is no lab only the errors are provoked that need no state there.
    """
    with _server(base_url, api_key, model) as server:
        outcomes = []
        for outcome in verify(server):
            outcomes.append(outcome)
            if not as_json:
                note(f"{outcome.code}: {outcome.status}")
    if as_json:
        print_json(outcomes)
    else:
        rows = [(o.code, o.expected.status, o.status, o.reason) for o in outcomes]
        print_table(("CODE", "STATUS", "RESULT", "WHY"), rows)
    counts = Counter(outcome.status for outcome in outcomes)
    note(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["failed"] or counts["missing"]:
        raise click.exceptions.Exit(1)


@contextlib.contextmanager
def _server(base_url: str | None, api_key: str | None, model: str | None) -> Iterator[Server]:
    """What is to be verified; raises ClickException where nobody answers."""
    if base_url is None:
        with start_lab(quiet=True) as lab:
            yield Server(lab.url, lab)
        return
    try:
        lab = Lab.at(base_url)
    except LabRefused:
        yield Server(base_url.rstrip("/"), None, api_key, model)
    except OSError as failure:
        raise click.ClickException(f"{base_url} does not answer: {failure}") from failure
    else:
        yield Server(lab.url, lab)


def _everything_about(code: Code) -> Facts:
    """The facts of `code`, with its explanations if it is one of the 40."""
    if isinstance(code, ErrorCode):
        return published_facts(code, PUBLISHED_STYLE)
    return facts_of(code, PUBLISHED_STYLE)


def _contract_row(code: Code) -> dict[str, Any]:
    """A row as the contract publishes it: code, status, message and log level."""
    row = row_of(code)
    return {
        "code": code.name,
        "status": row.status,
        "message": row.message,
        "log_level": row.log_level,
    }


def _fact_lines(facts: Facts, advice: str, words: Words) -> Iterator[tuple[str, object]]:
    """A label and a value for everything that fits on a line."""
    yield words.code, facts.code
    yield words.status, facts.status
    yield words.message, facts.message
    yield words.log_level, facts.log_level or words.none
    yield words.header, facts.header
    yield words.body_shape, facts.body_shape
    yield words.body_example, facts.body_example
    yield words.retry, advice
    yield words.counted, words.yes if facts.counted_as_failed else words.no
    if isinstance(facts, PublishedFacts):
        yield words.charged, words.charges[facts.charged]


def _sections(facts: PublishedFacts, language: Language, words: Words) -> Iterator[tuple[str, str]]:
    """A heading and a text for everything that is longer."""
    explanation = facts.explanation[language]
    yield words.meaning, _paragraph(explanation.meaning)
    yield words.causes, _list(explanation.causes)
    yield words.remedy, _paragraph(explanation.remedy)
    yield words.charge, _paragraph(explanation.charge)
    if facts.other_messages:
        yield words.other_messages, _list(facts.other_messages)
    if facts.recipe is not None:
        yield words.recipe, facts.recipe  # to be copied: no line of it may be broken


def _list(items: tuple[str, ...]) -> str:
    return "\n".join(_paragraph(item, bullet="- ") for item in items)


def _paragraph(text: str, *, bullet: str = "") -> str:
    width = min(_COLUMNS_MAX, shutil.get_terminal_size().columns)
    indent = "  " + " " * len(bullet)
    return click.wrap_text(text, width, f"  {bullet}", indent)


def find_code(name: str) -> Code:
    """The row called `name`, in any case, with `-` for `_`; raises BadParameter otherwise."""
    wanted = name.strip().upper().replace("-", "_")
    for table in (ErrorCode, Adjunct):
        if wanted in table.__members__:
            return table[wanted]
    near = [code.name for code in (*ErrorCode, *Adjunct) if wanted and wanted in code.name]
    hint = f"did you mean {', '.join(near)}?" if near else "see `traghetto errors list --all`."
    raise click.BadParameter(f"no error is called {name!r}; {hint}", param_hint="CODE")
