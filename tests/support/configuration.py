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

IMAGE_PRICING = '{ generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }'
EDIT_PRICING = '{ inpaint = "0.04", inputImages = { included = 1, additional = "0.005" } }'
CUT_PRICING = '{ inpaint = "0.03" }'
UPSCALE_PRICING = '{ upscale = { 2x = "0.02", 4x = "0.08" } }'
EDIT_CONSTRAINTS = (
    '{ aspectRatios = ["1:1", "16:9"], resolutions = ["1K", "2K"], promptCharacterLimit = 32768, '
    'qualities = ["low", "high"] }'
)
IMAGE_CONSTRAINTS = (
    "{ promptCharacterLimit = 7500, steps = { default = 8, max = 50 }, widthHeightDivisor = 8, "
    'aspectRatios = ["1:1", "16:9"], maxStyleReferences = 2, '
    "supportsStyleReferenceStrength = true }"
)


def image_toml(model_id: str, **members: str) -> str:
    """A `[[models]]` table: a priced simulator of images, unless `members` say otherwise."""
    usual = {"constraints": IMAGE_CONSTRAINTS, "pricing": IMAGE_PRICING}
    return model_toml(model_id, type='"image"', context_tokens="", **usual | members)


def edit_toml(model_id: str, **members: str) -> str:
    """A `[[models]]` table: the classical editor, unless `members` say otherwise."""
    usual = {"constraints": EDIT_CONSTRAINTS, "pricing": EDIT_PRICING}
    if "upstreams" not in members:
        usual["engine"] = '"classical"'
    return model_toml(model_id, type='"inpaint"', context_tokens="", **usual | members)


def upscale_toml(model_id: str, **members: str) -> str:
    """A `[[models]]` table: the classical upscaler, unless `members` say otherwise."""
    usual = {"pricing": UPSCALE_PRICING}
    if "upstreams" not in members:
        usual["engine"] = '"classical"'
    return model_toml(model_id, type='"upscale"', context_tokens="", **usual | members)


def cut_toml(model_id: str, **members: str) -> str:
    """A `[[models]]` table: the remover of backgrounds, unless `members` say otherwise."""
    usual = {"engine": '"grabcut"', "pricing": CUT_PRICING}
    return model_toml(model_id, type='"inpaint"', context_tokens="", **usual | members)


IMAGE_MODELS = (
    image_toml("painter") + edit_toml("editor") + upscale_toml("upscaler") + cut_toml("cutter")
)
"""One model for every endpoint for images, each priced."""
