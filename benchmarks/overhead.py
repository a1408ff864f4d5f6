"""What it costs to stand in between: the gateway beside a bare proxy, over the same model server.

Run it as `scripts/bench` (a table) or `scripts/bench --json`. The process under test has a core of
its own; the model server and the load share another. Every request is metered and charged, and
its charge is on disk before its answer ends. Needs Debian's nginx-light, libnginx-mod-http-echo
and wrk.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from gateway import gateway, prepare
from install_size import base_installation
from load import StreamLoad, WholeLoad, run_streams, run_wrk
from machine import Cores, describe, missing_tools, processor_time, resident_mebibytes
from nginx import ECHO_MODULE, MODEL, STREAM_MODEL, bare_proxy, model_server

CONNECTIONS = (1, 32)
STREAM_COUNTS = (32, 64, 128, 192, 256)
STREAM_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Target:
    """Something that can be asked: the model server itself, the bare proxy, or the gateway."""

    name: str
    pid: int
    json_port: int
    stream_port: int
    key: str = "none"


@dataclass(frozen=True, slots=True)
class WholeRow:
    """Whole answers through one target, over a number of connections."""

    target: str
    connections: int
    requests_per_second: float
    cpu_microseconds_per_request: float
    p50_microseconds: int
    p99_microseconds: int
    failed: int


@dataclass(frozen=True, slots=True)
class StreamRow:
    """Paced streams through one target."""

    target: str
    streams: int
    complete: int
    asked: int
    gap_p50_milliseconds: float
    gap_p99_milliseconds: float
    cpu_microseconds_per_event: float
    clean: bool


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the gateway needs besides time."""

    boot_seconds: float
    idle_mebibytes: float
    peak_mebibytes: float
    install_packages: int
    install_megabytes: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured, with what it was measured on."""

    machine: dict[str, str | int]
    seconds: int
    whole_answers: list[WholeRow]
    streams: list[StreamRow]
    gateway: Footprint


def measure_whole(target: Target, cores: Cores, seconds: int, directory: Path) -> list[WholeRow]:
    """Whole answers at every number of connections, after a short warming up."""
    rows = []
    for connections in CONNECTIONS:
        load = WholeLoad(target.json_port, target.key, MODEL, connections, cores.the_rest)
        run_wrk(load, seconds=1, directory=directory)
        with processor_time(target.pid) as spent:
            answers = run_wrk(load, seconds=seconds, directory=directory)
        rows.append(
            WholeRow(
                target.name,
                connections,
                round(answers.per_second, 1),
                spent.microseconds_per(answers.requests),
                answers.p50,
                answers.p99,
                answers.refused + answers.broken,
            )
        )
    return rows


def measure_streams(target: Target, cores: Cores) -> list[StreamRow]:
    """Streams at rising numbers, until they are no longer clean twice in a row."""
    rows: list[StreamRow] = []
    for count in STREAM_COUNTS:
        load = StreamLoad(
            target.stream_port, target.key, STREAM_MODEL, count, STREAM_ROUNDS, cores.the_rest
        )
        with processor_time(target.pid) as spent:
            outcome = run_streams(load)
        rows.append(
            StreamRow(
                target.name,
                count,
                outcome.complete,
                outcome.asked,
                round(outcome.gap_milliseconds(50), 1),
                round(outcome.gap_milliseconds(99), 1),
                spent.microseconds_per(len(outcome.gaps)),
                outcome.clean,
            )
        )
        if not any(row.clean for row in rows[-2:]):
            break
    return rows


def measure(seconds: int, directory: Path) -> Report:
    """The whole programme; about two minutes with the default of eight seconds a run."""
    cores = Cores.choose()
    machine = describe()
    whole: list[WholeRow] = []
    streams: list[StreamRow] = []
    with model_server(directory, cores.the_rest) as server:
        say("model server, asked directly")
        direct = Target("direct", server.process.pid, server.json_port, server.stream_port)
        whole += measure_whole(direct, cores, seconds, directory)
        streams += measure_streams(direct, cores)
        with bare_proxy(directory, cores.under_test, server) as proxy:
            say("nginx as a bare proxy")
            target = Target("nginx proxy", proxy.process.pid, proxy.json_port, proxy.stream_port)
            whole += measure_whole(target, cores, seconds, directory)
            streams += measure_streams(target, cores)
        key = prepare(directory, server)
        boots = []
        for _ in range(3):
            with gateway(directory, cores.under_test) as running:
                boots.append(running.ready_seconds)
        with gateway(directory, cores.under_test) as running:
            say("traghetto")
            time.sleep(1)
            idle = resident_mebibytes(running.process.pid)
            target = Target("traghetto", running.process.pid, running.port, running.port, key)
            whole += measure_whole(target, cores, seconds, directory)
            streams += measure_streams(target, cores)
            peak = resident_mebibytes(running.process.pid, "VmHWM")
    packages, size_bytes = base_installation()
    footprint = Footprint(
        round(statistics.median(boots), 2),
        round(idle, 1),
        round(peak, 1),
        packages,
        round(size_bytes / 1e6, 1),
    )
    return Report(machine, seconds, whole, streams, footprint)


def print_report(report: Report) -> None:
    """The report as tables for people."""
    print(", ".join(f"{name} {value}" for name, value in report.machine.items()))
    print(f"\nWhole answers, {report.seconds} s a run (latencies in microseconds)")
    line = "{:12} {:>11} {:>11} {:>12} {:>8} {:>8} {:>10} {:>10} {:>7}"
    print(line.format(*_WHOLE_HEADERS))
    direct = {row.connections: row for row in report.whole_answers if row.target == "direct"}
    for row in report.whole_answers:
        base = direct[row.connections]
        print(
            line.format(
                row.target,
                row.connections,
                f"{row.requests_per_second:.0f}",
                f"{row.cpu_microseconds_per_request:.0f}",
                row.p50_microseconds,
                row.p99_microseconds,
                row.p50_microseconds - base.p50_microseconds,
                row.p99_microseconds - base.p99_microseconds,
                row.failed,
            )
        )
    print("\nStreams of 100 events, 20 ms apart (gaps in ms; clean: all complete and p99 <= 40)")
    line = "{:12} {:>8} {:>12} {:>8} {:>8} {:>13} {:>6}"
    print(
        line.format("target", "streams", "complete", "gap p50", "gap p99", "CPU-us/event", "clean")
    )
    for stream in report.streams:
        print(
            line.format(
                stream.target,
                stream.streams,
                f"{stream.complete}/{stream.asked}",
                stream.gap_p50_milliseconds,
                stream.gap_p99_milliseconds,
                stream.cpu_microseconds_per_event,
                "yes" if stream.clean else "no",
            )
        )
    for name, count in clean_streams(report.streams).items():
        print(f"{name}: {count} clean streams on one core")
    print("\nThe gateway: " + ", ".join(f"{k} {v}" for k, v in asdict(report.gateway).items()))


_WHOLE_HEADERS = (
    *("target", "connections", "requests/s", "CPU-us/req", "p50", "p99"),
    *("added p50", "added p99", "failed"),
)


def clean_streams(rows: Iterable[StreamRow]) -> dict[str, int]:
    """The largest number of clean streams of each target."""
    best: dict[str, int] = {}
    for row in rows:
        best[row.target] = max(best.get(row.target, 0), row.streams if row.clean else 0)
    return best


def say(text: str) -> None:
    print(f"Measuring {text} ...", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--seconds", type=int, default=8, help="length of each run of wrk")
    options = parser.parse_args()
    missing = missing_tools("nginx", "wrk", "taskset")
    if not ECHO_MODULE.exists():
        missing.append("the echo module of nginx")
    if missing:
        sys.exit(
            f"Missing: {', '.join(missing)}. On Debian: "
            "apt-get install nginx-light libnginx-mod-http-echo wrk"
        )
    with tempfile.TemporaryDirectory(prefix="traghetto-bench-") as directory:
        report = measure(options.seconds, Path(directory))
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        print_report(report)


if __name__ == "__main__":
    main()
