"""A gateway: everything behind the HTTP server, wired once.

The books, the directory, the models with their backends, the control socket and the ASGI
application. Nothing here is touched per request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from traghetto.accounts.administration import Administration
from traghetto.accounts.control import SOCKET_NAME, serve_control
from traghetto.accounts.directory import Directory
from traghetto.accounts.pepper import FILE_NAME as PEPPER_FILE_NAME
from traghetto.accounts.pepper import open_pepper
from traghetto.app.fleet import EMPTY_FLEET, Built, FleetBuilder
from traghetto.app.launch import Launch
from traghetto.app.own_models import NO_REMOVER_LINE
from traghetto.catalog.config_file import Configuration
from traghetto.catalog.discovery import Suggestion
from traghetto.catalog.model import Model
from traghetto.clock import Clock, SystemClock
from traghetto.endpoints.spec import Endpoint
from traghetto.endpoints.table import endpoint_table
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.pool import ModelPool
from traghetto.errors import ErrorStyle
from traghetto.http.dispatch import Dispatch, EdgeServices, Readiness
from traghetto.idempotency.answers import Answers
from traghetto.ledger.book import Book, day_window
from traghetto.limits.budget import FailedRequestBudget
from traghetto.limits.endpoints import EndpointLimiter
from traghetto.limits.rates import RateLimiter
from traghetto.limits.refusals import RefusalLog
from traghetto.media.fetching import Fetcher
from traghetto.media.images import ImageReader
from traghetto.moderation import Policy, policy_of
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import require_admin
from traghetto.pipeline.stages.pictures import Media
from traghetto.pipeline.stages.receive import BodiesInFlight
from traghetto.settings import Settings, Upstream
from traghetto.storage.connector import Store
from traghetto.storage.reports import SqliteReports
from traghetto.storage.sqlite import SqliteStore
from traghetto.telemetry import Metrics, configure_logging, log_event
from traghetto.wire.schema import validator_for
from traghetto.workers.limits import WorkerLimits
from traghetto.workers.pool import Workers
from traghetto.workers.share import Share

Closing: TypeAlias = ModelPool | ImagePool | Policy

WORKER_IDLE_SECONDS_MAX: Final = 60.0
"""How long a worker process waits for the next image before it ends."""
SWEEP_SECONDS: Final = 5.0
FORGET_SECONDS: Final = 1.0
BETWEEN_SLICES_SECONDS: Final = 0.05
"""Thus answers leave faster than a process can make new ones, and charges go in between."""
UPSTREAM_RETRY_SECONDS: Final = 5.0
_RELOADED_SETTINGS: Final = frozenset(
    {"upstreams", "moderation", "first_event_seconds", "between_events_seconds", "total_seconds"}
)
"""What a reload takes up besides the models: servers, deadlines, and what is forbidden."""


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

    def __init__(
        self,
        launch: Launch,
        settings: Settings,
        store: Store,
        clock: Clock,
        roots: Iterable[Endpoint] = (),
    ) -> None:
        """`roots` are served below the root, beside the API."""
        self._launch = launch
        self._clock = clock
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.Task[Any]] = set()
        """The requests under way; a pool is closed only after those that may know it."""
        self._retired: set[Closing] = set()
        """Pools and policies that no new request meets, not closed yet."""
        self._reloading = asyncio.Lock()
        self._configuration = Configuration(settings)
        """The last one that was accepted."""
        self._seeking: asyncio.Task[None] | None = None
        """Waits for the upstreams that do not answer."""
        self.metrics = Metrics()
        self.stopped = asyncio.Event()
        """Set when the books can no longer be trusted: the process must end."""
        pepper_path = settings.pepper_file or settings.data_dir / PEPPER_FILE_NAME
        state = store.load(day_window(clock.utc_ns()))
        store.on_broken = self._stop
        self.directory = Directory(store, clock, open_pepper(pepper_path, store, state), state)
        self.book = Book(
            store,
            clock,
            state,
            overdraft=settings.overdraft,
            hold_seconds=settings.hold_seconds_max,
        )
        reports = SqliteReports(settings.data_dir, seconds_max=settings.report_seconds_max)
        # Operators have a place of their own: they do not wait behind the accounts.
        journal = SqliteReports(settings.data_dir, seconds_max=settings.report_seconds_max)
        self.administration = Administration(self.directory, self.book, journal)
        self._workers = Workers(
            WorkerLimits(memory_bytes_max=settings.media_worker_memory_bytes_max),
            processes_max=max(2, settings.media_workers_max),
            idle_seconds_max=WORKER_IDLE_SECONDS_MAX,
        )
        # An engine may take minutes; reading an image takes none, and never waits for an engine.
        engine_workers = Share(self._workers, processes_max=max(1, settings.media_workers_max - 1))
        self._builder = FleetBuilder(
            launch, clock, self.metrics, self.directory.account_count, engine_workers
        )
        self.services = Services(
            settings=settings,
            clock=clock,
            directory=self.directory,
            book=self.book,
            answers=Answers(
                store, clock, state.kept_bytes, kept_bytes_max=settings.kept_answers_bytes_max
            ),
            rates=_rate_limiter(settings, clock, launch),
            budget=FailedRequestBudget(
                clock,
                failed_requests_max=settings.failed_requests_max,
                unsupported_requests_max=settings.unsupported_requests_max,
                window_seconds=settings.failed_requests_window_seconds,
                block_seconds=settings.failed_requests_block_seconds,
                reset_style=settings.ratelimit_reset_style,
            ),
            calls=EndpointLimiter(clock),
            refusals=RefusalLog(),
            reports=reports,
            bodies=BodiesInFlight(settings.bodies_in_flight_bytes_max),
            media=_media(settings, self._workers),
            policy=policy_of(settings.moderation),
            fleet=EMPTY_FLEET,
        )
        self.metrics.watch(
            "traghetto_open_holds", "Requests that hold funds now.", lambda: self.book.open_holds
        )
        self.metrics.watch(
            "traghetto_media_workers",
            "Processes that decode and compute images, of `media_workers_max`, and two at least.",
            lambda: self._workers.processes,
        )
        self.metrics.watch(
            "traghetto_kept_answers_bytes",
            "Answers kept for idempotency keys, of `kept_answers_bytes_max`.",
            lambda: self.services.answers.kept_bytes,
        )
        self.dispatch = Dispatch(
            [self._noted(endpoint) for endpoint in endpoint_table(self.services)],
            EdgeServices(
                clock=clock,
                metrics=self.metrics,
                style=ErrorStyle(
                    settings.error_code_header,
                    settings.openai_error_objects,
                    settings.credits_url,
                ),
                readiness=self._readiness,
                authorise_metrics=self._authorise_metrics,
                access_log=settings.access_log,
            ),
            roots,
        )

    async def start(self, configuration: Configuration) -> Started:
        """Recover the books, build the models, and begin the background work."""
        settings = configuration.settings
        validator_for("ChatCompletionRequest")  # compiled now, not in the first request
        recovery = self.book.recover()
        if recovery.durable is not None:
            await recovery.durable
            log_event("warn", "holds_recovered", count=recovery.holds_voided)
        silent = await self._builder.ask(self._launch.upstreams)
        built = await self._builder.build(configuration, EMPTY_FLEET)
        self._serve(configuration, built)
        self._seek(silent)
        suggestions = await self._builder.suggestions(configuration)
        if not self._launch.is_lab:  # whose clock may be moved while requests hold funds
            self._spawn(self._sweep())
        self._spawn(self._forget_answers())
        warnings = [f"{upstream.url} does not answer yet; its models follow" for upstream in silent]
        if settings.durability == "normal":
            warnings.append(
                'durability = "normal": a power cut can lose the last charges; "full" cannot'
            )
        if self._builder.lacks_remover(configuration):
            warnings.append(NO_REMOVER_LINE)
        rewriter = settings.prompt_enhancement_model
        if rewriter and rewriter not in built.fleet.pools:
            warnings.append(f"no text model {rewriter!r} is served yet: prompts stay as they are")
        if networks := settings.media_fetch_allow_networks:
            listed = ", ".join(networks)
            warnings.append(f"images are also fetched from {listed}: who can ask, can reach them")
        # Last, because the key is shown once: nothing that can fail comes after it.
        admin_key = await self.administration.first_start()
        return Started(
            admin_key, built.models, built.free_line, tuple(suggestions), tuple(warnings)
        )

    async def cancel_requests(self) -> None:
        """End the requests under way, each with an answer that says that the gateway stops."""
        requests = set(self._requests)
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    async def aclose(self) -> None:
        """Stop the background work, then the backends, then the store."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with AsyncExitStack() as closing:  # all of them, also if one cannot be closed
            closing.push_async_callback(self._store.aclose)
            closing.push_async_callback(self._workers.aclose)
            closing.push_async_callback(self.services.policy.aclose)
            closing.push_async_callback(self.services.media.fetcher.aclose)
            for each in (*self.services.fleet.every_pool(), *self._retired):
                closing.push_async_callback(each.aclose)

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
                configuration.check_hold_seconds(self.services.settings.hold_seconds_max)
                policy = policy_of(configuration.settings.moderation)
                silent = await self._builder.ask(self._launch.upstreams)
                built = await self._builder.build(configuration, self.services.fleet)
            except (OSError, ValueError) as refusal:
                log_event("error", "reload_refused", reason=str(refusal))
                return
            self._serve(configuration, built)
            self._retire_later({self.services.policy})
            self.services.policy = policy
            self._seek(silent)
            log_event("info", "reloaded", count=len(built.models))
            if waiting := _changed_in_vain(configuration.settings, self.services.settings):
                log_event("warn", "settings_need_restart", reason=", ".join(waiting))

    def _serve(self, configuration: Configuration, built: Built) -> None:
        """New requests meet the fleet that was built; pools it has not kept are closed later."""
        before, self.services.fleet = self.services.fleet, built.fleet
        self._configuration = configuration
        self._retire_later(before.every_pool() - built.fleet.every_pool())

    def _retire_later(self, retired: Set[Closing]) -> None:
        if retired:
            self._retired |= retired
            self._spawn(self._retire(retired))

    def _seek(self, silent: Sequence[Upstream]) -> None:
        """From now on try `silent` upstreams again, and no others."""
        if self._seeking is not None:
            self._seeking.cancel()
        self._seeking = self._spawn(self._await_upstreams(silent)) if silent else None

    # Background work

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _noted(self, endpoint: Endpoint) -> Endpoint:
        """`endpoint`, its requests kept in `_requests` while they run."""
        requests, handle = self._requests, endpoint.handle

        async def noted(exchange: Exchange, parameter: str) -> None:
            task = asyncio.current_task()
            assert task is not None
            requests.add(task)
            try:
                await handle(exchange, parameter)
            finally:
                requests.discard(task)

        return replace(endpoint, handle=noted)

    async def _sweep(self) -> None:
        """End holds that have outlived their time."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if swept := self.book.sweep():
                log_event("error", "holds_expired", count=swept)

    async def _forget_answers(self) -> None:
        """Remove answers that were kept for their time, a few at once."""
        more = False
        while True:
            await asyncio.sleep(BETWEEN_SLICES_SECONDS if more else FORGET_SECONDS)
            more = self.services.answers.forget_expired()

    async def _await_upstreams(self, silent: Sequence[Upstream]) -> None:
        """Ask `silent` upstreams again until all have answered; serve what they list.

        The configuration stays the one that was last accepted: a file that was edited meanwhile
        waits for the operator's reload, which also ends this task.
        """
        while silent:
            await asyncio.sleep(UPSTREAM_RETRY_SECONDS)
            async with self._reloading:
                still_silent = await self._builder.ask(silent)
                if still_silent != silent:
                    await self._rebuild()
                silent = still_silent

    async def _rebuild(self) -> None:
        configuration = self._configuration
        try:
            built = await self._builder.build(configuration, self.services.fleet)
        except (OSError, ValueError) as refusal:
            log_event("error", "models_refused", reason=str(refusal))
            return
        self._serve(configuration, built)
        log_event("info", "models_found", count=len(built.models))

    async def _retire(self, retired: Set[Closing]) -> None:
        """Close what a reload has not kept, once every request from before has ended.

        Whether a request uses a pool cannot be asked of the pool: it may still be counting tokens
        or waiting for a place, and will call the pool later.
        """
        if self._requests:
            await asyncio.wait(set(self._requests))
        for pool in retired:
            await pool.aclose()
            self._retired.discard(pool)

    def _stop(self, reason: str) -> None:
        log_event("error", "store_broken", reason=reason)
        self.stopped.set()

    def _readiness(self) -> Readiness:
        return "ready" if self.book.healthy else "failing"

    def _authorise_metrics(self, exchange: Exchange) -> None:
        require_admin(self.services, exchange)


@asynccontextmanager
async def open_gateway(
    launch: Launch,
    configuration: Configuration,
    clock: Clock | None = None,
    roots: Iterable[Endpoint] = (),
) -> AsyncIterator[tuple[Gateway, Started]]:
    """A started gateway, closed when the context is left; `roots` are served beside the API.

    Raises ValueError or OSError, with a sentence for the operator, if it cannot start.
    """
    settings = configuration.settings
    clock = clock or SystemClock()
    configure_logging(settings.log_level, clock)
    store = SqliteStore(settings.data_dir, durability=settings.durability)
    try:
        gateway = Gateway(launch, settings, store, clock, roots)
    except BaseException:
        await store.aclose()
        raise
    try:
        started = await gateway.start(configuration)
        async with AsyncExitStack() as opened:
            if not launch.is_lab:  # which has a control of its own, and a folder of any length
                socket_path = settings.data_dir / SOCKET_NAME
                control = await serve_control(socket_path, gateway.administration)
                opened.push_async_callback(control.aclose)
            yield gateway, started
    finally:
        await gateway.aclose()


def _media(settings: Settings, workers: Workers) -> Media:
    """What reads images; raises ValueError for a network that is none."""
    return Media(
        ImageReader(
            workers,
            file_bytes_max=settings.image_bytes_max,
            seconds_max=settings.media_seconds_max,
        ),
        Fetcher(allow_networks=settings.media_fetch_allow_networks),
        image_bytes_max=settings.image_bytes_max,
        image_pixels_max=settings.image_pixels_max,
        fetch_seconds_max=settings.media_fetch_seconds_max,
    )


def _changed_in_vain(new: Settings, running: Settings) -> list[str]:
    """The settings that a reload has read and that only the next start will heed."""
    return [
        name
        for name in Settings.__struct_fields__
        if name not in _RELOADED_SETTINGS and getattr(new, name) != getattr(running, name)
    ]


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
