"""`traghetto lab`: a gateway for tests, in which every failure can be provoked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import Any, Final

import click
import msgspec

from traghetto.cli.output import note
from traghetto.http.server import ServerOptions
from traghetto.http.server import serve as serve_http
from traghetto.lab import open_lab
from traghetto.lab.lab import Lab

DRAIN_SECONDS_MAX: Final = 1.0
"""Nobody's work is lost when a lab ends."""


@click.command(short_help="Run a gateway for tests, with every failure on command.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8421,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 chooses a free one.",
)
@click.option("--until-eof", is_flag=True, help="End when standard input does, as a child should.")
@click.option(
    "--log-level",
    default="error",
    show_default=True,
    type=click.Choice(["debug", "info", "warn", "error"]),
    help="What standard error gets.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when it answers.")
def lab(host: str, port: int, until_eof: bool, log_level: str, as_json: bool) -> None:
    """Run a gateway for tests: simulated models, accounts in every state, a clock that can be set,
    and failures on command.

    It needs no account and no network, keeps its books in a temporary folder that goes with it,
    and answers in about a second. `GET /lab` says what can be asked of it.
    """
    asyncio.run(_run(host, port, until_eof=until_eof, log_level=log_level, as_json=as_json))


async def _run(host: str, port: int, *, until_eof: bool, log_level: str, as_json: bool) -> None:
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "log_level": log_level,
        "drain_seconds_max": DRAIN_SECONDS_MAX,
        "durability": "normal",
    }
    async with open_lab(flags) as running:

        def say_started(url: str) -> None:
            if until_eof:
                _stop_at_eof()
            if as_json:
                facts = {
                    "url": f"{url}/api/v1",
                    "control_url": f"{url}/lab",
                    "admin_key": running.admin_key,
                    "pid": os.getpid(),
                }
                click.echo(msgspec.json.encode(facts).decode())
                return
            _say_started(running, url)

        options = ServerOptions.of(running.gateway.services.settings)
        await serve_http(running, options, on_started=say_started)


def _stop_at_eof() -> None:
    """Stop as SIGTERM does when whoever holds the other end of standard input is gone."""

    def read_on() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    # In a thread, because an event loop cannot wait for every kind of file.
    threading.Thread(target=read_on, name="stdin", daemon=True).start()


def _say_started(running: Lab, url: str) -> None:
    """The lines a person sees; those that are no address or key go to standard error."""
    click.echo(f"Traghetto's lab answers at {url}/api/v1")
    click.echo(f"Admin key: {running.admin_key}")
    if not url.startswith(("http://127.", "http://[::1]", "http://localhost")):
        note("Warning: whoever can reach this address can control the lab and read its admin key")
    note(f"Models: {', '.join(model.id for model in running.models())}")
    note(f"A key:  curl -s -X POST -H 'accept: text/plain' {url}/lab/accounts")
    note(f'A fault: curl -s {url}/lab/faults -d \'{{"fault": "overloaded", "calls": 1}}\'')
    note(f"All that can be asked of it: curl -s {url}/lab")
