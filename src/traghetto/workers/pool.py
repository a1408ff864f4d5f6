"""The pool: at most so many child processes, started when needed, each with one task at a time.

Invariants:
- A process that left a task in any other way than by answering it is killed: a late answer has
  nobody to go to.
- A place in the pool is free when its process is gone, and not before, so that the memory of all
  workers is bounded at every moment.
- If any task waits, no process is idle and no place is free. Principals take turns, and what each
  has to be done starts in the order in which it came.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

from traghetto.workers import frames, process
from traghetto.workers.child import Child
from traghetto.workers.failures import (
    TaskFailed,
    TaskRefused,
    TaskTimedOut,
    WorkerDied,
    WorkersBusy,
)
from traghetto.workers.limits import WorkerLimits
from traghetto.workers.turns import Turns


class Workers:
    """Runs tasks in processes with limits. One per gateway; belongs to one event loop."""

    def __init__(
        self, limits: WorkerLimits, *, processes_max: int, idle_seconds_max: float
    ) -> None:
        """No process is started before the first task; idle ones end after `idle_seconds_max`."""
        if processes_max < 1:
            raise ValueError("a pool has at least one process")
        self.limits: Final = limits
        self._processes_max = processes_max
        self._idle_seconds_max = idle_seconds_max
        self._idle: list[Child] = []
        self._waiting: Turns[Child | None] = Turns(limits.tasks_waiting_max)
        self._places_taken = 0
        self._children: set[Child] = set()
        self._is_offline: bool | None = None
        self._is_closed = False
        self._no_places_taken = asyncio.Event()
        self._no_places_taken.set()

    @property
    def processes(self) -> int:
        """How many processes there are, counting those that start or end just now."""
        return self._places_taken

    @property
    def is_offline(self) -> bool | None:
        """Whether the processes have no network; None before the first one has started."""
        return self._is_offline

    @property
    def process_ids(self) -> list[int]:
        """The ids of the processes that have started and not ended."""
        return [child.pid for child in self._children]

    async def run(self, task: str, payload: Any, *, seconds_max: float, principal: str = "") -> Any:
        """What the function `task`, `"traghetto.module:function"`, returns for `payload`.

        Both values are made of None, bool, int, float, str, bytes, lists and dicts (tuples arrive
        as lists). `seconds_max` counts from when a process has the task. `principal` is who takes
        turns where tasks wait: an account. Cancelling is safe: the process is killed.

        Raises TaskRefused, TaskFailed, WorkerDied, TaskTimedOut, WorkersBusy; ValueError or
        TypeError for a payload that cannot cross.
        """
        if not task.startswith(process.TASK_ROOT) or ":" not in task:
            raise ValueError("a task is a function of ours, `traghetto.module:function`")
        message = frames.pack([task, payload], self.limits.input_bytes_max)
        child = await self._take(principal)
        try:
            async with asyncio.timeout(seconds_max):
                answer = await child.ask(message)
        except TimeoutError:
            raise TaskTimedOut(f"{task} took more than {seconds_max:g} s") from None
        except (OSError, EOFError):
            raise WorkerDied(f"the process died in {task}") from None
        except frames.Malformed as error:
            raise WorkerDied(f"the process answered {task} with nonsense: {error}") from None
        finally:
            self._give_back(child)
        if answer[0] == process.RESULT:
            return answer[1]
        if answer[0] == process.REFUSED:
            raise TaskRefused(*answer[1:])
        raise TaskFailed(f"{task} failed: {answer[1]}")

    async def aclose(self) -> None:
        """Kill every process, and return when they are gone; further tasks are refused."""
        self._is_closed = True
        while (waiter := self._waiting.next()) is not None:
            waiter.set_exception(WorkersBusy("the workers are stopped"))
        for child in list(self._children):
            self._retire(child)
            child.kill()
        await self._no_places_taken.wait()

    async def _take(self, principal: str) -> Child:
        """A process without a task, for the caller alone until `_give_back`."""
        self._check_open()
        if self._idle:
            child: Child | None = self._idle.pop()
        elif self._places_taken < self._processes_max:
            self._places_taken += 1
            self._no_places_taken.clear()
            child = None
        else:
            child = await self._wait_for_turn(principal)
        if child is None:
            return await self._start()
        child.keep_running()
        if not child.is_fit(self.limits.tasks_per_process_max):
            child.close()  # it died on its way here
            return await self._take(principal)
        return child

    def _check_open(self) -> None:
        if self._is_closed:
            raise WorkersBusy("the workers are stopped")

    async def _wait_for_turn(self, principal: str) -> Child | None:
        """The process that has become free, or None with the place of one that has ended."""
        if self._waiting.is_full_for(principal):
            raise WorkersBusy(f"{len(self._waiting)} tasks wait already")
        turn = self._waiting.join(principal)
        seconds = self.limits.wait_seconds_max
        try:
            async with asyncio.timeout(seconds):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on(turn.result())  # it came at the moment in which we stopped waiting
            else:
                self._waiting.leave(principal, turn)
            if isinstance(error, TimeoutError):
                raise WorkersBusy(f"no process was free for {seconds:g} s") from None
            raise

    async def _start(self) -> Child:
        """A new process in a place that the caller has taken."""
        # Not every event loop tidies up after a start that is cancelled half-way; so none is.
        launching = asyncio.ensure_future(self._launch())
        try:
            child = await asyncio.shield(launching)
        except asyncio.CancelledError:
            launching.add_done_callback(_end_unwanted)
            raise
        try:
            self._check_open()
            async with asyncio.timeout(self.limits.start_seconds_max):
                await child.greet()
        except BaseException as error:
            child.kill()
            child.close()
            if isinstance(error, (OSError, EOFError, frames.Malformed)):  # a timeout is an OSError
                raise WorkersBusy("a process that was started did not come up") from None
            raise
        self._is_offline = child.is_offline
        return child

    async def _launch(self) -> Child:
        """A process that begins to start; its place becomes free when it is gone."""
        try:
            self._check_open()
            child = await Child.start(self.limits)
        except BaseException as error:
            self._pass_on(None)
            if isinstance(error, OSError):
                reason = os.strerror(error.errno or 0)
                raise WorkersBusy(f"no process could be started: {reason}") from None
            raise
        self._children.add(child)
        child.ending.add_done_callback(lambda _: self._bury(child))
        return child

    def _give_back(self, child: Child) -> None:
        """The caller of `_take` is done with `child`, with or without an answer from it."""
        if self._is_closed or not child.is_fit(self.limits.tasks_per_process_max):
            child.kill()  # its place becomes free when it is gone
            child.close()
            return
        self._pass_on(child)

    def _pass_on(self, child: Child | None) -> None:
        """`child`, or a free place, is for the task whose turn it is, if any waits."""
        if (turn := self._waiting.next()) is not None:
            turn.set_result(child)
            return
        if child is None:
            self._places_taken -= 1
            if self._places_taken == 0:
                self._no_places_taken.set()
        else:
            self._idle.append(child)
            child.end_after(self._idle_seconds_max, lambda: self._retire(child))

    def _retire(self, child: Child) -> None:
        if child in self._idle:
            self._idle.remove(child)
            child.kill()
            child.close()

    def _bury(self, child: Child) -> None:
        """`child` is gone, for whatever reason."""
        self._children.discard(child)
        self._retire(child)
        self._pass_on(None)


def _end_unwanted(launching: asyncio.Task[Child]) -> None:
    """Nobody waits any more for what has been started."""
    if not launching.cancelled() and launching.exception() is None:
        child = launching.result()
        child.kill()
        child.close()
