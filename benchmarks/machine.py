"""What the machine can tell: processor time, memory, cores, free ports, and what it is."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core runs what: the process under test has one of its own where there are two."""

    under_test: int
    the_rest: int

    @classmethod
    def choose(cls) -> Cores:
        """The first two cores that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1 % len(usable)])


def start_pinned(
    command: Sequence[str], core: int, *, log: Path, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` on one core, with its output in `log`."""
    pinned = ["taskset", "--cpu-list", str(core), *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            pinned,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and insist after ten seconds."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def processor_seconds(pid: int) -> float:
    """User and system time of all threads of a process, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


@dataclass(slots=True)
class Spent:
    """Processor time that a process has spent over a piece of work."""

    seconds: float = 0.0

    def microseconds_per(self, count: int) -> float:
        """Its share of each of `count` things, rounded to a tenth."""
        return round(self.seconds * 1e6 / max(count, 1), 1)


@contextmanager
def processor_time(pid: int) -> Iterator[Spent]:
    """Measure what `pid` spends inside the block; the figure is there after it."""
    spent = Spent()
    before = processor_seconds(pid)
    yield spent
    spent.seconds = processor_seconds(pid) - before


def resident_mebibytes(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process, now (`VmRSS`) or at its peak (`VmHWM`)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def free_port() -> int:
    """A loopback port that nobody used a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_ready(port: int, path: str, process: subprocess.Popen[bytes], log: Path) -> float:
    """Seconds until `path` answers 200; raises RuntimeError with the log if it never does."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < 60:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended:\n{log.read_text()[-2000:]}")
        with suppress(OSError):
            if _status_of(port, path) == 200:
                return time.perf_counter() - begun
        time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} was not ready in 60 s:\n{log.read_text()[-2000:]}")


def _status_of(port: int, path: str) -> int:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request.encode())
        line = connection.makefile("rb").readline().split()
    return int(line[1]) if len(line) > 1 else 0


def describe() -> dict[str, str | int]:
    """What the figures depend on."""
    model = _first_match(Path("/proc/cpuinfo"), "model name") or platform.processor()
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "idle_before": f"{_share_of_cores():.0%}",
    }


def _share_of_cores() -> float:
    """The part of the cores' time that a busy process gets: figures mean little far below 1."""
    usable = os.sched_getaffinity(0)
    shares = []
    for core in usable:
        os.sched_setaffinity(0, {core})
        begun, used = time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < 0.5:
            pass
        shares.append((time.process_time() - used) / (time.perf_counter() - begun))
    os.sched_setaffinity(0, usable)
    return min(shares)


def _first_match(path: Path, key: str) -> str | None:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def missing_tools(*names: str) -> list[str]:
    """Those of `names` that no directory of PATH (or an administrator's) holds."""
    return [name for name in names if tool(name) is None]


def tool(name: str) -> str | None:
    """Where a program is, looking in the administrator's directories too."""
    directories = [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]
    paths = (Path(directory) / name for directory in directories if directory)
    return next((str(path) for path in paths if os.access(path, os.X_OK)), None)
