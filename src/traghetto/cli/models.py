"""`traghetto models`: what a configuration file serves, without starting anything."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from traghetto.catalog import (
    BackendSource,
    Catalog,
    GgufSource,
    Model,
    OnnxSource,
    PixelSource,
    SimulatorSource,
    UpstreamSource,
    read_configuration,
)
from traghetto.catalog.catalog import LISTING_TYPES
from traghetto.cli.output import note, print_json, print_table
from traghetto.engines.comfyui.workflow import read_workflow
from traghetto.engines.llama.library import require_library
from traghetto.money import format_usd

_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The configuration file (TOML).",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def models() -> None:
    """Show the models a configuration serves."""


@models.command("list")
@_CONFIG
@click.option("--type", "kind", type=click.Choice(LISTING_TYPES), default="all", show_default=True)
@_JSON
def list_models(config: Path, kind: str, as_json: bool) -> None:
    """List models with their prices in USD per million tokens."""
    catalog = _catalog(config)
    if as_json:
        # Raw keeps prices as they were encoded: decoding would make floats of them.
        click.echo(msgspec.json.format(catalog.listing(kind), indent=2))
        return
    print_table(
        ("ID", "TYPE", "INPUT", "OUTPUT", "CONTEXT", "SERVED BY"),
        [_row(model) for model in catalog.listed(kind)],
    )


@models.command("show")
@click.argument("name")
@_CONFIG
def show_model(name: str, config: Path) -> None:
    """Show the model that NAME means to a client, as the listing has it."""
    catalog = _catalog(config)
    model = catalog.by_id(name) or catalog.resolve(name)
    if model is None:
        raise click.ClickException(f"no model is called {name!r}; see `traghetto models list`")
    if model.id != name:
        note(f"{name} means {model.id}")
    click.echo(msgspec.json.format(catalog.encoded_object(model), indent=2))


@models.command("check")
@_CONFIG
@click.option(
    "--found-later",
    is_flag=True,
    help="For use with `serve --upstream` or `--gguf`, which may serve models of the file.",
)
@_JSON
def check_configuration(config: Path, found_later: bool, as_json: bool) -> None:
    """Check a configuration file for a server on this machine; upstreams are not contacted.

    The files and the variables of keys that it names have to be there.
    """
    # These bring what serves, and no other command here needs it.
    from traghetto.app.extras import require_extras  # noqa: PLC0415
    from traghetto.moderation import policy_of  # noqa: PLC0415

    configuration = read_configuration(
        config, os.environ, backends_required=not found_later, must_run_here=True
    )
    catalog = Catalog(configuration.models)
    sources = [source for model in catalog.models for source in model.backends]
    if any(isinstance(source, GgufSource) for source in sources):
        require_library()
    require_extras(catalog.models)
    policy_of(configuration.settings.moderation)
    for workflow in (file for model in catalog.models for file in model.workflows()):
        read_workflow(workflow.path, workflow.purpose)
    if as_json:
        print_json({"valid": True, "models": [model.id for model in catalog.models]})
    else:
        click.echo(f"{config}: valid, {len(catalog.models)} models")


def _catalog(config: Path) -> Catalog:
    configuration = read_configuration(config, os.environ, backends_required=False)
    return Catalog(configuration.models)


def _row(model: Model) -> tuple[object, ...]:
    by_tokens = model.media_pricing is None
    return (
        model.id,
        model.type,
        format_usd(model.pricing.input.nano_usd) if by_tokens else None,
        format_usd(model.pricing.output.nano_usd) if by_tokens else None,
        model.context_tokens,
        ", ".join(map(_backend_name, model.backends)) or None,
    )


def _backend_name(backend: BackendSource) -> str:
    match backend:
        case GgufSource() | OnnxSource():
            return backend.path.name
        case SimulatorSource():
            return "simulator"
        case PixelSource():
            return backend.engine
        case UpstreamSource():
            return backend.upstream.name
