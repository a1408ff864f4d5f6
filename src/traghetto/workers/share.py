"""A share of a pool: for tasks that may take long, which leave room for those that do not."""

from __future__ import annotations

import asyncio
from typing import Any

from traghetto.workers.failures import WorkersBusy
from traghetto.workers.pool import Workers


class Share:
    """Runs tasks in the processes of a pool, in at most so many of them at once."""

    def __init__(self, workers: Workers, *, processes_max: int) -> None:
        """As long as the pool has more than `processes_max`, its other tasks find one."""
        if processes_max < 1:
            raise ValueError("a share has at least one process")
        self._workers = workers
        self._places = asyncio.Semaphore(processes_max)
        self._waiting = 0

    async def run(self, task: str, payload: Any, *, seconds_max: float) -> Any:
        """As `Workers.run`; for a place in the share a task waits as long as for a process.

        Raises what that raises.
        """
        await self._take_place()
        try:
            return await self._workers.run(task, payload, seconds_max=seconds_max)
        finally:
            self._places.release()

    async def _take_place(self) -> None:
        limits = self._workers.limits
        if self._places.locked() and self._waiting >= limits.tasks_waiting_max:
            raise WorkersBusy(f"{self._waiting} long tasks wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(limits.wait_seconds_max):
                await self._places.acquire()
        except TimeoutError:
            reason = f"no process was free for {limits.wait_seconds_max:g} s"
            raise WorkersBusy(reason) from None
        finally:
            self._waiting -= 1
