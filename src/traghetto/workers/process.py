"""The worker process: reads a task, runs it, answers, until its socket closes.

Started by the pool as `python -I -B -m traghetto.workers.process`. Nothing but the socket carries
messages, so that a library that prints cannot corrupt them.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

from traghetto.workers.confinement import close_descriptors_but, confine
from traghetto.workers.frames import PREFIX, pack, segment_lengths, unpack
from traghetto.workers.task import Refusal

RESULT: Final = "result"
REFUSED: Final = "refused"
FAILED: Final = "failed"
EXHAUSTED: Final = "exhausted"
"""Like FAILED, and the process is fit for nothing more."""
READY: Final = "ready"

TASK_ROOT: Final = "traghetto."


def main(arguments: list[str]) -> None:
    """Serve tasks on the socket whose descriptor is the first argument."""
    descriptor, parent, memory, files, niceness, input_bytes_max, result_bytes_max = map(
        int, arguments
    )
    close_descriptors_but(descriptor)
    is_offline = confine(
        parent=parent, memory_bytes_max=memory, files_open_max=files, niceness=niceness
    )
    with socket.socket(fileno=descriptor) as channel:
        _send(channel, [READY, is_offline], result_bytes_max)
        while (message := _receive(channel, input_bytes_max)) is not None:
            answer = _run(*message)
            message = None
            try:
                _send(channel, answer, result_bytes_max)
            except (ValueError, TypeError) as error:
                answer = [FAILED, f"the result cannot be sent: {error}"]
                _send(channel, answer, result_bytes_max)
            if answer[0] == EXHAUSTED:
                return


def _run(task: str, payload: Any) -> list[Any]:
    try:
        return [RESULT, _function(task)(payload)]
    except Refusal as refusal:
        return [REFUSED, refusal.kind, refusal.reason]
    except MemoryError:
        return [EXHAUSTED, "MemoryError"]
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises is an answer here
        return [FAILED, f"{type(error).__name__} at {_site(error)}"]


def _function(task: str) -> Callable[[Any], Any]:
    module, _, name = task.partition(":")
    if not module.startswith(TASK_ROOT):
        raise LookupError("not a task of ours")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


def _site(error: BaseException) -> str:
    """Where `error` came out of our own code, as `file:line`; its text is not ours to repeat."""
    site = "an unknown place"
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith(TASK_ROOT):
            site = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return site


def _send(channel: socket.socket, value: Any, bytes_max: int) -> None:
    head, segments = pack(value, bytes_max)
    channel.sendall(head)
    for segment in segments:
        channel.sendall(segment)


def _receive(channel: socket.socket, bytes_max: int) -> Any:
    """The next message; None when the gateway has closed the socket, or is gone."""
    try:
        length = PREFIX.unpack(_read(channel, PREFIX.size))[0]
        head = _read(channel, length)
        segments = [_read(channel, length) for length in segment_lengths(head, bytes_max)]
    except (ConnectionError, EOFError):
        return None
    return unpack(head, segments)


def _read(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            raise EOFError
        view = view[count:]
    return bytes(data)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # nothing is to be tidied up, and libraries that crash in their finalizers exist
