"""Configuration for tests: tables of TOML, with nothing in them that a test does not name."""

from __future__ import annotations

from support.upstream import FaultUpstream

CAPABILITIES = (
    "{ supportsFunctionCalling = true, supportsResponseSchema = true, supportsLogProbs = true }"
)


def model_toml(model_id: str, **members: str) -> str:
    """A `[[models]]` table: a priced simulator, unless `members` (TOML values) say otherwise.

    An empty value leaves the member out. A model with `upstreams` has no simulator.
    """
    table = {
        "engine": "" if "upstreams" in members else '"simulator"',
        "context_tokens": "4096",
        "pricing": '{ input = "1", output = "2" }',
        **members,
    }
    return f'\n[[models]]\nid = "{model_id}"\n{_lines(table)}'


def upstream_toml(upstream: FaultUpstream, *, name: str = "behind", **members: str) -> str:
    """The `[[upstreams]]` table for `upstream`; `members` (TOML values) are further lines."""
    return f'\n[[upstreams]]\nname = "{name}"\nurl = "{upstream.url}"\n{_lines(members)}'


def relayed_toml(upstream: FaultUpstream, **members: str) -> str:
    """The model `relayed`, which has `upstream` behind it; `members` are those of the model."""
    return upstream_toml(upstream) + model_toml("relayed", upstreams='["behind"]', **members)


def _lines(members: dict[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in members.items() if value)


PRICED_MODEL = model_toml("priced", capabilities=CAPABILITIES)
