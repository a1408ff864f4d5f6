"""The load: `wrk` for whole answers, and paced readers of our own for streams."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from machine import tool
from nginx import EVENT_SECONDS, STREAM_EVENTS

PATH = "/v1/chat/completions"
PROMPT = "Describe how a gondola ferry works. " * 20
"""About 700 bytes, an ordinary short question."""

_REPORT = """
done = function(summary, latency, requests)
  io.write(string.format(
    '\\n{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50": %d, "p99": %d}',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class WholeAnswers:
    """What wrk saw: counts, and latencies in microseconds."""

    requests: int
    microseconds: int
    refused: int
    broken: int
    p50: int
    p99: int

    @property
    def per_second(self) -> float:
        return self.requests * 1e6 / self.microseconds


def request_body(model: str, *, stream: bool) -> bytes:
    """A chat request as a client library would send it."""
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": PROMPT},
        ],
        "max_tokens": 256,
        "temperature": 0.7,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(body)


@dataclass(frozen=True, slots=True)
class WholeLoad:
    """Whole answers asked for as fast as they come, over kept-alive connections."""

    port: int
    key: str
    model: str
    connections: int
    core: int


def run_wrk(load: WholeLoad, *, seconds: int, directory: Path) -> WholeAnswers:
    """Apply `load` for `seconds`; `directory` takes the script that wrk reads."""
    script = directory / f"wrk-{load.port}-{load.connections}.lua"
    body = request_body(load.model, stream=False).decode()
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
        f"wrk.headers['Authorization'] = 'Bearer {load.key}'\n{_REPORT}"
    )
    program = tool("wrk")
    assert program is not None, "its absence is reported before anything is started"
    command = ["taskset", "--cpu-list", str(load.core), program, "--threads", "1"]
    command += ["--connections", str(load.connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "30s", "--script", str(script), f"http://127.0.0.1:{load.port}{PATH}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return msgspec.json.decode(output.rsplit("\n", 1)[1], type=WholeAnswers)


@dataclass(slots=True)
class Streams:
    """What the readers of streams saw; gaps are seconds between successive events."""

    asked: int = 0
    complete: int = 0
    gaps: list[float] = field(default_factory=list)

    def gap_milliseconds(self, percentile: float) -> float:
        """A percentile of the gaps, in milliseconds."""
        if not self.gaps:
            return float("inf")
        ordered = sorted(self.gaps)
        return ordered[min(int(len(ordered) * percentile / 100), len(ordered) - 1)] * 1000

    @property
    def clean(self) -> bool:
        """Every stream was whole, and 99 of 100 events came within twice their distance."""
        return self.complete == self.asked > 0 and self.gap_milliseconds(99) <= 2000 * EVENT_SECONDS


class _Reader(asyncio.Protocol):
    """Reads one stream and notes when its events arrive."""

    def __init__(self, request: bytes, outcome: Streams, done: asyncio.Future[None]) -> None:
        self._request = request
        self._outcome = outcome
        self.done = done
        self._last = 0.0
        self._events = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        arrived = data.count(b"data: ")
        if arrived and self._events:
            self._outcome.gaps.append(now - self._last)
            self._outcome.gaps.extend([0.0] * (arrived - 1))
        if arrived:
            self._last = now
            self._events += arrived
        self._tail = (self._tail + data)[-64:]
        if b"data: [DONE]" in self._tail:
            # Role, contents and finish reason, then the usage and the end.
            self._outcome.complete += self._events == STREAM_EVENTS + 2
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """A number of streams read at a time, each reader several in turn."""

    port: int
    key: str
    model: str
    streams: int
    rounds: int
    core: int


def run_streams(load: StreamLoad) -> Streams:
    """Apply `load`; the readers begin at moments scattered over a second."""
    outcome = Streams()
    body = request_body(load.model, stream=True)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\n"
        f"Authorization: Bearer {load.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Accept: text/event-stream\r\n\r\n"
    )
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {load.core})
    try:
        uvloop.run(_read_all(load, head.encode() + body, outcome))
    finally:
        os.sched_setaffinity(0, before)
    return outcome


async def _read_all(load: StreamLoad, request: bytes, outcome: Streams) -> None:
    scatter = random.Random(load.streams)
    loop = asyncio.get_running_loop()

    async def read_in_turn() -> None:
        await asyncio.sleep(scatter.random())
        for _ in range(load.rounds):
            reader = _Reader(request, outcome, loop.create_future())
            outcome.asked += 1
            await loop.create_connection(partial(_itself, reader), "127.0.0.1", load.port)
            # Three times the length of a stream: what is later than that is not clean.
            await asyncio.wait([reader.done], timeout=3 * STREAM_EVENTS * EVENT_SECONDS)

    async with asyncio.TaskGroup() as readers:
        for _ in range(load.streams):
            readers.create_task(read_in_turn())


def _itself(reader: _Reader) -> _Reader:
    return reader
