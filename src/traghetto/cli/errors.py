"""`traghetto errors`: the error contract, read from the catalogue that the server answers from."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import click

from traghetto.cli.output import note, print_json, print_table
from traghetto.errors import (
    Adjunct,
    Code,
    ErrorCode,
    ErrorStyle,
    Shape,
    invalid_request,
    public_name,
    render_error,
    row_of,
)
from traghetto.errors.exception import ApiError
from traghetto.testing import Lab, LabRefused, start_lab
from traghetto.testing.verification import Server, verify

SHAPES: Final = {
    Shape.PLAIN: '{"error"}',
    Shape.CODED: '{"code", "error"}',
    Shape.OPENAI: 'OpenAI object {"error": {"message", "type", "param", "code"}}',
}
"""How a person is told about a body shape."""

_WORDS: Final[dict[bool | None, str]] = {None: "none", True: "yes", False: "no"}
_EXAMPLE_REQUEST_ID: Final = "5f2c9d0e8b7a46138e21c4d7f0a9b365"
_EXAMPLE_DETAILS: Final[dict[Any, dict[str, Any]]] = {
    Adjunct.FAILED_REQUEST_BUDGET: {"failed_requests_max": 20, "block_seconds": 30},
}


@click.group()
def errors() -> None:
    """Show the error contract, code by code."""


@errors.command("list")
@click.option("--all", "everything", is_flag=True, help="Add the errors outside the 40 codes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_errors(everything: bool, as_json: bool) -> None:
    """List every error code with its status, text and log level."""
    codes: list[Code] = [*ErrorCode, *Adjunct] if everything else list(ErrorCode)
    rows = [error_row(code) for code in codes]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("CODE", "STATUS", "LOG", "MESSAGE"),
            [(row["code"], row["status"], row["log_level"], row["message"]) for row in rows],
        )


@errors.command("show")
@click.argument("name", metavar="CODE")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def show_error(name: str, as_json: bool) -> None:
    """Show what a client sees for CODE, what is logged, and whether a retry can help."""
    code = find_code(name)
    facts = error_facts(code)
    if as_json:
        print_json(facts)
        return
    for label, value in facts.items():
        shown = _WORDS[value] if value is None or isinstance(value, bool) else value
        click.echo(f"{label.replace('_', ' ') + ':':<20}{shown}")


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
    "--model", default="chat", show_default=True, help="A model for chats, where it is no lab."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def verify_errors(base_url: str | None, api_key: str | None, model: str, as_json: bool) -> None:
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
def _server(base_url: str | None, api_key: str | None, model: str) -> Iterator[Server]:
    """What is to be verified; raises ClickException where nobody answers."""
    if base_url is None:
        with start_lab() as lab:
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


def error_row(code: Code) -> dict[str, Any]:
    """A row as the contract publishes it: code, status, message and log level."""
    row = row_of(code)
    return {
        "code": code.name,
        "status": row.status,
        "message": row.message,
        "log_level": row.log_level,
    }


def error_facts(code: Code) -> dict[str, Any]:
    """Everything an operator or client author may ask about one code, in reading order."""
    row = row_of(code)
    rendered = render_error(example_of(code), _EXAMPLE_REQUEST_ID, ErrorStyle())
    return {
        **error_row(code),
        "header": f"x-error-code: {public_name(code)}",
        "body_shape": SHAPES[row.shape],
        "example_body": rendered.body.decode(),
        "retry": retry_advice(code),
        "counted_as_failed": counts_as_failed(code),
    }


def example_of(code: Code) -> ApiError:
    """An instance of `code` with whatever its text needs."""
    if code is ErrorCode.INVALID_REQUEST:
        issue = {"code": "custom", "message": "Invalid input", "path": ["field"]}
        return invalid_request({"_errors": [], "field": {"_errors": ["Invalid input"]}}, [issue])
    return ApiError(code, details=_EXAMPLE_DETAILS.get(code))


def retry_advice(code: Code) -> str:
    """What `x-should-retry` and `Retry-After` tell a client."""
    row = row_of(code)
    if not row.should_retry:
        return "no: the same request fails again until something is changed"
    rendered = render_error(example_of(code), _EXAMPLE_REQUEST_ID, ErrorStyle())
    waits = any(name == b"retry-after" for name, _ in rendered.headers)
    return "yes, after the seconds in Retry-After" if waits else "yes"


def counts_as_failed(code: Code) -> bool:
    """Whether the failed-request budget counts `code`."""
    return ApiError(code).counts_as_failed


def find_code(name: str) -> Code:
    """The row called `name`, in any case, with `-` for `_`; raises BadParameter otherwise."""
    wanted = name.strip().upper().replace("-", "_")
    for table in (ErrorCode, Adjunct):
        if wanted in table.__members__:
            return table[wanted]
    near = [code.name for code in (*ErrorCode, *Adjunct) if wanted and wanted in code.name]
    hint = f"did you mean {', '.join(near)}?" if near else "see `traghetto errors list --all`."
    raise click.BadParameter(f"no error is called {name!r}; {hint}", param_hint="CODE")
