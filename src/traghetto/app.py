"""THE COMPOSITION ROOT: the only file that picks concrete classes and wires them together.

A `Gateway` is everything behind the HTTP server: the books, the directory, the models with their
backends, the control socket and the ASGI application. Nothing here is touched per request.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import Counter

from traghetto.accounts.administration import Administration
from traghetto.accounts.control import SOCKET_NAME, serve_control
from traghetto.accounts.directory import Directory
from traghetto.accounts.pepper import FILE_NAME as PEPPER_FILE_NAME
from traghetto.accounts.pepper import read_or_create_pepper
from traghetto.catalog.catalog import Catalog, Merged, merge
from traghetto.catalog.config_file import ConfigInvalid, Configuration, read_configuration
from traghetto.catalog.discovery import Suggestion, discover
from traghetto.catalog.model import (
    UNSERVED_CAPABILITIES,
    BackendSource,
    GgufSource,
    Model,
    SimulatorSource,
    UpstreamSource,
    unpriced_model,
)
from traghetto.clock import Clock, SystemClock
from traghetto.endpoints.table import endpoint_table
from traghetto.engines.breaker import SINGLE_USER
from traghetto.engines.failures import EngineFailure
from traghetto.engines.llama.backend import LlamaBackend
from traghetto.engines.llama.library import LlamaOptions
from traghetto.engines.openai.backend import OpenAIBackend
from traghetto.engines.openai.client import HttpClient, read_body
from traghetto.engines.pool import ModelPool, Replica
from traghetto.engines.protocols import ChatBackend, Deadlines
from traghetto.engines.simulator.backend import SimulatorBackend, SimulatorOptions
from traghetto.engines.simulator.faults import Fault, FaultPlan, PlannedFault
from traghetto.errors import ErrorStyle
from traghetto.http.dispatch import Dispatch, EdgeServices, Readiness
from traghetto.ledger.book import Book, day_window
from traghetto.limits.budget import FailedRequestBudget
from traghetto.limits.concurrency import Gate
from traghetto.limits.rates import RateLimiter
from traghetto.pipeline.exchange import Exchange, Header
from traghetto.pipeline.services import Fleet, Services
from traghetto.pipeline.stages.authenticate import require_admin
from traghetto.pipeline.stages.receive import BodiesInFlight
from traghetto.settings import Settings, Upstream
from traghetto.storage.connector import Store
from traghetto.storage.sqlite import SqliteStore
from traghetto.telemetry import Metrics, configure_logging, log_event
from traghetto.wire.capabilities import Capabilities
from traghetto.wire.completion import decode_answer
from traghetto.wire.schema import validator_for

SIMULATOR_ID: Final = "simulator"
SWEEP_SECONDS: Final = 5.0
UPSTREAM_RETRY_SECONDS: Final = 5.0
RETIRE_POLL_SECONDS: Final = 1.0
LISTING_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Launch:
    """How an operator asked for a gateway: a configuration, and what only a command line says."""

    config_path: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Settings given as flags, by name."""
    upstreams: tuple[Upstream, ...] = ()
    """Servers all of whose models are to be served."""
    gguf_files: tuple[Path, ...] = ()

    @property
    def adds_models(self) -> bool:
        """Whether models come from elsewhere than the file."""
        return bool(self.upstreams or self.gguf_files)

    def configuration(self) -> Configuration:
        """Read the file, the environment and the flags. Raises ConfigInvalid, OSError."""
        return read_configuration(
            self.config_path, os.environ, self.flags, backends_required=not self.adds_models
        )


@dataclass(frozen=True, slots=True)
class Started:
    """What a start has to tell the operator, besides its address."""

    admin_key: str | None
    """The secret of the first admin key; shown once, on the first start."""
    models: tuple[Model, ...]
    free_line: str | None
    suggestions: tuple[Suggestion, ...]
    warnings: tuple[str, ...]


class Gateway:
    """A running gateway without its HTTP server; made by `open_gateway`."""

    def __init__(self, launch: Launch, settings: Settings, store: Store, clock: Clock) -> None:
        self._launch = launch
        self._clock = clock
        self._store = store
        self._random = random.Random()  # noqa: S311 - spreads load and retries, keeps no secret
        self._clients: dict[tuple[str, str | None], HttpClient] = {}
        self._listed: dict[str, list[Model]] = {}
        """What each `--upstream` last said it serves: a silent one keeps its models."""
        self._attempts: dict[tuple[str, str], Counter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.metrics = Metrics()
        self.stopped = asyncio.Event()
        """Set when the books can no longer be trusted: the process must end."""
        pepper_path = settings.pepper_file or settings.data_dir / PEPPER_FILE_NAME
        state = store.load(day_window(clock.utc_ns()))
        self.directory = Directory(store, clock, read_or_create_pepper(pepper_path), state)
        self.book = Book(
            store,
            clock,
            state,
            overdraft=settings.overdraft,
            hold_seconds=settings.hold_seconds_max,
        )
        self.administration = Administration(self.directory, self.book)
        self.services = Services(
            settings=settings,
            clock=clock,
            directory=self.directory,
            book=self.book,
            rates=_rate_limiter(settings, clock, launch),
            budget=FailedRequestBudget(
                clock,
                failed_requests_max=settings.failed_requests_max,
                unsupported_requests_max=settings.unsupported_requests_max,
                window_seconds=settings.failed_requests_window_seconds,
                block_seconds=settings.failed_requests_block_seconds,
                reset_style=settings.ratelimit_reset_style,
            ),
            bodies=BodiesInFlight(settings.bodies_in_flight_bytes_max),
            fleet=Fleet(Catalog(()), {}, {}, {}),
            stop=self._stop,
        )
        self.dispatch = Dispatch(
            endpoint_table(self.services),
            EdgeServices(
                clock=clock,
                metrics=self.metrics,
                style=ErrorStyle(settings.error_code_header, settings.openai_error_objects),
                readiness=self._readiness,
                authorise_metrics=self._authorise_metrics,
                access_log=settings.access_log,
            ),
        )

    async def start(self, configuration: Configuration) -> Started:
        """Recover the books, build the models, and begin the background work."""
        settings = configuration.settings
        validator_for("ChatCompletionRequest")  # compiled now, not in the first request
        recovery = self.book.recover()
        if recovery.durable is not None:
            await recovery.durable
            log_event("warn", "holds_recovered", count=recovery.holds_voided)
        admin_key = await self.administration.first_start()
        merged, missing = await self._merged(configuration)
        suggestions = await self._suggestions(configuration)
        self.services.fleet = await self._build_fleet(merged.models, settings)
        self._spawn(self._sweep_holds())
        if missing:
            self._spawn(self._retry_upstreams())
        warnings = [
            f"{upstream.url} does not answer yet; its models follow" for upstream in missing
        ]
        if settings.durability == "normal":
            warnings.append(
                'durability = "normal": a power cut can lose the last charges; "full" cannot'
            )
        return Started(
            admin_key, merged.models, merged.free_line(), tuple(suggestions), tuple(warnings)
        )

    async def aclose(self) -> None:
        """Stop the background work, then the backends, then the store."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _close_pools(self.services.fleet)
        await self._store.aclose()

    def request_reload(self) -> None:
        """Read the configuration again, in the background; an invalid one changes nothing."""
        self._spawn(self.reload())

    async def reload(self) -> None:
        """Replace models and prices; the old ones stay if the configuration is refused.

        Requests in flight keep the models they began with. Settings other than models and their
        deadlines take effect at the next start.
        """
        async with self._reloading:
            try:
                configuration = self._launch.configuration()
                merged, missing = await self._merged(configuration)
                fleet = await self._build_fleet(merged.models, configuration.settings)
            except (ConfigInvalid, OSError, ValueError) as refusal:
                log_event("error", "reload_refused", reason=str(refusal))
                return
            retired, self.services.fleet = self.services.fleet, fleet
            log_event("info", "reloaded", count=len(merged.models))
            self._spawn(self._retire(retired))
            if missing:
                self._spawn(self._retry_upstreams())

    # Models and what serves them

    async def _merged(self, configuration: Configuration) -> tuple[Merged, list[Upstream]]:
        """The models of the file and the command line, and the upstreams that did not answer."""
        found: list[Model] = []
        missing: list[Upstream] = []
        created = self._clock.utc_ns() // 1_000_000_000
        for upstream in self._launch.upstreams:
            try:
                self._listed[upstream.url] = await self._models_of(upstream, created)
            except EngineFailure as failure:
                log_event("warn", "upstream_silent", url=upstream.url, reason=failure.reason)
                missing.append(upstream)
            found += self._listed.get(upstream.url, ())
        for path in self._launch.gguf_files:
            found.append(
                unpriced_model(
                    path.stem,
                    GgufSource(path),
                    created=created,
                    capabilities=_LOCAL_CAPABILITIES,
                    traits=() if found or configuration.models else ("default",),
                )
            )
        if not (configuration.models or self._launch.adds_models):
            found.append(_simulator_model(created))
        return merge(configuration.models, found), missing

    async def _models_of(self, upstream: Upstream, created: int) -> list[Model]:
        backend = OpenAIBackend(
            upstream.name, self._client(upstream), "", clock=self._clock, tokenize=upstream.tokenize
        )
        try:
            listed = await backend.models()
        finally:
            await backend.aclose()
        return [
            unpriced_model(
                model.id,
                UpstreamSource(upstream, model.id),
                created=created,
                context_tokens=model.context_tokens,
                capabilities=_capabilities(model.capabilities),
                traits=("default",) if index == 0 else (),
            )
            for index, model in enumerate(m for m in listed if m.type == "text")
        ]

    async def _build_fleet(self, models: tuple[Model, ...], settings: Settings) -> Fleet:
        catalog = Catalog(models)
        pools: dict[str, ModelPool] = {}
        known: list[Model] = []
        for model in catalog.models:
            replicas = [await self._replica(model, source) for source in model.backends]
            known.append(_with_local_context(model, replicas))
            if replicas:
                pools[model.id] = self._pool(model, replicas, settings)
        for pool in pools.values():
            pool.start()
        gates = {model.id: self._gate(model) for model in known}
        headers = {model.id: _model_headers(model) for model in known}
        return Fleet(Catalog(known), pools, gates, headers)

    def _gate(self, model: Model) -> Gate:
        """The model's gate. One with the same numbers survives a reload, with the calls in it."""
        before = self.services.fleet
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

    def _pool(self, model: Model, replicas: list[Replica], settings: Settings) -> ModelPool:
        single_user = sum(1 for _ in self.directory.accounts()) <= 1
        return ModelPool(
            model.id,
            replicas,
            deadlines=Deadlines(
                model.first_event_seconds or settings.first_event_seconds,
                model.between_events_seconds or settings.between_events_seconds,
                model.total_seconds or settings.total_seconds,
            ),
            clock=self._clock,
            rng=self._random,
            guard=SINGLE_USER if single_user else None,
            report=_report,
            on_attempt=self._count_attempt,
        )

    async def _replica(self, model: Model, source: BackendSource) -> Replica:
        backend: ChatBackend
        if isinstance(source, UpstreamSource):
            upstream = source.upstream
            backend = OpenAIBackend(
                upstream.name,
                self._client(upstream),
                source.model,
                clock=self._clock,
                tokenize=upstream.tokenize,
            )
            return Replica(
                backend,
                upstream_model=source.model,
                counts_tokens=upstream.tokenize is not None,
            )
        if isinstance(source, GgufSource):
            options = LlamaOptions()
            if model.context_tokens is not None:
                options = LlamaOptions(context_tokens=model.context_tokens)
            backend = await LlamaBackend.load(
                source.path, options, name=model.id, clock=self._clock
            )
            return Replica(backend)
        return Replica(_simulator(model, source, self._clock))

    def _client(self, upstream: Upstream) -> HttpClient:
        """One client per server and key, shared by the backends of its models."""
        identity = (upstream.url, upstream.key_env)
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
            client = self._clients[identity] = HttpClient(upstream.url, key)
        return client

    async def _suggestions(self, configuration: Configuration) -> list[Suggestion]:
        """Model servers on this machine, looked for only where nothing was configured."""
        if configuration.models or self._launch.adds_models:
            return []

        return await discover(_fetch_models)

    # Background work

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep_holds(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if swept := self.book.sweep():
                log_event("error", "holds_expired", count=swept)

    async def _retry_upstreams(self) -> None:
        """Try silent upstreams again until a reload finds them."""
        await asyncio.sleep(UPSTREAM_RETRY_SECONDS)
        await self.reload()

    async def _retire(self, fleet: Fleet) -> None:
        """Close the backends of a replaced fleet once its last request has ended."""
        members = [member for pool in fleet.pools.values() for member in pool.members]
        while any(member.outstanding for member in members):  # noqa: ASYNC110 - rare and patient
            await asyncio.sleep(RETIRE_POLL_SECONDS)
        await _close_pools(fleet)

    def _stop(self, reason: str) -> None:
        log_event("error", "store_broken", reason=reason)
        self.stopped.set()

    def _readiness(self) -> Readiness:
        return "ready" if self.book.healthy else "failing"

    def _authorise_metrics(self, exchange: Exchange) -> None:
        require_admin(self.services, exchange)

    def _count_attempt(self, _model: str, backend: str, outcome: str, /) -> None:
        labels = (backend, outcome)
        attempts = self._attempts.get(labels)
        if attempts is None:
            attempts = self._attempts[labels] = self.metrics.backend_attempts.labels(*labels)
        attempts.inc()


@asynccontextmanager
async def open_gateway(
    launch: Launch, configuration: Configuration, clock: Clock | None = None
) -> AsyncIterator[tuple[Gateway, Started]]:
    """A started gateway, closed when the context is left.

    Raises ValueError or OSError, with a sentence for the operator, if it cannot start.
    """
    settings = configuration.settings
    clock = clock or SystemClock()
    configure_logging(settings.log_level, clock)
    store = SqliteStore(settings.data_dir, durability=settings.durability)
    gateway = Gateway(launch, settings, store, clock)
    try:
        started = await gateway.start(configuration)
        control = await serve_control(settings.data_dir / SOCKET_NAME, gateway.administration)
        try:
            yield gateway, started
        finally:
            await control.aclose()
    finally:
        await gateway.aclose()


_LOCAL_CAPABILITIES: Final = Capabilities(
    supportsFunctionCalling=True, supportsResponseSchema=True, supportsLogProbs=True
)
"""What llama.cpp does with any model whose template allows it."""


def _rate_limiter(settings: Settings, clock: Clock, launch: Launch) -> RateLimiter:
    """Limits are on, except where the gateway was started without configuration to try it."""
    unconfigured = launch.config_path is None and not launch.upstreams
    enabled = settings.rate_limits == "on" or (settings.rate_limits == "auto" and not unconfigured)
    return RateLimiter(
        clock,
        enabled=enabled,
        own_numbers=settings.rate_limit_classes,
        reset_style=settings.ratelimit_reset_style,
    )


def _simulator_model(created: int) -> Model:
    return unpriced_model(
        SIMULATOR_ID,
        SimulatorSource(),
        created=created,
        context_tokens=SimulatorOptions().context_tokens,
        capabilities=SIMULATOR_CAPABILITIES,
        traits=("default",),
    )


SIMULATOR_CAPABILITIES: Final = Capabilities(
    supportsFunctionCalling=True,
    supportsResponseSchema=True,
    supportsLogProbs=True,
    supportsReasoning=True,
    supportsReasoningEffort=True,
)


def _simulator(model: Model, source: SimulatorSource, clock: Clock) -> SimulatorBackend:
    defaults = SimulatorOptions()
    options = SimulatorOptions(
        model=model.id,
        context_tokens=model.context_tokens or defaults.context_tokens,
        first_token_seconds=source.first_token_seconds,
        token_seconds=source.token_seconds,
    )
    faults = None
    if source.fault is not None:
        faults = FaultPlan(PlannedFault(Fault(source.fault)))
    return SimulatorBackend(clock=clock, options=options, faults=faults)


def _capabilities(claimed: dict[str, Any]) -> Capabilities:
    """What a server says its model can do, with what OpenAI-compatible servers usually can."""
    usual = {
        "supportsFunctionCalling": True,
        "supportsResponseSchema": True,
        "supportsLogProbs": True,
    }
    known = set(Capabilities.__struct_fields__) - UNSERVED_CAPABILITIES
    return Capabilities(**{k: v for k, v in (usual | claimed).items() if k in known})


def _with_local_context(model: Model, replicas: list[Replica]) -> Model:
    """A model whose context only its loaded file tells, told."""
    for replica in replicas:
        if isinstance(replica.backend, LlamaBackend):
            return replace(model, context_tokens=replica.backend.context_tokens)
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


async def _close_pools(fleet: Fleet) -> None:
    for pool in fleet.pools.values():
        await pool.aclose()
