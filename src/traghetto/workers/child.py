"""One worker process, seen from the gateway: its start, our end of its socket, its end."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from traghetto.workers import frames, process
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


class Child:
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
    async def start(cls, limits: WorkerLimits) -> Child:
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
