"""The fleet: which models are served, by which concrete engines.

It reads models from the configuration, the command line and the servers themselves, and gives each
its pool. A reload keeps the pool of every model that is served as before: its connections, its
breakers and a loaded model file stay.

Invariant: a fleet is built whole or not at all; what a refused one had opened is closed again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec
from prometheus_client import Counter

from traghetto.app.extras import require_extras
from traghetto.app.launch import Launch
from traghetto.app.own_models import own_image_models
from traghetto.catalog.catalog import DEFAULT_TRAIT, Catalog, Merged, merge
from traghetto.catalog.config_file import Configuration
from traghetto.catalog.discovery import Suggestion, discover
from traghetto.catalog.model import (
    IMAGE_TYPES,
    SIMULATOR_CAPABILITIES,
    UNSERVED_CAPABILITIES,
    USUAL_CAPABILITIES,
    BackendSource,
    GgufSource,
    Model,
    ModelType,
    OnnxSource,
    PixelSource,
    SimulatorSource,
    UpstreamSource,
    unpriced_model,
)
from traghetto.catalog.model_table import is_usable_id
from traghetto.clock import Clock
from traghetto.engines.breaker import NEVER, SINGLE_USER, Guard
from traghetto.engines.comfyui.backend import ComfyUIBackend
from traghetto.engines.comfyui.workflow import digest_of_workflow, read_workflow
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.image_protocols import ImageBackend
from traghetto.engines.imaging.backends import (
    ClassicalEditor,
    ClassicalUpscaler,
    GrabCutRemover,
    SimulatedGenerator,
)
from traghetto.engines.imaging.extras import is_available
from traghetto.engines.imaging.onnx_backends import (
    OnnxEngine,
    OnnxMatting,
    OnnxUpscaler,
    version_of,
)
from traghetto.engines.imaging.work import Workers
from traghetto.engines.llama.backend import LlamaBackend
from traghetto.engines.llama.library import LlamaOptions
from traghetto.engines.member import CountAttempt, Report
from traghetto.engines.openai.backend import OpenAIBackend
from traghetto.engines.openai.client import HttpClient, read_body
from traghetto.engines.openai.images import OpenAIImageBackend
from traghetto.engines.pool import ModelPool, Replica
from traghetto.engines.protocols import BackendModel, ChatBackend, Deadlines
from traghetto.engines.sdapi.backend import SdapiBackend, SdapiUpscaler
from traghetto.engines.simulator.backend import SimulatorBackend, SimulatorOptions
from traghetto.engines.simulator.faults import Fault, FaultPlan, PlannedFault
from traghetto.limits.concurrency import Gate
from traghetto.pipeline.exchange import Header
from traghetto.pipeline.services import Fleet
from traghetto.settings import Settings, SimulatorFault, Upstream
from traghetto.telemetry import Metrics, log_event
from traghetto.wire.capabilities import Capabilities
from traghetto.wire.completion import decode_answer

SIMULATOR_ID: Final = "simulator"
LISTING_BYTES_MAX: Final = 1 << 20
LISTING_SECONDS_MAX: Final = 10.0
"""An upstream that takes longer to say what it serves is silent."""

_FOUND_TRAITS: Final[Mapping[str, Callable[[Model], bool]]] = {
    DEFAULT_TRAIT: lambda _: True,
    "default_vision": lambda model: model.capabilities.supportsVision,
}
"""Roles that models play which nobody wrote down, and which of them suit."""

EMPTY_FLEET: Final = Fleet(Catalog(()), {}, {}, {}, {})


@dataclass(frozen=True, slots=True)
class Built:
    """A fleet, and what an operator is told of it."""

    fleet: Fleet
    models: tuple[Model, ...]
    free_line: str | None


class FleetBuilder:
    """Builds the fleets of one gateway; engines of our own compute in `workers`."""

    def __init__(
        self,
        launch: Launch,
        clock: Clock,
        metrics: Metrics,
        count_accounts: Callable[[], int],
        workers: Workers,
    ) -> None:
        self._launch = launch
        self._clock = clock
        self._metrics = metrics
        self._count_accounts = count_accounts
        self._workers = workers
        self._random = random.Random()  # noqa: S311 - spreads load and retries, keeps no secret
        self._clients: dict[tuple[str, str | None, str], HttpClient] = {}
        self._attempts: dict[tuple[str, str], Counter] = {}
        self._listed: dict[str, list[Model]] = {}
        """What each `--upstream` last said it serves: a silent one keeps its models."""
        self._silent: set[str] = set()
        """The upstreams that did not answer when last asked."""
        self._unusable_ids: dict[str, list[str]] = {}
        """Model ids of each upstream that nobody could ask for, as the operator was last told."""
        self._served_as: dict[str, _ServedAs] = {}
        """How the pool of each model was made."""

    async def ask(self, upstreams: Sequence[Upstream]) -> tuple[Upstream, ...]:
        """Have `upstreams` say at once which models they serve; those that stay silent.

        Raises ValueError, with a sentence for the operator, if the key of one is not set.
        """
        clients = [self._client(upstream) for upstream in upstreams]
        failures = await asyncio.gather(*map(self._ask, upstreams, clients))
        return tuple(
            upstream for upstream, failed in zip(upstreams, failures, strict=True) if failed
        )

    async def build(self, configuration: Configuration, before: Fleet) -> Built:
        """The fleet of `configuration`; pools and gates of `before` that still fit are kept.

        Raises ValueError or OSError, with a sentence for the operator; `before` is then untouched.
        """
        merged = self._merged(configuration)
        require_extras(merged.models)
        served_as: dict[str, _ServedAs] = {}
        pools: dict[str, ModelPool] = {}
        image_pools: dict[str, ImagePool] = {}
        models: list[Model] = []
        async with AsyncExitStack() as opened:
            for model in Catalog(merged.models).models:
                way = served_as[model.id] = _served_as(model, configuration.settings)
                kept = before if self._served_as.get(model.id) == way else EMPTY_FLEET
                if model.type in IMAGE_TYPES:
                    images = kept.image_pools.get(model.id)
                    if images is None and model.backends:
                        images = await self._image_pool(model, way.deadlines, opened)
                    if images is not None:
                        image_pools[model.id] = images
                    models.append(model)
                else:
                    pool = kept.pools.get(model.id)
                    if pool is None and model.backends:
                        pool = await self._pool(model, way.deadlines, opened)
                    if pool is not None:
                        pools[model.id] = pool
                    models.append(_with_local_context(model, pool))
            fleet = Fleet(
                Catalog(models),
                pools,
                image_pools,
                {model.id: self._gate(model, before) for model in models},
                {model.id: _model_headers(model) for model in models},
            )
            opened.pop_all()
        for started in fleet.every_pool():
            started.start()
        self._served_as = served_as
        return Built(fleet, tuple(models), merged.free_line())

    def lacks_remover(self, configuration: Configuration) -> bool:
        """Whether a gateway without configuration serves no remover of backgrounds."""
        is_configured = configuration.models or self._launch.adds_models
        return not is_configured and not is_available("vision")

    async def suggestions(self, configuration: Configuration) -> list[Suggestion]:
        """Model servers on this machine, looked for only where nothing was configured."""
        if configuration.models or self._launch.adds_models:
            return []
        return await discover(_fetch_models)

    def _merged(self, configuration: Configuration) -> Merged:
        """The models of the file and the command line, as far as they are known now."""
        found: list[Model] = []
        created = self._clock.utc_ns() // 1_000_000_000
        for upstream in self._launch.upstreams:
            found += self._listed.get(upstream.url, ())
        found += (
            unpriced_model(
                _id_of_file(path),
                GgufSource(path),
                created=created,
                capabilities=USUAL_CAPABILITIES,
            )
            for path in self._launch.gguf_files
        )
        if not (configuration.models or self._launch.adds_models):
            found += (_simulator_model(created), *own_image_models(created))
        for trait, suits in _FOUND_TRAITS.items():
            if not any(trait in model.traits for model in configuration.models):
                _give_trait(trait, found, suits)
        return merge(configuration.models, found)

    async def _ask(self, upstream: Upstream, client: HttpClient) -> bool:
        """Take down what one upstream serves; whether it is silent. Only changes are reported."""
        url = upstream.url
        try:
            listed = await _listing(
                OpenAIBackend(
                    upstream.name, client, "", clock=self._clock, tokenize=upstream.tokenize
                )
            )
        except EngineFailure as failure:
            if url not in self._silent:
                self._silent.add(url)
                log_event("warn", "upstream_silent", url=url, reason=failure.reason)
            return True
        if url in self._silent:
            self._silent.remove(url)
            log_event("info", "upstream_answers", url=url)
        self._listed[url] = self._usable(upstream, listed)
        return False

    def _usable(self, upstream: Upstream, listed: Sequence[BackendModel]) -> list[Model]:
        """The listed models that can be asked for under their ids, which go into headers too."""
        texts = [model for model in listed if model.type == "text"]
        unusable = [model.id for model in texts if not is_usable_id(model.id)]
        if unusable and unusable != self._unusable_ids.get(upstream.url):
            log_event(
                "warn",
                "model_ids_unusable",
                url=upstream.url,
                upstream_model=ascii(unusable[0]),
                count=len(unusable),
            )
        self._unusable_ids[upstream.url] = unusable
        created = self._clock.utc_ns() // 1_000_000_000
        return [
            unpriced_model(
                model.id,
                UpstreamSource(upstream, model.id),
                created=created,
                context_tokens=model.context_tokens,
                capabilities=_capabilities(model.capabilities),
            )
            for model in texts
            if is_usable_id(model.id)
        ]

    def _gate(self, model: Model, before: Fleet) -> Gate:
        """The model's gate. One with the same numbers survives a reload, with the calls in it."""
        old = before.catalog.by_id(model.id)
        limits = (model.concurrency_max, model.queue_max, model.queue_seconds_max)
        if old is not None and (
            limits == (old.concurrency_max, old.queue_max, old.queue_seconds_max)
        ):
            return before.gates[model.id]
        return Gate(
            self._clock,
            concurrency_max=model.concurrency_max,
            queue_max=model.queue_max,
            queue_seconds_max=model.queue_seconds_max,
        )

    async def _pool(self, model: Model, deadlines: Deadlines, opened: AsyncExitStack) -> ModelPool:
        """A new pool of chat backends, which `opened` closes if the fleet is not built."""
        replicas = []
        for source in model.backends:
            replicas.append(await self._replica(model, source))
            opened.push_async_callback(replicas[-1].backend.aclose)
        return ModelPool(model.id, replicas, **self._pool_options(deadlines))

    async def _image_pool(
        self, model: Model, deadlines: Deadlines, opened: AsyncExitStack
    ) -> ImagePool:
        """A new pool of image backends, likewise."""
        replicas = []
        for source in model.backends:
            replicas.append(self._image_backend(model, source, deadlines))
            backend = replicas[-1].backend
            opened.push_async_callback(backend.aclose)
            if isinstance(backend, OnnxEngine):
                await backend.check()
        return ImagePool(model.id, replicas, **self._pool_options(deadlines))

    def _pool_options(self, deadlines: Deadlines) -> _PoolOptions:
        return {
            "deadlines": deadlines,
            "clock": self._clock,
            "rng": self._random,
            "guard": self._guard,
            "report": _report,
            "on_attempt": self._count_attempt,
        }

    def _guard(self) -> Guard:
        if self._launch.is_lab:
            return NEVER
        return SINGLE_USER if self._count_accounts() <= 1 else Guard()

    async def _replica(self, model: Model, source: BackendSource) -> Replica[ChatBackend]:
        if isinstance(source, UpstreamSource):
            upstream = source.upstream
            backend = OpenAIBackend(
                upstream.name,
                self._client(upstream),
                source.model or model.id,
                clock=self._clock,
                tokenize=upstream.tokenize,
            )
            return Replica(
                backend,
                upstream_model=backend.model,
                counts_tokens=upstream.tokenize is not None,
            )
        if isinstance(source, GgufSource):
            options = LlamaOptions(
                context_tokens=model.context_tokens or LlamaOptions().context_tokens,
                # llama.cpp's threads spin while they wait: one core stays for everything else.
                threads=max(1, (os.cpu_count() or 1) - 1),
            )
            return Replica(
                await LlamaBackend.load(source.path, options, name=model.id, clock=self._clock)
            )
        assert isinstance(source, SimulatorSource), "other engines make no text"
        return Replica(_simulator(model, source, self._clock))

    def _image_backend(
        self, model: Model, source: BackendSource, deadlines: Deadlines
    ) -> Replica[ImageBackend]:
        """What makes images for `model`: THE place where engines for images are named.

        Raises ValueError, with a sentence for the operator, or OSError.
        """
        workers, name, seconds = self._workers, model.id, deadlines.total_seconds
        match source:
            case UpstreamSource():
                adapter = self._image_adapter(model, source)
                return Replica(adapter, upstream_model=adapter.model)
            case SimulatorSource():
                faults = _fault_plan(source.fault)
                return Replica(
                    SimulatedGenerator(
                        workers, name=name, rng=self._random, faults=faults, seconds_max=seconds
                    )
                )
            case PixelSource(engine="grabcut"):
                faults = _fault_plan(source.fault)
                return Replica(
                    GrabCutRemover(workers, name=name, faults=faults, seconds_max=seconds)
                )
            case PixelSource():
                classical = ClassicalUpscaler if model.type == "upscale" else ClassicalEditor
                faults = _fault_plan(source.fault)
                return Replica(classical(workers, name=name, faults=faults, seconds_max=seconds))
            case OnnxSource():
                network = OnnxUpscaler if model.type == "upscale" else OnnxMatting
                return Replica(network(workers, source.path, name=name, seconds_max=seconds))
            case GgufSource():
                raise ValueError(f"model {name!r}: a GGUF file makes no images")

    def _image_adapter(self, model: Model, source: UpstreamSource) -> _ImageAdapter:
        """The adapter to a server across the network; raises ValueError, OSError."""
        name, client = source.upstream.name, self._client(source.upstream)
        if source.upstream.api == "openai":
            return OpenAIImageBackend(name, client, source.model or model.id, clock=self._clock)
        if source.workflow is not None:
            workflow = read_workflow(source.workflow.path, source.workflow.purpose)
            return ComfyUIBackend(name, client, workflow, clock=self._clock, rng=self._random)
        if model.type == "upscale":
            return SdapiUpscaler(name, client, source.model or "", clock=self._clock)
        return SdapiBackend(name, client, source.model, clock=self._clock)

    def _client(self, upstream: Upstream) -> HttpClient:
        """One client per server and key, shared by the backends of its models."""
        identity = (upstream.url, upstream.key_env, upstream.api)
        client = self._clients.get(identity)
        if client is None:
            key = None
            if upstream.key_env is not None:
                key = os.environ.get(upstream.key_env)
                if key is None:
                    raise ValueError(
                        f"upstream {upstream.name!r} takes its key from {upstream.key_env}, which "
                        "is not set: export it, or remove `key_env`"
                    )
            # What these servers call authentication (`--api-auth user:password`) is HTTP's Basic.
            scheme: Literal["Basic", "Bearer"] = "Basic" if upstream.api == "sdapi" else "Bearer"
            client = self._clients[identity] = HttpClient(upstream.url, key, scheme=scheme)
        return client

    def _count_attempt(self, _model: str, backend: str, outcome: str, /) -> None:
        labels = (backend, outcome)
        attempts = self._attempts.get(labels)
        if attempts is None:
            attempts = self._attempts[labels] = self._metrics.backend_attempts.labels(*labels)
        attempts.inc()


_ImageAdapter: TypeAlias = OpenAIImageBackend | SdapiBackend | SdapiUpscaler | ComfyUIBackend


class _PoolOptions(TypedDict):
    """What pools of every kind are made with."""

    deadlines: Deadlines
    clock: Clock
    rng: random.Random
    guard: Callable[[], Guard]
    report: Report
    on_attempt: CountAttempt


@dataclass(frozen=True, slots=True)
class _ServedAs:
    """Everything that a pool was made from; an equal one can be kept."""

    type: ModelType
    backends: tuple[BackendSource, ...]
    context_tokens: int | None
    deadlines: Deadlines
    files: tuple[str | bytes, ...]
    """What changes when workflows and networks do, without their names."""


def _served_as(model: Model, settings: Settings) -> _ServedAs:
    deadlines = Deadlines(
        model.first_event_seconds or settings.first_event_seconds,
        model.between_events_seconds or settings.between_events_seconds,
        model.total_seconds or settings.total_seconds,
    )
    workflows = (digest_of_workflow(file.path) for file in model.workflows())
    networks = (version_of(net.path) for net in model.backends if isinstance(net, OnnxSource))
    files: tuple[str | bytes, ...] = (*workflows, *networks)
    return _ServedAs(model.type, model.backends, model.context_tokens, deadlines, files)


async def _listing(backend: ChatBackend) -> list[BackendModel]:
    """What a server says that it serves; raises EngineFailure, TIMED_OUT if it takes too long."""
    try:
        async with asyncio.timeout(LISTING_SECONDS_MAX):
            return await backend.models()
    except TimeoutError:
        raise EngineFailure(FailureKind.TIMED_OUT, "no list of models in time") from None
    finally:
        await backend.aclose()


def _id_of_file(path: Path) -> str:
    if not is_usable_id(path.stem):
        raise ValueError(
            f"{path}: its name cannot be a model id; rename it, or give it an `id` in a "
            '`[[models]]` table with engine = "llama"'
        )
    return path.stem


def _simulator_model(created: int) -> Model:
    return unpriced_model(
        SIMULATOR_ID,
        SimulatorSource(),
        created=created,
        context_tokens=SimulatorOptions().context_tokens,
        capabilities=SIMULATOR_CAPABILITIES,
    )


def _simulator(model: Model, source: SimulatorSource, clock: Clock) -> SimulatorBackend:
    defaults = SimulatorOptions()
    options = SimulatorOptions(
        model=model.id,
        context_tokens=model.context_tokens or defaults.context_tokens,
        first_token_seconds=source.first_token_seconds,
        token_seconds=source.token_seconds,
    )
    return SimulatorBackend(clock=clock, options=options, faults=_fault_plan(source.fault))


def _fault_plan(fault: SimulatorFault | None) -> FaultPlan | None:
    return None if fault is None else FaultPlan(PlannedFault(Fault(fault)))


def _give_trait(trait: str, models: list[Model], suits: Callable[[Model], bool]) -> None:
    """Have the first of `models` that `suits` play the role `trait`."""
    for place, model in enumerate(models):
        if suits(model):
            models[place] = replace(model, traits=(*model.traits, trait))
            return


def _capabilities(claimed: dict[str, Any]) -> Capabilities:
    """What a server says its model can do, with what OpenAI-compatible servers usually can."""
    known = set(Capabilities.__struct_fields__) - UNSERVED_CAPABILITIES
    return msgspec.structs.replace(
        USUAL_CAPABILITIES, **{k: v for k, v in claimed.items() if k in known}
    )


def _with_local_context(model: Model, pool: ModelPool | None) -> Model:
    """A model whose context only its loaded file tells, told."""
    for member in () if pool is None else pool.members:
        if isinstance(member.backend, LlamaBackend):
            return replace(model, context_tokens=member.backend.context_tokens)
    return model


def _model_headers(model: Model) -> tuple[Header, ...]:
    """What an answer says about its model (contract B.1.8); header values are Latin-1."""
    name = (model.name or model.id).encode("latin-1", "replace")
    headers: list[Header] = [
        (b"x-venice-model-id", model.id.encode()),
        (b"x-venice-model-name", name),
        (b"x-venice-model-router", b"traghetto"),
    ]
    deprecation = model.deprecation
    if deprecation is not None:
        headers += [
            (b"x-venice-model-deprecation-warning", b"This model is deprecated"),
            (b"x-venice-model-deprecation-date", deprecation.removes_at.encode()),
            (b"x-venice-deprecated", b"true"),
        ]
        if deprecation.replacement_model_id is not None:
            headers.append(
                (b"x-venice-deprecated-replacement", deprecation.replacement_model_id.encode())
            )
    return tuple(headers)


async def _fetch_models(url: str) -> Any:
    """The decoded models listing of a server that nobody configured; raises OSError, ValueError."""
    client = HttpClient(url)
    client.join()
    try:
        async with client.request("GET", client.api / "models") as response:
            return decode_answer(await read_body(response, LISTING_BYTES_MAX))
    except EngineFailure as failure:
        raise OSError(failure.reason) from failure
    finally:
        await client.leave()


def _report(level: Literal["info", "warn", "error"], event: str, /, **fields: Any) -> None:
    """Write down that a backend changed its state."""
    log_event(level, event, **fields)
