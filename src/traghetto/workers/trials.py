"""Tasks that try what a worker must not be able to do, or must survive.

For tests, and for finding out what holds on a machine: none of them is ever run on a caller's
behalf.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from pathlib import Path
from typing import Any

from traghetto.workers.task import Refusal


def echo(value: Any) -> Any:
    """Answer `value`."""
    return value


def about(_: None) -> dict[str, Any]:
    """What the process knows of itself."""
    return {
        "pid": os.getpid(),
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),  # noqa: PTH208 - one by one
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "modules": sorted(sys.modules),
        "path": sys.path,
        "status": Path("/proc/self/status").read_text(),
    }


def refuse(reason: str) -> None:
    """Refuse for `reason`."""
    raise Refusal("trial", reason)


def fail(text: str) -> None:
    """Raise an exception with `text`, which must not get out."""
    raise RuntimeError(text)


def take_memory(count: int) -> int:
    """Touch `count` bytes, and answer how many they were."""
    return len(b"\1" * count)


def spin(_: None) -> None:
    """Compute for ever."""
    while True:
        pass


def crash(_: None) -> None:
    """Read from where nothing is."""
    ctypes.string_at(0)


def leave(status: int) -> None:
    """End the process."""
    os._exit(status)


def write_file(path: str) -> int:
    """Write a byte to a new file."""
    return Path(path).write_bytes(b"x")


def open_files(count: int) -> int:
    """Open so many files at once."""
    return len([Path(os.devnull).open("rb") for _ in range(count)])


def connect(address: list[Any]) -> None:
    """Open a TCP connection to a host and port."""
    host, port = address
    socket.create_connection((host, port), timeout=5).close()


def print_noise(count: int) -> int:
    """Write `count` bytes to standard output and to standard error, past every buffer."""
    for stream in (1, 2):
        os.write(stream, b"noise" * (count // 5))
    print("noise")  # noqa: T201 - that is the trial
    return count


def answer_bytes(count: int) -> bytes:
    """Answer `count` bytes."""
    return bytes(count)


def talk_nonsense(data: bytes) -> None:
    """Write `data` where answers go, and end."""
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, data)
        except OSError:
            continue
    os._exit(0)
