"""One run of the gateway: the product's parts over a simulated disk, backends and clients.

Everything between the ASGI application and the store is the product's own. Two parts are watched:
the disk notes what it commits, and the book which holds it gave.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Iterable
from typing import Any

from simulation.client import Connection, scope_of
from simulation.history import ClientLog, History, HoldLog
from simulation.loop import SimulatedClock
from simulation.scenario import MODELS, PEPPER, RequestPlan
from simulation.upstream import Load, SimulatedBackend
from traghetto.accounts.administration import Administration, OperationRefused
from traghetto.accounts.directory import Directory
from traghetto.catalog.catalog import Catalog
from traghetto.endpoints.chat import chat_endpoint
from traghetto.engines.breaker import SINGLE_USER
from traghetto.engines.pool import ModelPool, Replica
from traghetto.engines.protocols import Deadlines
from traghetto.errors import ErrorCode
from traghetto.http.dispatch import Dispatch, EdgeServices
from traghetto.idempotency.answers import Answers
from traghetto.ledger.book import Book, Hold, day_window
from traghetto.limits.budget import FailedRequestBudget
from traghetto.limits.concurrency import Gate
from traghetto.limits.endpoints import EndpointLimiter
from traghetto.limits.rates import RateLimiter
from traghetto.limits.refusals import RefusalLog
from traghetto.limits.windows import WINDOW_SECONDS
from traghetto.moderation import Policy
from traghetto.money import Currency, LimitPeriod, SpendLimits
from traghetto.pipeline.services import Fleet, Services
from traghetto.pipeline.stages.receive import BodiesInFlight
from traghetto.settings import RateNumbers, Settings
from traghetto.storage.connector import StoreBroken
from traghetto.storage.facts import Fact, HoldOpened, UsageRecorded
from traghetto.storage.memory import MemoryDisk, MemoryStore
from traghetto.telemetry import Metrics

CATALOG = Catalog(MODELS)
NO_REPORTS: Any = None
"""Nobody asks for a report in a simulation."""
NO_MEDIA: Any = None
"""Nobody sends an image in one."""
METRICS = Metrics()
IN_TURN = (Currency.DIEM, Currency.BUNDLED_CREDITS, Currency.USD)
DEADLINES = Deadlines(first_event_seconds=6.0, between_events_seconds=2.0, total_seconds=8.0)
HEADERS = {model.id: ((b"x-venice-model-id", model.id.encode()),) for model in MODELS}
SETTINGS = {
    overdraft: Settings(
        overdraft=overdraft,
        total_seconds=DEADLINES.total_seconds,
        hold_seconds_max=60,
        stream_ping_seconds=0.5,
        failed_requests_max=4,
    )
    for overdraft in ("last", "never")
}


class WatchedDisk(MemoryDisk):
    """A disk that notes which holds and charges it has."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._history = history

    def write(self, facts: Iterable[Fact]) -> None:
        facts = list(facts)
        try:
            super().write(facts)
        except StoreBroken as refusal:
            self._history.trouble(f"{refusal}")
            raise
        history = self._history
        moment = history.note("commit", "disk", len(facts))
        for fact in facts:
            if isinstance(fact, UsageRecorded):
                history.usages_committed[fact.request_id] = moment.number
                history.note("charged", fact.request_id, fact.charged)
            elif isinstance(fact, HoldOpened):
                history.holds_committed[fact.request_id] = moment.number


class WatchedBook(Book):
    """A book that notes which holds it gave."""

    history: History
    run: int

    def reserve(self, **request: Any) -> Hold:
        hold = super().reserve(**request)
        self.history.note("hold", hold.request_id, hold.amount_nano_usd, hold.currency.value)
        self._note_out_of_turn(hold, request["limits"], request["least_nano_usd"])
        self.history.holds[hold.request_id] = HoldLog(
            hold, request["upper_bound_nano_usd"], self.run
        )
        self._note_uncovered(hold)
        return hold

    def extend_hold(self, hold: Hold, nano_usd: int) -> bool:
        granted = super().extend_hold(hold, nano_usd)
        if not granted:
            self.history.holds[hold.request_id].extension_refused = True
        elif not (hold.exclusive_fund or hold.exclusive_limit):
            self._note_uncovered(hold)
        return granted

    def _note_out_of_turn(self, hold: Hold, limits: SpendLimits, least: int) -> None:
        """DIEM is spent before bundled credits, and those before USD, if there is enough of it."""
        funds = {fund.currency: fund for fund in self._holdings.own(hold.account_id).in_order}
        for currency in IN_TURN[: IN_TURN.index(hold.currency)]:
            if currency not in funds or funds[currency].spare() < least:
                continue
            is_diem = currency is Currency.DIEM
            limit = limits.diem_nano_usd if is_diem else limits.usd_nano_usd
            counted = Currency.DIEM if is_diem else Currency.USD
            tallies = self._holdings.of_key(hold.key_id, counted, hold.key_window)
            if limit is None or tallies.of(limits.period).spare(limit) >= least:
                self.history.trouble(f"{hold.request_id} left {currency} and took {hold.currency}")

    def _note_uncovered(self, hold: Hold) -> None:
        """What is held must be there when it is taken; what is charged later may exceed it."""
        fund, limit, tally = hold.fund, hold.key_limit, hold.limit_tally
        if fund.held > fund.balance:
            self.history.trouble(f"{fund.held} held of {fund.balance} that {hold.account_id} owns")
        if limit is not None and tally.held + tally.spent > limit:
            self.history.trouble(f"{tally.held} held of a limit of {limit}")


class GatewayRun:
    """The gateway from a start to its end by a crash, a stop, or the end of the scenario."""

    def __init__(
        self,
        number: int,
        disk: MemoryDisk,
        clock: SimulatedClock,
        rng: random.Random,
        history: History,
    ) -> None:
        self.number = number
        self.is_up = False
        self._history = history
        self._rng = rng
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: list[Connection] = []
        self.broke = asyncio.Event()
        """Set when the disk fails: an operator will start the gateway again."""
        self.today = ""
        self.remembered: dict[tuple[str, Currency], int] = {}
        self.remembered_spending: dict[tuple[str, LimitPeriod, Currency], int] = {}
        scenario = history.scenario
        self.store = MemoryStore(
            disk, commit_seconds=self._commit_seconds, commit_fails=self._commit_fails
        )
        state = self.store.load(day_window(clock.utc_ns()))
        settings = SETTINGS[scenario.overdraft]
        self.book = WatchedBook(
            self.store,
            clock,
            state,
            overdraft=scenario.overdraft,
            hold_seconds=settings.hold_seconds_max,
        )
        self.book.history, self.book.run = history, number
        self._fleet = self._build_fleet(clock)
        numbers = RateNumbers(scenario.requests_per_minute, 50_000)
        directory = Directory(self.store, clock, PEPPER, state)
        self._disk = disk
        self._administration = Administration(directory, self.book, disk)
        self._services = Services(
            settings=settings,
            clock=clock,
            directory=directory,
            book=self.book,
            answers=Answers(
                self.store, clock, state.kept_bytes, kept_bytes_max=scenario.kept_bytes_max
            ),
            rates=RateLimiter(clock, own_numbers={"xs": numbers}),
            budget=FailedRequestBudget(clock, failed_requests_max=settings.failed_requests_max),
            calls=EndpointLimiter(clock),
            refusals=RefusalLog(),
            reports=NO_REPORTS,
            bodies=BodiesInFlight(settings.bodies_in_flight_bytes_max),
            media=NO_MEDIA,
            policy=Policy(),
            fleet=self._fleet,
        )
        edge = EdgeServices(clock=clock, metrics=METRICS)
        self._application = Dispatch([chat_endpoint(self._services)], edge)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Of the requests that are not over, oldest first."""
        return [task for task in self._tasks if not task.done()]

    async def start(self) -> None:
        """Recover the books of the run before; raises StoreBroken if the disk fails at once."""
        self._history.note("start", "gateway", self.number)
        recovery = self.book.recover()
        if recovery.durable is not None:
            await recovery.durable
        self.is_up = True

    def serve(self, request_id: str, plan: RequestPlan) -> None:
        """A client connects."""
        history = self._history
        how = ["stream" if plan.stream else "whole"]
        if plan.idempotency_key is not None:
            how.append(plan.idempotency_key)
        arrived = history.note("request", request_id, plan.model, *how)
        log = history.clients[request_id] = ClientLog(plan, request_id, self.number, arrived)
        connection = Connection(log, history)
        self._connections.append(connection)
        connection.open()
        scope = scope_of(plan, history.scenario.keys, connection)
        work = self._application(scope, connection.receive, connection.send)
        # The application names a request after its task (see `world`).
        task = asyncio.get_running_loop().create_task(work, name=request_id)
        self._tasks.append(task)

    def refund(self, lot: float) -> None:
        """An operator gives one of the charges back that are in the books."""
        charged = [usage.request_id for usage in self._disk.usages() if usage.charged]
        if charged:
            chosen = charged[int(lot * len(charged))]
            work = self._refund(chosen)
            self._tasks.append(asyncio.get_running_loop().create_task(work, name="refund"))

    def keep_up(self) -> None:
        """What the gateway does now and then."""
        self._history.note("upkeep", "gateway")
        self._services.answers.forget_expired()

    async def _refund(self, request_id: str) -> None:
        order = {"request": request_id, "reason": "simulated"}
        try:
            await self._administration.perform("ledger.refund", order)
        except (OperationRefused, StoreBroken) as refusal:
            self._history.note("refund", request_id, type(refusal).__name__)
        else:
            self._history.refunded.add(request_id)
            self._history.note("refund", request_id, "done")

    def crash(self, *, commit_survives: bool) -> None:
        """The process dies at once; nothing that its tasks still do reaches anybody."""
        self._history.note("crash", "gateway", self.number)
        self._history.ended_runs.add(self.number)
        self.is_up = False
        self.store.crash(commit_survives=commit_survives)
        self._disconnect()

    async def stop(self) -> None:
        """The process stops, and has no patience: what is open is cancelled and settled."""
        self._history.stopped_runs[self.number] = self._history.note("stop", "gateway", self.number)
        self.is_up = False
        tasks = self.tasks
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._disconnect()
        await self.store.aclose()
        self._note_leftovers()

    async def rest(self, seconds_max: float) -> None:
        """Wait for every answer, then for the disk; nothing may be left then.

        What the book believes the accounts own is noted, to be compared with the disk.
        """
        tasks = self.tasks
        if tasks:
            _, unanswered = await asyncio.wait(tasks, timeout=seconds_max)
            for task in unanswered:
                self._history.trouble(f"{task.get_name()} is not over after {seconds_max} s")
                task.cancel()
        self.remembered_spending = {
            (key.id, period, currency): amount
            for key in self._history.scenario.keys
            for period in LimitPeriod
            for currency, amount in self.book.spent(key.id, period).items()
        }
        self.today = self.book.today()
        self.remembered = {
            (account.id, currency): amount
            for account in self._history.scenario.accounts
            for currency, amount in self.book.balances(account.id).items()
        }
        await self.store.aclose()
        self._note_leftovers()

    def rate_windows(self) -> dict[tuple[int, str, str], tuple[float, int]]:
        """What the rate limiter counted in windows that began in this run."""
        return {
            (self.number, account, model): (window.end - WINDOW_SECONDS, window.tokens)
            for (account, model), window in self._services.rates._windows.by_name.items()
        }

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.cut()
        for task in self.tasks:
            task.cancel()

    def _note_leftovers(self) -> None:
        """What a gateway without requests must not have: holds, slots, calls, bodies, claims."""
        trouble = self._history.trouble
        if self.book.open_holds:
            trouble(f"{self.book.open_holds} holds are left in run {self.number}")
        for account in self._history.scenario.accounts:
            for fund in self.book._holdings.own(account.id).in_order:
                if fund.held or fund.exclusive:
                    trouble(f"{account.id} still holds {fund.held} of its {fund.currency}")
        for model, gate in self._fleet.gates.items():
            if gate.active or gate.waiting:
                trouble(f"{gate.active} places at {model} are still taken")
        for pool in self._fleet.pools.values():
            for member in pool.members:
                if member.outstanding:
                    trouble(f"{member.name} is thought to have {member.outstanding} calls")
        if self._services.bodies.bytes:
            trouble("bodies of requests are still counted")
        if claims := self._services.answers._claims:
            trouble(f"{len(claims)} claims are left in run {self.number}")
        self._note_kept_bytes()

    def _note_kept_bytes(self) -> None:
        """Kept answers are counted, and have room."""
        on_disk = sum(len(answer.sealed or b"") for answer in self._disk._answers.values())
        counted, bound = self._services.answers._bytes, self._history.scenario.kept_bytes_max
        if not on_disk <= min(counted, bound):
            self._history.trouble(f"{on_disk} bytes are kept, {counted} counted, of {bound}")

    def _build_fleet(self, clock: SimulatedClock) -> Fleet:
        scenario = self._history.scenario
        pools, gates = {}, {}
        for model in MODELS:
            load = Load(scenario.concurrency_max)
            replicas = [
                Replica(
                    SimulatedBackend(
                        f"{model.id}-{number}",
                        model=model.id,
                        run=self.number,
                        load=load,
                        rng=self._rng,
                        history=self._history,
                    )
                )
                for number in range(scenario.replicas)
            ]
            pools[model.id] = ModelPool(
                model.id,
                replicas,
                deadlines=DEADLINES,
                clock=clock,
                rng=self._rng,
                guard=lambda: SINGLE_USER,
            )
            gates[model.id] = Gate(
                clock,
                concurrency_max=scenario.concurrency_max,
                queue_max=scenario.queue_max,
                queue_seconds_max=1.0,
            )
        return Fleet(CATALOG, pools, {}, gates, HEADERS)

    def _commit_seconds(self) -> float:
        return self._rng.random() * self._history.scenario.commit_seconds_max

    def _commit_fails(self) -> bool:
        if self._rng.random() >= self._history.scenario.commit_failure:
            return False
        place = self._history.note("disk fails", "disk").number
        self._history.failed_runs.setdefault(self.number, place)
        self._history.ended_runs.add(self.number)
        self.broke.set()
        return True


def watched_failures(history: History) -> Any:
    """What the application calls to log a failure; only those of a broken disk may be unknown."""

    def log_failure(level: str, *, code: str, request_id: str, error: Exception, **_: Any) -> None:
        history.note("logged", request_id, code)
        run = history.clients[request_id].run
        if code == ErrorCode.UNKNOWN_ERROR.name and run not in history.ended_runs:
            cause = error.__cause__ or error
            where = "".join(traceback.format_exception(cause)[-3:])
            history.trouble(f"{request_id} failed for no known reason: {where}")

    return log_failure
