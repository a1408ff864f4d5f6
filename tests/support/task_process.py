"""Workers for the tests of what runs in workers: a process per task, with a bound on its memory.

A stand-in for `traghetto.workers`, which has tests of its own and starts slower; it is as strict
in what may cross, and reports as the real one does.
"""

from __future__ import annotations

import asyncio
import importlib
import resource
import sys
from typing import Any

import msgspec

from traghetto.workers.failures import TaskFailed, TaskRefused, TaskTimedOut, WorkerDied
from traghetto.workers.task import Refusal

MEMORY_BYTES_MAX = 1_610_612_736


class TaskProcesses:
    """Runs each task in a fresh process."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        """What was asked for, in order."""

    async def run(self, task: str, payload: Any, *, seconds_max: float, principal: str = "") -> Any:
        self.tasks.append(task)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            __file__,
            task,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd="/",
        )
        try:
            async with asyncio.timeout(seconds_max):
                answer, _ = await process.communicate(msgspec.msgpack.encode(payload))
        except TimeoutError:
            raise TaskTimedOut(f"{task} took more than {seconds_max:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise WorkerDied(f"the process died in {task}")
        outcome, *values = msgspec.msgpack.decode(answer)
        if outcome == "refused":
            raise TaskRefused(*values)
        if outcome == "failed":
            raise TaskFailed(f"{task} failed: {values[0]}")
        return values[0]


def _main(task: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    module, _, name = task.partition(":")
    payload = msgspec.msgpack.decode(sys.stdin.buffer.read())
    try:
        answer = ["result", getattr(importlib.import_module(module), name)(payload)]
    except Refusal as refusal:
        answer = ["refused", refusal.kind, refusal.reason]
    except Exception as error:
        answer = ["failed", type(error).__name__]
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    _main(sys.argv[1])
