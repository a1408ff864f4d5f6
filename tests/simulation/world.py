"""Runs a seed: the scenario it stands for, on a loop of its own, up to the last answer."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from unittest import mock

from simulation.gateway import GatewayRun, WatchedDisk, watched_failures
from simulation.history import Books, History
from simulation.loop import NothingLeft, SimulatedClock, SimulatedLoop
from simulation.oracles import violations
from simulation.scenario import Outage, RequestPlan, Scenario, draw_scenario, with_repetitions
from traghetto.http import dispatch
from traghetto.ledger.verify import verify
from traghetto.pipeline.stages import reserve, settle
from traghetto.storage.connector import StoreBroken

PATIENCE_SECONDS = 120.0
"""Longer than every deadline, queue and slow reader together."""
SLICE_TOKENS = 8
"""Holds that grow while they are used grow in smaller steps here, because answers are short."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    history: History
    violations: list[str]

    def report(self) -> str:
        """For people: what is wrong, and everything that happened."""
        wrong = "\n".join(f"  {violation}" for violation in self.violations)
        trace = "\n".join(self.history.lines())
        return f"seed {self.seed}:\n{wrong}\n{self.history.scenario}\n{trace}"


def simulate(seed: int) -> Outcome:
    """Run a seed and ask the oracles.

    Even seeds are the scenarios in which clients repeat themselves. Odd ones are those that they
    have always been, so that a seed that once failed still means the same.
    """
    rng = random.Random(seed)
    scenario = draw_scenario(rng)
    if seed % 2 == 0:
        scenario = with_repetitions(scenario, random.Random(f"repetitions of {seed}"))
    loop = SimulatedLoop(random.Random(rng.getrandbits(64)))
    history = History(scenario, loop.time)
    world = _World(scenario, loop, random.Random(rng.getrandbits(64)), history)
    with (
        mock.patch.object(dispatch, "new_request_id", _name_of_task),
        mock.patch.object(dispatch, "log_failure", watched_failures(history)),
        mock.patch.object(settle, "OUTPUT_SLICE_TOKENS", SLICE_TOKENS),
        mock.patch.object(reserve, "OUTPUT_SLICE_TOKENS", SLICE_TOKENS),
    ):
        try:
            loop.run_until_complete(world.run())
        except NothingLeft:
            history.trouble("everybody waits for somebody else")
        world.end()
    for complaint in loop.complaints:
        history.trouble(complaint)
    return Outcome(seed, history, violations(history))


def _name_of_task() -> str:
    """Requests are numbered in the order of their arrival, the same in every run of a seed."""
    task = asyncio.current_task()
    assert task is not None, "requests are served in tasks"
    return task.get_name()


class _World:
    """The course of events outside the gateway."""

    def __init__(
        self, scenario: Scenario, loop: SimulatedLoop, rng: random.Random, history: History
    ) -> None:
        self._scenario = scenario
        self._loop = loop
        self._rng = rng
        self._history = history
        self._clock = SimulatedClock(loop, scenario.utc_ns)
        self._disk = WatchedDisk(history)
        self._runs: list[GatewayRun] = []
        self._requests = 0

    async def run(self) -> None:
        """From the first start to the rest after the last answer."""
        scenario, loop = self._scenario, self._loop
        began = loop.time()
        self._disk.write(scenario.initial_facts())
        await self._start()
        times = [0.0]
        for plan in scenario.requests:
            loop.call_later(plan.at, self._arrive, plan)
            times.append(plan.at)
        for at, account, nano_usd in scenario.top_ups:
            loop.call_later(at, self._top_up, account, nano_usd)
            times.append(at)
        for at, seconds in scenario.clock_steps:
            loop.call_later(at, self._set_clock, seconds)
        for at, lot in scenario.refunds:
            loop.call_later(at, self._refund, lot)
            times.append(at)
        for at in scenario.upkeeps:
            loop.call_later(at, self._keep_up)
            times.append(at)
        for outage in sorted(scenario.outages, key=lambda outage: outage.at):
            await self._serve_until(began + outage.at)
            await self._suffer(outage)
        await self._serve_until(began + max(times) + 0.1)
        await self._current.rest(PATIENCE_SECONDS)
        while self._current.broke.is_set():
            await self._restart_broken()
            await self._current.rest(PATIENCE_SECONDS)
        if dying := [task for run in self._runs for task in run.tasks]:
            await asyncio.wait(dying, timeout=PATIENCE_SECONDS)

    def end(self) -> None:
        """Read the books, once nothing moves any more."""
        disk = self._disk
        self._history.books = Books(
            entries=tuple(disk.entries()),
            usages={usage.request_id: usage for usage in disk.usages()},
            balances=tuple(disk.balances()),
            holds=tuple(disk.holds()),
            differences=tuple(map(str, verify(disk).differences)),
            today=self._current.today,
            remembered=self._current.remembered,
            remembered_spending=self._current.remembered_spending,
            rate_windows=self._current.rate_windows(),
        )

    @property
    def _current(self) -> GatewayRun:
        return self._runs[-1]

    async def _start(self) -> None:
        while True:
            run = GatewayRun(len(self._runs), self._disk, self._clock, self._rng, self._history)
            self._runs.append(run)
            try:
                await run.start()
            except StoreBroken:
                run.crash(commit_survives=False)
            else:
                return

    async def _serve_until(self, time: float) -> None:
        """Let things happen until `time`; an operator restarts a gateway whose disk failed."""
        while self._loop.time() < time:
            try:
                async with asyncio.timeout_at(time):
                    await self._current.broke.wait()
            except TimeoutError:
                return
            await asyncio.sleep(self._rng.random() * 0.3)
            await self._restart_broken()

    async def _restart_broken(self) -> None:
        self._current.crash(commit_survives=False)
        await self._start()

    async def _suffer(self, outage: Outage) -> None:
        if outage.kind == "crash":
            self._current.crash(commit_survives=outage.commit_survives)
        else:
            await self._current.stop()
        await asyncio.sleep(outage.down_seconds)
        await self._start()

    def _arrive(self, plan: RequestPlan) -> None:
        self._requests += 1
        request_id = f"r{self._requests}"
        if self._current.is_up:
            self._current.serve(request_id, plan)
        else:
            self._history.note("refused", request_id)

    def _set_clock(self, seconds: float) -> None:
        self._history.note_clock(seconds)
        self._clock.step_utc(seconds)

    def _top_up(self, account: str, nano_usd: int) -> None:
        if self._current.is_up:
            self._history.note("top-up", account, nano_usd)
            self._current.book.credit(account, nano_usd, reason="simulated")

    def _refund(self, lot: float) -> None:
        if self._current.is_up:
            self._current.refund(lot)

    def _keep_up(self) -> None:
        if self._current.is_up:
            self._current.keep_up()
