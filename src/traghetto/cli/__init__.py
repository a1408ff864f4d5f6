"""The command line: one module per command, loaded only when that command runs.

Invariant: importing this module imports neither the server nor a database driver, so that
`traghetto --help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from traghetto import __version__

COMMANDS: Final = {
    "serve": ("traghetto.cli.serve:serve", "Run the gateway."),
    "lab": ("traghetto.cli.lab:lab", "Run a gateway for tests, with every failure on command."),
    "keys": ("traghetto.cli.keys:keys", "Create, list and revoke API keys."),
    "accounts": ("traghetto.cli.accounts:accounts", "Create, credit and list accounts."),
    "usage": ("traghetto.cli.usage:usage", "Show what was used and charged."),
    "ledger": ("traghetto.cli.ledger:ledger", "Show, verify and correct the books."),
    "backup": ("traghetto.cli.backup:backup", "Copy the books to a file."),
    "restore": ("traghetto.cli.backup:restore", "Put a backup of the books in place."),
    "models": ("traghetto.cli.models:models", "Show the models a configuration serves."),
    "errors": ("traghetto.cli.errors:errors", "Show the error contract, code by code."),
}
"""Every sub-command: where it lives, and its line in `--help` (which loads none of them)."""

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
"""What a shell reports for a program that SIGINT ended."""


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is run or asked for its own help."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`traghetto serve` without options answers at once, from a built-in simulator.",
)
@click.version_option(__version__, prog_name="traghetto")
def root() -> None:
    """Traghetto: a self-hosted AI gateway that speaks the Venice API and keeps exact books."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; failures that an operator can mend are one line each.

    Commands raise `click.ClickException` for their own refusals, ValueError for a value or file
    that makes no sense, and OSError for what the machine refuses (a port in use, a missing file).
    Anything else is a defect and keeps its traceback.
    """
    try:
        outcome = root.main(
            args=None if arguments is None else list(arguments),
            prog_name="traghetto",
            standalone_mode=False,
        )
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as refusal:
        refusal.show()
        sys.exit(refusal.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has left, such as `head`; there is nobody to tell.
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except (OSError, ValueError) as failure:
        click.echo(f"traghetto: {failure}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(outcome if isinstance(outcome, int) else 0)
