"""`traghetto serve`: run the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from traghetto.app import Gateway, Launch, Started, open_gateway
from traghetto.catalog.config_file import Configuration
from traghetto.cli.output import note
from traghetto.engines.llama.library import LlamaLoadFailure
from traghetto.http.server import ServerOptions, bind
from traghetto.http.server import serve as serve_http
from traghetto.settings import SettingRow, Upstream, setting_rows
from traghetto.storage.connector import StoreUnusable

MODELS_SHOWN = 10
GC_ALLOCATIONS = 20_000
"""New objects between two looks for reference cycles: a request makes hundreds, and no cycles."""

_KINDS: dict[str, Any] = {"integer": int, "number": float, "path": click.Path(path_type=Path)}


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for every setting, from its one declaration."""
    for row in reversed(setting_rows()):
        command = _setting_option(row)(command)
    return command


def _setting_option(row: SettingRow) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    shown = f"{row.description} [default: {row.default}]"
    if row.kind == "boolean":
        flag = f"{row.flag}/--no-{row.flag.removeprefix('--')}"
        return click.option(flag, row.name, default=None, help=shown)
    if row.choices:
        return click.option(row.flag, row.name, type=click.Choice(row.choices), help=shown)
    if row.kind == "list":
        return click.option(row.flag, row.name, multiple=True, help=shown)
    return click.option(row.flag, row.name, type=_KINDS.get(row.kind, str), help=shown)


@click.command(short_help="Run the gateway.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="TRAGHETTO_CONFIG",
    help="Configuration file (TOML): settings, upstreams, models, prices.",
)
@click.option(
    "--upstream",
    "upstream_urls",
    multiple=True,
    metavar="URL",
    help="Serve every model of an OpenAI-compatible server. Repeatable.",
)
@click.option(
    "--upstream-key-env",
    metavar="NAME",
    help="Environment variable with the API key of the --upstream servers.",
)
@click.option(
    "--gguf",
    "gguf_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Serve a local GGUF file in this process (needs the `llama` extra). Repeatable.",
)
@_setting_options
def serve(
    config_path: Path | None,
    upstream_urls: tuple[str, ...],
    upstream_key_env: str | None,
    gguf_files: tuple[Path, ...],
    **flags: Any,
) -> None:
    """Run the gateway.

    Without options it answers at once from a built-in simulator, and says which model servers it
    found on this machine. SIGTERM drains, SIGHUP reads the configuration again.
    """
    launch = Launch(
        config_path=config_path,
        flags={name: value for name, value in flags.items() if value not in (None, ())},
        upstreams=_upstreams(upstream_urls, upstream_key_env),
        gguf_files=gguf_files,
    )
    configuration = launch.configuration()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(launch, configuration))
    except (StoreUnusable, LlamaLoadFailure) as refusal:
        raise click.ClickException(str(refusal)) from refusal


def _upstreams(urls: tuple[str, ...], key_env: str | None) -> tuple[Upstream, ...]:
    try:
        return tuple(
            Upstream(name=f"upstream-{number}", url=url, key_env=key_env)
            for number, url in enumerate(urls, 1)
        )
    except ValueError as refusal:
        raise click.BadParameter(str(refusal), param_hint="--upstream") from refusal


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - absent on platforms it does not support
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _run(launch: Launch, configuration: Configuration) -> None:
    settings = configuration.settings
    async with contextlib.AsyncExitStack() as opened:
        # First, because a port in use must not cost the operator the key that is shown once.
        listener = opened.enter_context(contextlib.closing(bind(settings.host, settings.port)))
        gateway, started = await opened.enter_async_context(open_gateway(launch, configuration))
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)
        shown = False

        def say_started(url: str) -> None:
            nonlocal shown
            shown = True
            _say_started(url, started)

        watch = asyncio.get_running_loop().create_task(_stop_when_broken(gateway))
        try:
            await serve_http(
                gateway.dispatch,
                ServerOptions.of(settings),
                listener=listener,
                on_started=say_started,
                on_reload=gateway.request_reload,
            )
        finally:
            watch.cancel()
            if not shown and started.admin_key is not None:
                # The address could not be had, but the key exists and is never shown again.
                _say_admin_key(started.admin_key)
        broken = gateway.stopped.is_set()
    if broken:
        raise click.ClickException(
            "the books could not be written, so the gateway stopped; make room or repair the disk, "
            "then start it again: open holds are recovered at the start"
        )


async def _stop_when_broken(gateway: Gateway) -> None:
    await gateway.stopped.wait()
    signal.raise_signal(signal.SIGTERM)


def _say_admin_key(secret: str) -> None:
    click.echo(f"Admin key (shown once): {secret}")


def _say_started(url: str, started: Started) -> None:
    """The lines an operator sees. They go to standard error, but for the address and the key."""
    click.echo(f"Traghetto answers at {url}/api/v1")
    if started.admin_key is not None:
        _say_admin_key(started.admin_key)
    note(f"Process: {os.getpid()}")
    ids = [model.id for model in started.models]
    shown = ", ".join(ids[:MODELS_SHOWN])
    more = f" and {len(ids) - MODELS_SHOWN} more" if len(ids) > MODELS_SHOWN else ""
    note(f"Models: {shown or 'none yet'}{more}")
    if started.free_line is not None:
        note(started.free_line)
    for suggestion in started.suggestions:
        note(suggestion.line())
    for warning in started.warnings:
        note(f"Warning: {warning}")
