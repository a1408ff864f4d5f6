"""A share of a pool: for tasks that may take long, which leave room for those that do not."""

from __future__ import annotations

import asyncio
from typing import Any

from traghetto.workers.failures import WorkersBusy
from traghetto.workers.pool import Workers
from traghetto.workers.turns import Turns


class Share:
    """Runs tasks in the processes of a pool, in at most so many of them at once."""

    def __init__(self, workers: Workers, *, processes_max: int) -> None:
        """As long as the pool has more than `processes_max`, its other tasks find one."""
        if processes_max < 1:
            raise ValueError("a share has at least one process")
        self._workers = workers
        self._places_free = processes_max
        self._waiting: Turns[None] = Turns(workers.limits.tasks_waiting_max)

    async def run(self, task: str, payload: Any, *, seconds_max: float, principal: str = "") -> Any:
        """As `Workers.run`; for a place in the share a task waits as long as for a process, and
        principals take turns there as well.

        Raises what that raises.
        """
        await self._take_place(principal)
        try:
            return await self._workers.run(
                task, payload, seconds_max=seconds_max, principal=principal
            )
        finally:
            self._give_back()

    async def _take_place(self, principal: str) -> None:
        if self._places_free:
            self._places_free -= 1
            return
        if self._waiting.is_full_for(principal):
            raise WorkersBusy(f"{len(self._waiting)} long tasks wait already")
        seconds = self._workers.limits.wait_seconds_max
        turn = self._waiting.join(principal)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as end:
            if turn.done() and not turn.cancelled():
                self._give_back()  # the place came in the same moment: somebody else has it
            else:
                self._waiting.leave(principal, turn)
            if isinstance(end, TimeoutError):
                raise WorkersBusy(f"no process was free for {seconds:g} s") from None
            raise

    def _give_back(self) -> None:
        """Whoever has waited for it gets the place at once."""
        turn = self._waiting.next()
        if turn is None:
            self._places_free += 1
        else:
            turn.set_result(None)
