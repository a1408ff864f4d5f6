"""A `[[models]]` table of the configuration: its members, and how it becomes a `Model`.

Invariants: a price is a decimal string or TOML number, never a float; a model that an operator
writes down has a price, because a forgotten one would give work away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from traghetto.catalog.constraints import check_constraints, check_prices
from traghetto.catalog.model import (
    COUNT_MEMBERS,
    FREE_TEXT,
    IMAGE_TYPES,
    SIMULATOR_CAPABILITIES,
    SIZE_CLASS_OF_TYPE,
    UNSERVED_CAPABILITIES,
    USUAL_CAPABILITIES,
    BackendSource,
    Deprecation,
    GgufSource,
    MediaPricing,
    Model,
    ModelType,
    OnnxSource,
    PixelSource,
    Privacy,
    SimulatorSource,
    TextPricing,
    UpstreamSource,
    WorkflowFile,
)
from traghetto.money import UnitPrice, parse_usd
from traghetto.settings import (
    SettingInvalid,
    SimulatorFault,
    SizeClass,
    Upstream,
    convert_table,
    unknown_name,
)
from traghetto.wire.capabilities import Capabilities

TablePath = tuple[str | int, ...]

_MODEL_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}\Z"

_FOUND_ID: Final = re.compile(r"[!-~]{1,256}")
_HeaderText = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z")]
_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_RESERVED_IDS: Final = frozenset({"traits", "compatibility_mapping"})
_OWN_SPEC_MEMBERS: Final = frozenset(
    {"pricing", "capabilities", "constraints", "privacy", "offline", "traits", "deprecation"}
)
_PRICE_ADVICE: Final = {
    "text": 'pricing = { input = "0.70", output = "2.80" }, in USD per 1 million tokens',
    "embedding": 'pricing = { input = "0.02", output = "0" }, in USD per 1 million tokens',
    "image": 'pricing = { generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }',
    "inpaint": 'pricing = { inpaint = "0.04" }',
    "upscale": 'pricing = { upscale = { 2x = "0.02", 4x = "0.08" } }',
    "tts": 'pricing = { input = "3.50" }, in USD per 1 million characters',
    "asr": 'pricing = { per_audio_second = "0.0001" }',
    "music": 'pricing = { generation = "0.10" }',
}
_TOKEN_PRICES: Final = ("input", "output", "cache_input", "cache_write")
_REQUIRED_PRICES: Final[Mapping[str, tuple[frozenset[str], ...]]] = {
    "text": (frozenset({"input", "output"}),),
    "embedding": (frozenset({"input", "output"}),),
    "image": (frozenset({"upscale", "generation"}), frozenset({"upscale", "resolutions"})),
    "inpaint": (frozenset({"inpaint"}),),
    "upscale": (frozenset({"upscale"}),),
    "tts": (frozenset({"input"}),),
    "asr": (frozenset({"per_audio_second"}),),
    "music": tuple(
        frozenset({name})
        for name in ("generation", "durations", "per_second", "per_thousand_characters")
    ),
}
"""Members that a type's pricing must have: one of the sets. Video is quoted, not listed."""


Engine = Literal["simulator", "llama", "classical", "grabcut", "onnx"]
ENGINE_TYPES: Final[Mapping[Engine, tuple[ModelType, ...]]] = {
    "simulator": ("text", "image"),
    "llama": ("text",),
    "classical": ("inpaint", "upscale"),
    "grabcut": ("inpaint",),
    "onnx": ("inpaint", "upscale"),
}
"""The types of models that an engine can serve."""
_FAULTY_ENGINES: Final = ("simulator", "classical", "grabcut")
TEXT_FAULTS: Final[frozenset[SimulatorFault]] = frozenset(
    {"context-exceeded", "no-finish-reason", "no-done", "no-usage"}
)
"""Faults that only answers in text can have."""


class DeprecationTable(msgspec.Struct, frozen=True, kw_only=True):
    """The announced end of a model; dates are ISO 8601."""

    date: str
    removes_at: _HeaderText
    auto_remap: bool = False
    replacement: Annotated[str, Meta(pattern=_MODEL_ID)] | None = None
    starts_at: str | None = None


class ModelTable(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a `[[models]]` table."""

    id: Annotated[
        str,
        Meta(
            pattern=_MODEL_ID,
            description="The public name.",
        ),
    ]
    type: Annotated[ModelType, Meta(description="Its modality.")] = "text"
    name: Annotated[_HeaderText, Meta(description="Its name for people; the id if empty.")] = ""
    description: Annotated[str | None, Meta(description="One sentence for the listing.")] = None
    source: Annotated[str | None, Meta(description="URL of the weights.")] = None
    created: Annotated[
        int | None, Meta(description="Unix seconds; the file's date if not given.")
    ] = None
    upstreams: Annotated[
        tuple[str, ...], Meta(description="Names of the upstreams that serve it, as replicas.")
    ] = ()
    upstream_model: Annotated[
        str | None,
        Meta(
            description="Its name there; the id if not given. For `sdapi` a checkpoint (what is "
            "loaded if not given) or, for type `upscale`, an upscaler."
        ),
    ] = None
    workflow: Annotated[
        Path | None,
        Meta(description="For `comfyui`: the file with its workflow, saved by Export (API)."),
    ] = None
    engine: Annotated[
        Engine | None,
        Meta(
            description="The engine that serves it here: `simulator`, `llama` (a GGUF file), "
            "`classical` (edits and enlarges without a network), `grabcut` (removes "
            "backgrounds), `onnx` (a network for enlarging or removing backgrounds)."
        ),
    ] = None
    gguf: Annotated[Path | None, Meta(description="The model file, for engine `llama`.")] = None
    onnx: Annotated[Path | None, Meta(description="The network, for engine `onnx`.")] = None
    fault: Annotated[
        SimulatorFault | None,
        Meta(
            description="A permanent fault, for the engines `simulator`, `classical` and `grabcut`."
        ),
    ] = None
    first_token_seconds: Annotated[
        float, Meta(ge=0, le=600, description="Pause before the first token, for the simulator.")
    ] = 0.0
    token_seconds: Annotated[
        float, Meta(ge=0, le=60, description="Pause before each further token, likewise.")
    ] = 0.0
    pricing: Annotated[
        dict[str, Any] | None,
        Meta(description="Prices in USD as decimal strings, named as in the listing."),
    ] = None
    privacy: Annotated[
        Privacy, Meta(description="Whether prompts stay private; keys can insist on it.")
    ] = "private"
    pro_only: Annotated[bool, Meta(description="Only for accounts with a paid plan.")] = False
    feature: Annotated[str | None, Meta(description="The entitlement an account needs.")] = None
    offline: Annotated[bool, Meta(description="Listed, but refused as offline.")] = False
    deprecation: DeprecationTable | None = None
    context_tokens: Annotated[
        _Count | None, Meta(description="Prompt and completion together, in tokens.")
    ] = None
    max_completion_tokens: Annotated[
        _Count | None, Meta(description="Longest completion, in tokens.")
    ] = None
    image_tokens_max: Annotated[
        _Count | None,
        Meta(
            description="Most tokens that one image becomes, where that is known; by the size of "
            "the image if not given."
        ),
    ] = None
    capabilities: Annotated[
        dict[str, Any], Meta(description="What it can do, named as in the listing.")
    ] = msgspec.field(default_factory=dict)
    constraints: Annotated[
        dict[str, Any], Meta(description="Defaults and bounds, named as in the listing.")
    ] = msgspec.field(default_factory=dict)
    model_spec: Annotated[
        dict[str, Any], Meta(description="Further members of `model_spec`, such as voices.")
    ] = msgspec.field(default_factory=dict)
    traits: Annotated[tuple[str, ...], Meta(description="Roles it plays, such as `default`.")] = ()
    aliases: Annotated[
        tuple[str, ...], Meta(description="Foreign names that stand for it, such as `gpt-4o`.")
    ] = ()
    size_class: Annotated[
        SizeClass | None, Meta(description="Row of the rate limit table; by type if not given.")
    ] = None
    concurrency_max: Annotated[
        _Count | None, Meta(description="Calls at the same time; no limit if not given.")
    ] = None
    queue_max: Annotated[
        int | None,
        Meta(description="Calls that may wait for a slot; twice the slots if not given."),
    ] = None
    queue_seconds_max: Annotated[
        float, Meta(ge=0, le=600, description="How long a call may wait, in seconds.")
    ] = 2.0
    first_event_seconds: Annotated[
        _Seconds | None, Meta(description="As the setting of that name, for this model.")
    ] = None
    between_events_seconds: Annotated[
        _Seconds | None, Meta(description="As the setting of that name, for this model.")
    ] = None
    total_seconds: Annotated[
        _Seconds | None, Meta(description="As the setting of that name, for this model.")
    ] = None


def is_usable_id(found: str) -> bool:
    """Whether a model may keep the id it was found under, which stands in paths and headers.

    Wider than what a file may say: servers name models after paths, for example.
    """
    return found not in _RESERVED_IDS and _FOUND_ID.fullmatch(found) is not None


def model_of(
    table: object, path: TablePath, upstreams: Mapping[str, Upstream], created: int
) -> Model:
    """The model that a decoded table describes; `created` is used where the table has none.

    Raises `SettingInvalid` naming the member and what to do about it.
    """
    entry = convert_table(ModelTable, table, path)
    if entry.id in _RESERVED_IDS:
        raise SettingInvalid((*path, "id"), f"{entry.id!r} is a route; choose another id")
    check_constraints(entry.type, entry.constraints, (*path, "constraints"))
    pricing, media_pricing = _pricing(entry, path)
    queue_default = 2 * (entry.concurrency_max or 0)
    return Model(
        id=entry.id,
        type=entry.type,
        name=entry.name or entry.id,
        description=entry.description,
        source=entry.source,
        created=created if entry.created is None else entry.created,
        backends=_backends(entry, path, upstreams),
        pricing=pricing,
        media_pricing=media_pricing,
        privacy=entry.privacy,
        pro_only=entry.pro_only,
        feature=entry.feature,
        offline=entry.offline,
        deprecation=_deprecation(entry.deprecation),
        context_tokens=entry.context_tokens,
        max_completion_tokens=entry.max_completion_tokens,
        image_tokens_max=entry.image_tokens_max,
        capabilities=_capabilities(entry, path),
        constraints=entry.constraints,
        spec_members=_spec_members(entry, path),
        traits=entry.traits,
        aliases=entry.aliases,
        size_class=entry.size_class or SIZE_CLASS_OF_TYPE[entry.type],
        concurrency_max=entry.concurrency_max,
        queue_max=queue_default if entry.queue_max is None else entry.queue_max,
        queue_seconds_max=entry.queue_seconds_max,
        first_event_seconds=entry.first_event_seconds,
        between_events_seconds=entry.between_events_seconds,
        total_seconds=entry.total_seconds,
    )


def _capabilities(entry: ModelTable, path: TablePath) -> Capabilities:
    """What the file says the model can do, with what its kind usually can.

    Refused where the gateway could not carry it.
    """
    path = (*path, "capabilities")
    for name in sorted(UNSERVED_CAPABILITIES & entry.capabilities.keys()):
        if entry.capabilities[name]:
            raise SettingInvalid((*path, name), "this gateway does not serve that yet; remove it")
    if entry.engine == "llama" and entry.capabilities.get("supportsVision"):
        raise SettingInvalid(
            (*path, "supportsVision"),
            "a model file is read without its projector, so it takes text only; for images put "
            "`llama-server --mmproj` behind it as an upstream",
        )
    usual = SIMULATOR_CAPABILITIES if entry.engine == "simulator" else USUAL_CAPABILITIES
    if entry.type != "text":
        usual = Capabilities()
    members = msgspec.structs.asdict(usual) | entry.capabilities
    return convert_table(Capabilities, members, path)


def _backends(
    entry: ModelTable, path: TablePath, upstreams: Mapping[str, Upstream]
) -> tuple[BackendSource, ...]:
    _check_members(entry, path)
    match entry.engine:
        case "simulator":
            return (SimulatorSource(entry.fault, entry.first_token_seconds, entry.token_seconds),)
        case "llama":
            return (GgufSource(_named_file(entry.gguf, "gguf", path)),)
        case "classical" | "grabcut" as engine:
            return (PixelSource(engine, entry.fault),)
        case "onnx":
            return (OnnxSource(_named_file(entry.onnx, "onnx", path)),)
        case None:
            return _upstream_sources(entry, path, upstreams)


def _check_members(entry: ModelTable, path: TablePath) -> None:
    """Raise SettingInvalid for a member that what serves the model has no use for."""
    engine = entry.engine
    if engine and entry.upstreams:
        raise SettingInvalid((*path, "engine"), "a model has `upstreams` or an `engine`, not both")
    for member, needed in (("gguf", "llama"), ("onnx", "onnx")):
        if getattr(entry, member) and engine != needed:
            raise SettingInvalid((*path, member), f'`{member}` needs engine = "{needed}"')
    if entry.workflow and not entry.upstreams:
        raise SettingInvalid((*path, "workflow"), '`workflow` needs an upstream of api = "comfyui"')
    if entry.fault and engine not in _FAULTY_ENGINES:
        raise SettingInvalid(
            (*path, "fault"), f"`fault` needs one of the engines {', '.join(_FAULTY_ENGINES)}"
        )
    if entry.fault in TEXT_FAULTS and entry.type != "text":
        raise SettingInvalid((*path, "fault"), "only models of type text can have this fault")
    if engine and entry.type not in ENGINE_TYPES[engine]:
        suited = ", ".join(ENGINE_TYPES[engine])
        raise SettingInvalid(
            (*path, "engine"), f"it serves models of type {suited}, and this one is {entry.type}"
        )


def _named_file(file: Path | None, member: str, path: TablePath) -> Path:
    if file is None:
        raise SettingInvalid((*path, "engine"), f"name the file of the model in `{member}`")
    return file


def _upstream_sources(
    entry: ModelTable, path: TablePath, upstreams: Mapping[str, Upstream]
) -> tuple[UpstreamSource, ...]:
    for name in entry.upstreams:
        if name not in upstreams:
            known = f"there are {', '.join(upstreams)}" if upstreams else "there are none"
            raise SettingInvalid(
                (*path, "upstreams"), f"no `[[upstreams]]` table is named {name!r}; {known}"
            )
    served = tuple(_upstream_source(entry, path, upstreams[name]) for name in entry.upstreams)
    if entry.workflow and not any(source.workflow for source in served):
        raise SettingInvalid((*path, "workflow"), '`workflow` needs an upstream of api = "comfyui"')
    return served


def _upstream_source(entry: ModelTable, path: TablePath, upstream: Upstream) -> UpstreamSource:
    """How `upstream` serves the model; raises SettingInvalid where it cannot."""
    if upstream.api == "openai":
        if entry.type == "upscale":
            raise SettingInvalid(
                (*path, "upstreams"),
                f"{upstream.name!r} speaks OpenAI's API, which has no upscaling; name one of "
                'api = "sdapi" or "comfyui"',
            )
        return UpstreamSource(upstream, entry.upstream_model or entry.id)
    purpose = IMAGE_TYPES.get(entry.type)
    if purpose is None:
        raise SettingInvalid(
            (*path, "upstreams"),
            f"{upstream.name!r} speaks {upstream.api}, which serves images; give the model the "
            f"type {', '.join(sorted(IMAGE_TYPES))}, or name another upstream",
        )
    if upstream.api == "comfyui":
        if entry.workflow is None:
            raise SettingInvalid(
                path, f"{upstream.name!r} is a ComfyUI; name the file to run in `workflow`"
            )
        return UpstreamSource(upstream, None, WorkflowFile(entry.workflow, purpose))
    if entry.type == "upscale" and entry.upstream_model is None:
        raise SettingInvalid(
            path,
            f'name the upscaler of {upstream.name!r} in `upstream_model`, such as "R-ESRGAN 4x+"',
        )
    return UpstreamSource(upstream, entry.upstream_model)


def _pricing(entry: ModelTable, path: TablePath) -> tuple[TextPricing, MediaPricing | None]:
    if entry.pricing is None:
        if entry.type == "video":
            return FREE_TEXT, MediaPricing({})
        raise SettingInvalid(
            path,
            f'model {entry.id!r} has no price; add {_PRICE_ADVICE[entry.type]} ("0" makes it free)',
        )
    where = (*path, "pricing")
    by_tokens = entry.type in {"text", "embedding"}
    for name in entry.pricing if by_tokens else ():
        if name not in _TOKEN_PRICES:
            raise SettingInvalid((*where, name), unknown_name(name, _TOKEN_PRICES))
    required = _REQUIRED_PRICES.get(entry.type, (frozenset(),))
    if not any(names <= entry.pricing.keys() for names in required):
        raise SettingInvalid(where, f"incomplete; write {_PRICE_ADVICE[entry.type]}")
    if by_tokens:
        return _text_pricing(entry.pricing, where), None
    if entry.type in IMAGE_TYPES:
        check_prices(entry.type, entry.constraints, entry.pricing, where)
    return FREE_TEXT, MediaPricing(_price_tree(entry.pricing, where))


def _text_pricing(prices: Mapping[str, Any], path: TablePath) -> TextPricing:
    amounts = {name: UnitPrice(_nano_usd(prices[name], (*path, name))) for name in prices}
    return TextPricing(
        input=amounts["input"],
        output=amounts["output"],
        cache_input=amounts.get("cache_input", amounts["input"]),
        cache_write=amounts.get("cache_write", amounts["input"]),
    )


def _price_tree(prices: Mapping[str, Any], path: TablePath) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, node in prices.items():
        where = (*path, name)
        if isinstance(node, dict):
            tree[name] = _price_tree(node, where)
        elif name in COUNT_MEMBERS:
            if type(node) is not int or node < 0:
                raise SettingInvalid(where, "expected a whole number of at least 0")
            tree[name] = node
        else:
            tree[name] = _nano_usd(node, where)
    return tree


def _nano_usd(amount: object, path: TablePath) -> int:
    # A bool is an int to Python, but nobody means a price by it.
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):
        raise SettingInvalid(path, 'expected a price in USD, such as "0.70"')
    try:
        nano_usd = parse_usd(amount)
    except ValueError as error:
        raise SettingInvalid(path, str(error)) from None
    if nano_usd < 0:
        raise SettingInvalid(path, "a price is never negative")
    return nano_usd


def _deprecation(table: DeprecationTable | None) -> Deprecation | None:
    if table is None:
        return None
    return Deprecation(
        date=table.date,
        removes_at=table.removes_at,
        auto_remap=table.auto_remap,
        replacement_model_id=table.replacement,
        starts_at=table.starts_at,
    )


def _spec_members(entry: ModelTable, path: TablePath) -> dict[str, Any]:
    for name in entry.model_spec:
        if name in _OWN_SPEC_MEMBERS:
            raise SettingInvalid(
                (*path, "model_spec", name), f"set `{name}` in the `[[models]]` table itself"
            )
    return entry.model_spec
