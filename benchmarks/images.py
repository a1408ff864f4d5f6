"""How fast images are made larger and changed, and what chats feel of it meanwhile.

Run it as `scripts/bench images` (a table) or `scripts/bench images --json`. Chats are asked at an
even pace, first alone and then beside each kind of work with images; the same enlargement by
Pillow in this process, without any gateway, is the baseline of the same run. Everything shares all
cores: that is how a small machine is used.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import io
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from gateway import TRAGHETTO, administer
from machine import describe, free_port, resident_mebibytes, stop, wait_until_ready
from PIL import Image

STATUS_OK = 200
CHATS_PER_SECOND = 50
CLIENTS = 2
"""Of images, at the same time: as many as there are workers."""
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "What is a ferry?"}]}
CONFIGURATION = """
rate_limits = "off"

[[models]]
id = "chat"
engine = "simulator"
pricing = { input = "0.15", output = "0.60" }

[[models]]
id = "upscaler"
type = "upscale"
engine = "classical"
pricing = { upscale = { 2x = "0.02", 4x = "0.08" } }

[[models]]
id = "editor"
type = "inpaint"
engine = "classical"
pricing = { inpaint = "0.04" }

[[models]]
id = "painter"
type = "image"
engine = "simulator"
pricing = { generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }
"""


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of request for images."""

    name: str
    path: str
    body: dict[str, Any]
    megapixels: float
    """Of the answer."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured beside one kind of work."""

    work: str
    images: int
    megapixels_per_second: float
    chats: int
    chat_p50_milliseconds: float
    chat_p99_milliseconds: float
    failed: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured, with what it was measured on."""

    machine: dict[str, str | int]
    pillow_megapixels_per_second: float
    """Enlarged twice by Pillow, decoded and encoded, on one core and without a gateway."""
    rows: list[Row]
    gateway_peak_mebibytes: float
    workers_peak_mebibytes: float


def photograph(width: int, height: int) -> bytes:
    """A JPEG with detail and gradients."""
    noise = Image.effect_noise((width // 4, height // 4), 40).resize((width, height))
    gradient = Image.linear_gradient("L").resize((width, height))
    file = io.BytesIO()
    Image.merge("RGB", (noise, gradient, noise)).save(file, "JPEG", quality=90)
    return file.getvalue()


def works() -> list[Work]:
    """The kinds of work, in the order in which they are measured."""
    megapixel = base64.b64encode(photograph(1024, 1024)).decode()
    four = base64.b64encode(photograph(2048, 2048)).decode()
    largest = base64.b64encode(photograph(7680, 4320)).decode()
    grey = "make it black and white, with more contrast"
    edit = {"prompt": grey, "output_format": "jpeg"}
    sketch = {"model": "painter", "prompt": "a red ferry at dusk", "format": "jpeg"}
    return [
        Work("upscale 1 to 4 MP", "/image/upscale", {"image": megapixel}, 4.194),
        Work("edit 4 MP", "/image/edit", edit | {"image": four}, 4.194),
        Work("edit 33 MP", "/image/edit", edit | {"image": largest}, 33.178),
        Work("generate 1 MP", "/image/generate", sketch, 1.049),
    ]


def pillow_baseline(seconds: float) -> float:
    """Megapixels per second of the first kind of work, done with Pillow alone."""
    data = photograph(1024, 1024)
    begun, pixels = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        image = Image.open(io.BytesIO(data))
        larger = image.resize((2048, 2048), Image.Resampling.LANCZOS)
        larger.save(io.BytesIO(), "PNG", compress_level=1)
        pixels += larger.width * larger.height
    return pixels / (time.perf_counter() - begun) / 1e6


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[str, str, int]]:
    """A gateway on all cores: its base URL, a key, and its process."""
    (directory / "traghetto.toml").write_text(CONFIGURATION)
    administer(directory, "accounts", "create", "bench", "--usd", "1000000", "--new-books")
    key = administer(directory, "keys", "create", "--account", "bench")["secret"]
    port, log = free_port(), directory / "gateway.log"
    command = [
        *TRAGHETTO, "serve", "--port", str(port), "--config", str(directory / "traghetto.toml"),
        "--data-dir", str(directory / "data"),
    ]  # fmt: skip
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_until_ready(port, "/health/ready", process, log)
        yield f"http://127.0.0.1:{port}/api/v1", key, process.pid
    finally:
        stop(process)


async def paced_chats(session: aiohttp.ClientSession, url: str, seconds: float) -> list[float]:
    """Seconds that each chat took, counted from when it was due: waiting in line is felt too."""
    loop = asyncio.get_running_loop()
    began = loop.time() + 0.1
    taken: list[float] = []

    async def ask(due: float) -> None:
        await asyncio.sleep(due - loop.time())
        async with session.post(f"{url}/chat/completions", json=CHAT) as answer:
            await answer.read()
            answer.raise_for_status()
        taken.append(loop.time() - due)

    count = int(seconds * CHATS_PER_SECOND)
    await asyncio.gather(*(ask(began + number / CHATS_PER_SECOND) for number in range(count)))
    return taken


@dataclass(slots=True)
class Counters:
    """What the clients of images did, in a process of their own."""

    made: Any
    failed: Any
    is_over: Any


def keep_asking(url: str, key: str, work: Work, counters: Counters) -> None:
    """One client of images: asks again and again until it is told to end."""
    host = url.removeprefix("http://").partition("/")[0]
    body = msgspec.json.encode(work.body)
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    while not counters.is_over.is_set():
        connection = http.client.HTTPConnection(host)
        connection.request("POST", f"/api/v1{work.path}", body, headers)
        answer = connection.getresponse()
        answer.read()
        counter = counters.made if answer.status == STATUS_OK else counters.failed
        with counter.get_lock():
            counter.value += 1
        connection.close()


async def measured(
    session: aiohttp.ClientSession, url: str, key: str, work: Work | None, seconds: float
) -> Row:
    """Chats for some time, beside clients that do `work` one after the other."""
    context = multiprocessing.get_context("spawn")
    counters = Counters(context.Value("i", 0), context.Value("i", 0), context.Event())
    clients = [
        context.Process(target=keep_asking, args=(url, key, work, counters))
        for _ in range(0 if work is None else CLIENTS)
    ]
    for client in clients:
        client.start()
    if clients:
        while not counters.made.value + counters.failed.value:
            await asyncio.sleep(0.05)  # until the workers have started
    before, begun = counters.made.value, time.perf_counter()
    chats = await paced_chats(session, url, seconds)
    spent = time.perf_counter() - begun
    made = counters.made.value - before
    counters.is_over.set()
    for client in clients:
        await asyncio.to_thread(client.join)
    p50, p99 = (statistics.quantiles(chats, n=100)[at] * 1000 for at in (49, 98))
    return Row(
        work="nothing" if work is None else work.name,
        images=made,
        megapixels_per_second=0 if work is None else round(made * work.megapixels / spent, 1),
        chats=len(chats),
        chat_p50_milliseconds=round(p50, 2),
        chat_p99_milliseconds=round(p99, 2),
        failed=counters.failed.value,
    )


async def measure(seconds: float, directory: Path) -> Report:
    """Every kind of work in turn."""
    baseline = pillow_baseline(min(seconds, 5))
    async with (
        serving(directory) as (url, key, pid),
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session,
    ):
        await measured(session, url, key, None, 1)  # warm
        rows, workers = [await measured(session, url, key, None, seconds)], 0.0
        for work in works():
            rows.append(await measured(session, url, key, work, seconds))
            workers = max(workers, *(resident_mebibytes(p, "VmHWM") for p in children(pid)))
        peak = resident_mebibytes(pid, "VmHWM")
    return Report(describe(), round(baseline, 1), rows, round(peak), round(workers))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()] or [pid]


def print_report(report: Report, say: Callable[[str], None] = print) -> None:
    """A table for people."""
    say(f"{report.machine}")
    say(f"Pillow alone, 1 to 4 MP on one core: {report.pillow_megapixels_per_second} MP/s")
    say(f"{'beside':<20}{'images':>8}{'MP/s':>8}{'chats':>8}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}")
    for row in report.rows:
        ratio = row.chat_p99_milliseconds / report.rows[0].chat_p99_milliseconds
        say(
            f"{row.work:<20}{row.images:>8}{row.megapixels_per_second:>8}{row.chats:>8}"
            f"{row.chat_p50_milliseconds:>9}{row.chat_p99_milliseconds:>9}{ratio:>7.1f}"
            + (f"  {row.failed} failed" if row.failed else "")
        )
    say(
        f"peak: gateway {report.gateway_peak_mebibytes:.0f} MiB, "
        f"each worker at most {report.workers_peak_mebibytes:.0f} MiB"
    )


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="for each kind of work")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(measure(options.seconds, Path(directory)))
    if options.json:
        print(msgspec.json.encode(asdict(report)).decode())
    else:
        print_report(report)


if __name__ == "__main__":
    main()
