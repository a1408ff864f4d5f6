"""The pool: at most so many worker processes, started when needed, each with one task at a time.

Invariants:
- A process that left a task in any other way than by answering it is killed: a late answer has
  nobody to go to.
- A place in the pool is free when its process is gone, and not before, so that the memory of all
  workers is bounded at every moment.
- If any task waits, no process is idle and no place is free: tasks start in the order in which
  they came.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from traghetto.workers import frames, process
from traghetto.workers.failures import (
    TaskFailed,
    TaskRefused,
    TaskTimedOut,
    WorkerDied,
    WorkersBusy,
)
from traghetto.workers.limits import WorkerLimits

_PIECE_BYTES: Final = 256 * 1024
_JOINED_INLINE_BYTES_MAX: Final = 1 << 20
"""Longer segments are put together in a thread, where the copying does not hold the event loop."""
_INHERITED_VARIABLES: Final = ("PATH", "LD_LIBRARY_PATH")
_SET_VARIABLES: Final = {
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # arenas of threads would use up address space
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Workers:
    """Runs tasks in processes with limits. One per gateway; belongs to one event loop."""

    def __init__(
        self, limits: WorkerLimits, *, processes_max: int, idle_seconds_max: float
    ) -> None:
        """No process is started before the first task; idle ones end after `idle_seconds_max`."""
        if processes_max < 1:
            raise ValueError("a pool has at least one process")
        self._limits = limits
        self._processes_max = processes_max
        self._idle_seconds_max = idle_seconds_max
        self._idle: list[_Worker] = []
        self._waiting: deque[asyncio.Future[_Worker | None]] = deque()
        self._places_taken = 0
        self._workers: set[_Worker] = set()
        self._is_offline: bool | None = None
        self._is_closed = False

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
        return [worker.pid for worker in self._workers]

    async def run(self, task: str, payload: Any, *, seconds_max: float) -> Any:
        """What the function `task`, `"traghetto.module:function"`, returns for `payload`.

        Both values are made of None, bool, int, float, str, bytes, lists and dicts (tuples arrive
        as lists). `seconds_max` counts from when a process has the task. Cancelling is safe: the
        process is killed.

        Raises TaskRefused, TaskFailed, WorkerDied, TaskTimedOut, WorkersBusy; ValueError or
        TypeError for a payload that cannot cross.
        """
        if not task.startswith(process.TASK_ROOT) or ":" not in task:
            raise ValueError("a task is a function of ours, `traghetto.module:function`")
        message = frames.pack([task, payload], self._limits.input_bytes_max)
        worker = await self._take()
        try:
            async with asyncio.timeout(seconds_max):
                answer = await worker.ask(message)
        except TimeoutError:
            raise TaskTimedOut(f"{task} took more than {seconds_max:g} s") from None
        except (OSError, EOFError):
            raise WorkerDied(f"the process died in {task}") from None
        except frames.Malformed as error:
            raise WorkerDied(f"the process answered {task} with nonsense: {error}") from None
        finally:
            self._give_back(worker)
        if answer[0] == process.RESULT:
            return answer[1]
        if answer[0] == process.REFUSED:
            raise TaskRefused(*answer[1:])
        raise TaskFailed(f"{task} failed: {answer[1]}")

    async def aclose(self) -> None:
        """Kill every process, and return when they are gone; further tasks are refused."""
        self._is_closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(WorkersBusy("the workers are being stopped"))
        for worker in list(self._workers):
            self._retire(worker)
            worker.kill()
        if endings := [worker.ending for worker in self._workers]:
            await asyncio.wait(endings)

    async def _take(self) -> _Worker:
        """A process without a task, for the caller alone until `_give_back`."""
        if self._is_closed:
            raise WorkersBusy("the workers have been stopped")
        if self._idle:
            worker: _Worker | None = self._idle.pop()
        elif self._places_taken < self._processes_max:
            self._places_taken += 1
            worker = None
        else:
            worker = await self._wait_for_turn()
        if worker is None:
            return await self._start()
        worker.keep_running()
        if not worker.is_fit(self._limits.tasks_per_process_max):
            worker.close()  # it died on its way here
            return await self._take()
        return worker

    async def _wait_for_turn(self) -> _Worker | None:
        """The process that has become free, or None with the place of one that has ended."""
        if len(self._waiting) >= self._limits.tasks_waiting_max:
            raise WorkersBusy(f"{len(self._waiting)} tasks wait already")
        turn: asyncio.Future[_Worker | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        seconds = self._limits.wait_seconds_max
        try:
            async with asyncio.timeout(seconds):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on(turn.result())  # it came at the moment in which we stopped waiting
            elif turn in self._waiting:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise WorkersBusy(f"no process was free for {seconds:g} s") from None
            raise

    async def _start(self) -> _Worker:
        """A new process in a place that the caller has taken."""
        try:
            worker = await _Worker.start(self._limits)
        except BaseException as error:
            self._pass_on(None)
            if isinstance(error, OSError):
                reason = os.strerror(error.errno or 0)
                raise WorkersBusy(f"no process could be started: {reason}") from None
            raise
        self._workers.add(worker)
        worker.ending.add_done_callback(lambda _: self._bury(worker))
        try:
            async with asyncio.timeout(self._limits.start_seconds_max):
                await worker.greet()
        except BaseException as error:
            worker.kill()
            worker.close()
            if isinstance(error, (OSError, EOFError, frames.Malformed)):  # a timeout is an OSError
                raise WorkersBusy("a process that was started did not come up") from None
            raise
        self._is_offline = worker.is_offline
        return worker

    def _give_back(self, worker: _Worker) -> None:
        """The caller of `_take` is done with `worker`, with or without an answer from it."""
        if self._is_closed or not worker.is_fit(self._limits.tasks_per_process_max):
            worker.kill()  # its place becomes free when it is gone
            worker.close()
            return
        self._pass_on(worker)

    def _pass_on(self, worker: _Worker | None) -> None:
        """`worker`, or a free place, is for the task that has waited longest, if any does."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(worker)
                return
        if worker is None:
            self._places_taken -= 1
        else:
            self._idle.append(worker)
            worker.end_after(self._idle_seconds_max, lambda: self._retire(worker))

    def _retire(self, worker: _Worker) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
            worker.kill()
            worker.close()

    def _bury(self, worker: _Worker) -> None:
        """`worker` is gone, for whatever reason."""
        self._workers.discard(worker)
        self._retire(worker)
        self._pass_on(None)


class _Worker:
    """One process, and our end of its socket."""

    def __init__(
        self, running: asyncio.subprocess.Process, channel: socket.socket, limits: WorkerLimits
    ) -> None:
        self._running = running
        self._channel = channel
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._tasks = 0
        self._is_waiting_for_answer = False
        self._is_exhausted = False
        self._is_killed = False
        self._timer: asyncio.TimerHandle | None = None
        self.is_offline = False
        self.pid: Final = running.pid
        self.ending: Final = asyncio.ensure_future(running.wait())
        """Done when the process is gone."""

    @classmethod
    async def start(cls, limits: WorkerLimits) -> _Worker:
        """A process that begins to start; raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            running = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-B", "-m", process.__name__),
                *_arguments(theirs.fileno(), limits),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(running, ours, limits)

    async def greet(self) -> None:
        """Return when the process is ready; raises OSError, EOFError, Malformed."""
        match await self._read_message():
            case [process.READY, bool(is_offline)]:
                self.is_offline = is_offline
            case _:
                raise frames.Malformed("a process began with something else than its greeting")

    async def ask(self, message: frames.Message) -> list[Any]:
        """The answer to `message`: a status of `process`, and what belongs to it.

        Raises OSError or EOFError when the process has died, Malformed when it talks nonsense.
        """
        self._tasks += 1
        self._is_waiting_for_answer = True
        head, segments = message
        await self._loop.sock_sendall(self._channel, head)
        for segment in segments:
            await self._loop.sock_sendall(self._channel, segment)
        answer: list[Any] = await self._read_message()
        match answer:
            case [process.RESULT, _] | [process.REFUSED, str(), str()]:
                pass
            case [(process.FAILED | process.EXHAUSTED), str()]:
                pass
            case _:
                raise frames.Malformed("an answer has another form than answers have")
        self._is_waiting_for_answer = False
        self._is_exhausted = answer[0] == process.EXHAUSTED
        return answer

    def is_fit(self, tasks_max: int) -> bool:
        """Whether it can have another task."""
        return not (
            self._is_waiting_for_answer
            or self._is_exhausted
            or self._is_killed
            or self.ending.done()
            or self._tasks >= tasks_max
        )

    def end_after(self, seconds: float, end: Callable[[], None]) -> None:
        """Call `end` in `seconds`, unless `keep_running` is called before."""
        self._timer = self._loop.call_later(seconds, end)

    def keep_running(self) -> None:
        """It has something to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def kill(self) -> None:
        """End it now, whatever it does; also when it has ended already."""
        self.keep_running()
        if self._is_killed:
            return
        self._is_killed = True
        if not self.ending.done():
            with suppress(ProcessLookupError):
                self._running.kill()

    def close(self) -> None:
        """Close our end of the socket. Only for who has the process: nothing may be reading it."""
        self._channel.close()

    async def _read_message(self) -> Any:
        prefix = await self._read(frames.PREFIX.size)
        length = frames.PREFIX.unpack(prefix)[0]
        if length > frames.HEAD_BYTES_MAX:
            raise frames.Malformed("the head of a message is too large")
        head = await self._read(length)
        lengths = frames.segment_lengths(head, self._limits.result_bytes_max)
        segments = [await self._read(length) for length in lengths]
        return frames.unpack(head, segments)

    async def _read(self, length: int) -> bytes:
        pieces = []
        rest = length
        while rest > 0:
            piece = await self._loop.sock_recv(self._channel, min(rest, _PIECE_BYTES))
            if not piece:
                raise EOFError
            pieces.append(piece)
            rest -= len(piece)
        if length > _JOINED_INLINE_BYTES_MAX:
            return await asyncio.to_thread(b"".join, pieces)
        return b"".join(pieces)


def _arguments(descriptor: int, limits: WorkerLimits) -> list[str]:
    """The command line that `process.main` reads."""
    numbers = (
        descriptor,
        os.getpid(),
        limits.memory_bytes_max,
        limits.files_open_max,
        limits.niceness,
        limits.input_bytes_max,
        limits.result_bytes_max,
    )
    return list(map(str, numbers))


def _environment() -> dict[str, str]:
    """All that a worker learns of the gateway's environment, which can hold secrets."""
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return inherited | _SET_VARIABLES
