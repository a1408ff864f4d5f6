"""Hostile image files through a running gateway: each ends as published, and chats go on.

With `TRAGHETTO_HOSTILE_IMAGES=all` every file is sent in every way, which takes minutes; usually
each is sent in one way, and those that cost seconds only now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import random
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from media.hostile import (
    FILE_TOO_LARGE,
    PAYLOAD,
    SOUND,
    TOO_LARGE,
    TOO_SMALL,
    UNREADABLE,
    Case,
    cases,
)
from support.client import SECONDS_MAX, Answer, ask, assert_published, chat, chat_body
from support.configuration import IMAGE_MODELS, edit_toml, model_toml
from support.gateway import (
    GatewayProcess,
    RunningGateway,
    gateway_process,
    operate,
    raw_exchange,
    running_gateway,
)
from support.images import base64_text, data_url, encoded, form, opened, picture, png
from support.processes import children, is_running, memory_bytes
from support.waiting import wait_until

EVERYTHING = os.environ.get("TRAGHETTO_HOSTILE_IMAGES") == "all"
SEED = 7
CLIENTS = 3
"""More than there are workers."""
PACE_SECONDS = 0.04
"""Between two chats, whatever the images do."""
FILE_BYTES_MAX = 26_214_400
WORKER_BYTES_MAX = 1_610_612_736
GROWTH_BYTES_MAX = 64 << 20
"""What thousands of images may leave in the gateway's memory."""
EDITED_PIXELS_MIN = 65_536
UPSCALED_PIXELS_MAX = 16_777_216
HELD_SECONDS_MAX = 0.1
"""Processor time that one turn of the event loop may take; chats wait that long, and no longer."""
ATTEMPTS = 3
SEES = model_toml(
    "sees",
    capabilities="{ supportsVision = true }",
    context_tokens="1000000",
    pricing='{ input = "0", output = "0" }',
)
TOML = (
    'rate_limits = "off"\nfailed_requests_max = 1000000\nmedia_seconds_max = 60\n'
    + IMAGE_MODELS
    + model_toml("priced")
    + SEES
)
CODES = {
    UNREADABLE: "CORRUPTED_IMAGE",
    TOO_SMALL: "IMAGE_TOO_SMALL",
    TOO_LARGE: "IMAGE_TOO_LARGE",
    FILE_TOO_LARGE: "PAYLOAD_TOO_LARGE",
}
NOT_ACCEPTED = b'{"error":"Supplied image did not pass validation checks."}'
"""What chats say of files that they do not take (contract A.2, code 16)."""


@dataclass(frozen=True)
class Way:
    """An endpoint, and how an image gets there."""

    name: str
    path: str
    payload: Callable[[bytes], tuple[Any, dict[str, str | None]]]
    usd: Decimal = Decimal(0)
    """What an answer costs."""
    pixels_min: int = 0
    is_chat: bool = False


def in_json(**members: str) -> Callable[[bytes], tuple[Any, dict[str, str | None]]]:
    return lambda data: ({"image": base64_text(data), **members}, {})


def in_form(**members: str) -> Callable[[bytes], tuple[Any, dict[str, str | None]]]:
    return lambda data: form(members, [("image", data)])


def in_chat(data: bytes) -> tuple[Any, dict[str, str | None]]:
    part = {"type": "image_url", "image_url": {"url": data_url(data)}}
    return chat_body("sees", messages=[{"role": "user", "content": [part]}]), {}


EDIT = ("/api/v1/image/edit", Decimal("0.04"), EDITED_PIXELS_MIN)
UPSCALE = ("/api/v1/image/upscale", Decimal("0.02"), EDITED_PIXELS_MIN)
BACKGROUND = ("/api/v1/image/background-remove", Decimal("0.03"), 0)
PROMPT = "make it grayscale"
WAYS = (
    *(
        Way(f"{path.rpartition('/')[2]} {name}", path, payload(**members), usd, pixels_min)
        for (path, usd, pixels_min), members in (
            (EDIT, {"prompt": PROMPT}), (UPSCALE, {}), (BACKGROUND, {}),
        )
        for name, payload in (("JSON", in_json), ("form", in_form))
    ),
    Way("chat", "/api/v1/chat/completions", in_chat, is_chat=True),
)  # fmt: skip


def larger_cases(rng: random.Random) -> Iterator[Case]:
    """Files with enough pixels to be edited, damaged anywhere: they reach the decoder there, too."""
    for name in ("png", "jpeg", "webp", "avif", "gif"):
        data = encoded(picture(320, 256), name)
        for number in range(8):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 2, 30))):
                damaged[rng.randrange(12, len(data))] = rng.randrange(256)
            whole = bytes(damaged)
            yield Case(
                f"large-{name}-damaged-{number}",
                lambda whole=whole: whole,  # type: ignore[misc]
                frozenset({SOUND, UNREADABLE, TOO_SMALL, TOO_LARGE}),
            )
            cut = data[: rng.randrange(20, len(data) - 1)]
            ends = {UNREADABLE} if name in {"png", "jpeg", "webp"} else {UNREADABLE, SOUND}
            yield Case(f"large-{name}-cut-{number}", lambda cut=cut: cut, frozenset(ends))  # type: ignore[misc]


def trials() -> list[tuple[Case, Way]]:
    """What is sent, in an order that mixes endpoints."""
    rng = random.Random(SEED)
    corpus = [*cases(flips=30 if EVERYTHING else 10), *larger_cases(rng)]
    if EVERYTHING:
        chosen = [(case, way) for case in corpus for way in WAYS]
    else:
        turns = rng.sample(range(len(WAYS)), len(WAYS))
        chosen = [(case, WAYS[turns[n % len(WAYS)]]) for n, case in enumerate(corpus)]
    rng.shuffle(chosen)
    return chosen


# --- how it has to end --------------------------------------------------------------------------


def assert_ends_well(answer: Answer, case: Case, way: Way) -> None:
    """In its own code to the byte, or in a sound image without anything of the file beside it."""
    if answer.status == 200:
        assert SOUND in case.ends
        assert PAYLOAD not in answer.body
        if not way.is_chat:
            assert_sound(answer.body, way)
        return
    allowed = {CODES[end] for end in case.ends - {SOUND}}
    if way.pixels_min:
        allowed.add("IMAGE_TOO_SMALL")  # told before a file of few pixels is decoded
    if SOUND in case.ends and "background" in way.path:
        allowed.add("INFERENCE_FAILED")  # of noise, no foreground stands out (contract A.2, 31)
    code = answer.headers["x-error-code"]
    if code == "INVALID_REQUEST" and way.is_chat:
        assert answer.body == NOT_ACCEPTED
        assert FILE_TOO_LARGE in case.ends
    elif code == "INVALID_REQUEST":
        assert "upscale" in way.path
        assert [issue["path"] for issue in answer.json["issues"]] == [["image"]], "no room for more"
        assert SOUND in case.ends
    else:
        assert code in allowed
        assert_published(answer, code)


def assert_sound(data: bytes, way: Way) -> None:
    image = opened(data)
    pixels = image.width * image.height
    assert image.format == "PNG"
    assert getattr(image, "n_frames", 1) == 1
    assert image.mode == "RGBA" or "background" not in way.path
    assert way.pixels_min <= pixels
    assert "upscale" not in way.path or pixels <= UPSCALED_PIXELS_MAX


# --- the gateway under it -----------------------------------------------------------------------


@dataclass
class Watch:
    """Chats at an even pace, and a look at the workers with each, while something else goes on."""

    gateway: GatewayProcess
    key: str
    seconds: list[float] = field(default_factory=list)
    """How long each chat took."""
    failures: list[object] = field(default_factory=list)
    workers: Counter[int] = field(default_factory=Counter)
    """The largest address space of each worker that was seen, in bytes, by its process."""

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(PACE_SECONDS):
                self._look()
                began = time.monotonic()
                try:
                    answer = chat(self.gateway, self.key)
                except OSError as failure:
                    self.failures.append(failure)
                    continue
                self.seconds.append(time.monotonic() - began)
                if answer.status != 200:
                    self.failures.append(answer)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _look(self) -> None:
        for pid in children(self.gateway.process.pid):
            self.workers[pid] = max(self.workers[pid], memory_bytes(pid, "VmPeak"))

    def quantile_ms(self, share: float) -> float:
        """Of the chats that have been answered."""
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))] * 1000


def send(gateway: GatewayProcess, key: str, case: Case, way: Way) -> Answer:
    """The answer to a file, also where it comes before all of the file has been sent."""
    body, headers = way.payload(case.make())
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", "authorization": f"Bearer {key}", **headers}
    connection = http.client.HTTPConnection(*gateway.address, timeout=3 * SECONDS_MAX)
    with contextlib.closing(connection):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", way.path, payload, sent)
        return Answer.read(connection.getresponse())


def assert_log(written: str) -> None:
    """Of all the bad files nothing is recorded, but that of some no foreground could be cut out."""
    records = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    for record in records:
        if record["level"] != "info":
            assert record["code"] == "INFERENCE_FAILED", record
            assert "no foreground stands out" in record["causes"][0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_hostile_files_end_as_published_and_chats_go_on(tmp_path: Path) -> None:
    """Nothing but sound images is charged, no chat fails, no memory stays, no process is left."""
    config, data = tmp_path / "traghetto.toml", tmp_path / "data"
    config.write_text(TOML)
    chosen = trials()
    with gateway_process(tmp_path, "--config", str(config), "--data-dir", str(data)) as gateway:
        keys = []
        for name in ("painter", "talker"):
            operate(data, "accounts", "create", name, "--usd", "1000")
            keys.append(operate(data, "keys", "create", "--account", name)["secret"])
        watch = Watch(gateway, keys[1])
        warm = [(case, way) for case, way in chosen if case.name == "largest-file"] + [
            (Case("warm", lambda: png().ljust(FILE_BYTES_MAX, b"\0"), frozenset({SOUND})), way)
            for way in WAYS
        ]
        wrong: list[str] = []
        paid: Counter[str] = Counter()

        def attempt(trial: tuple[Case, Way]) -> None:
            case, way = trial
            answer = send(gateway, keys[0], case, way)
            paid[way.name] += answer.status == 200
            try:
                assert_ends_well(answer, case, way)
            except AssertionError as error:
                code = answer.headers.get("x-error-code")
                wrong.append(f"{case.name} by {way.name}: {answer.status} {code} {error}")

        with ThreadPoolExecutor(CLIENTS) as clients, watch.going_on():
            list(clients.map(attempt, warm))
            before = memory_bytes(gateway.process.pid, "VmRSS")
            list(clients.map(attempt, chosen))
        assert wrong == [], "\n".join(wrong)
        assert memory_bytes(gateway.process.pid, "VmRSS") - before < GROWTH_BYTES_MAX
        left = Decimal(operate(data, "accounts", "show", "painter")["usd"])
        assert 1000 - left == sum(way.usd * paid[way.name] for way in WAYS)
    assert watch.failures == []
    assert len(watch.seconds) > 10
    assert 0 < max(watch.workers.values()) <= WORKER_BYTES_MAX
    wait_until(lambda: not any(map(is_running, watch.workers)))
    assert operate(data, "ledger", "verify")["differences"] == []
    assert_log(gateway.log.read_text())
    for share in (0.5, 0.99, 1):
        print(f"{len(watch.seconds)} chats, {share:.0%}: {watch.quantile_ms(share):.1f} ms")


# --- what images cannot take from others --------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, TOML, media_workers_max=2) as running:
        yield running
        assert running.gateway.book.open_holds == 0
        assert running.differences() == []


def product(ground: str = "white") -> bytes:
    """A dark square on a plain ground, or, on a black one, nothing that could be cut out."""
    shot = Image.new("RGB", (320, 256), ground)
    shot.paste((20, 20, 20) if ground != "black" else "black", (100, 60, 220, 180))
    return encoded(shot)


def test_pictures_of_nothing_take_nothing_from_others(gateway: RunningGateway) -> None:
    """One caller's photographs of a wall had the endpoint off for everybody."""
    wall, sound = gateway.new_key(), gateway.new_key()
    for side in range(100, 112):
        body = {"image": base64_text(encoded(Image.new("RGB", (side, 100))))}
        assert_published(ask(gateway, wall, body, path=BACKGROUND[0]), "INFERENCE_FAILED")
    answer = ask(gateway, sound, {"image": base64_text(product())}, path=BACKGROUND[0])
    assert answer.status == 200, answer


def test_chats_are_answered_while_every_worker_hangs(gateway: RunningGateway) -> None:
    """A chat waits for no worker; the images are made as soon as there are workers again."""
    key = gateway.new_key()
    body = {"image": base64_text(png()), "prompt": PROMPT}

    def edit(_: int) -> Answer:
        return ask(gateway, key, body, path=EDIT[0])

    workers = gateway.gateway._workers
    with ThreadPoolExecutor(6) as clients:
        assert {answer.status for answer in clients.map(edit, range(6))} == {200}
        wait_until(lambda: len(workers.process_ids) == 2)
        hanging = workers.process_ids
        for pid in hanging:
            os.kill(pid, signal.SIGSTOP)
        try:
            edits = [clients.submit(edit, number) for number in range(6)]
            wait_until(lambda: gateway.gateway.services.bodies.bytes > 6 * len(base64_text(png())))
            assert [chat(gateway, key).status for _ in range(30)] == [200] * 30
            assert not any(each.done() for each in edits)
        finally:
            for pid in hanging:
                os.kill(pid, signal.SIGCONT)
        assert [each.result().status for each in edits] == [200] * 6


@pytest.mark.parametrize("workers_max", [1, 2])
def test_images_are_read_while_engines_compute(tmp_path: Path, workers_max: int) -> None:
    """Engines of our own never have the last process, however many they are given to do."""
    broken = png()[:-20]
    with running_gateway(tmp_path, TOML, media_workers_max=workers_max) as gateway:
        painter, other = gateway.new_key(), gateway.new_key()
        large = {"image": base64_text(encoded(picture(2000, 2000), "jpeg")), "scale": 2}
        with ThreadPoolExecutor(3) as clients:
            made = [clients.submit(ask, gateway, painter, large, path=UPSCALE[0]) for _ in range(3)]
            wait_until(lambda: gateway.gateway.book.open_holds == 3)
            workers = gateway.gateway._workers
            (pid,) = set(workers.process_ids) - {idle.pid for idle in workers._idle}
            os.kill(pid, signal.SIGSTOP)
            try:
                answer = ask(gateway, other, {"image": base64_text(broken)}, path=BACKGROUND[0])
                assert_published(answer, "CORRUPTED_IMAGE")
            finally:
                os.kill(pid, signal.SIGCONT)
            assert [each.result().status for each in made] == [200] * 3


def test_the_largest_files_do_not_hold_the_event_loop(gateway: RunningGateway) -> None:
    """However they are sent: of one turn of the loop it is the processor time that is measured."""
    key = gateway.new_key()
    turns: list[float] = []

    async def beat() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            turns.append(now - before)
            before = now

    large = product().ljust(FILE_BYTES_MAX, b"\0")
    third = product().ljust(FILE_BYTES_MAX * 3 // 4, b"\0")
    several, as_form = form({"prompt": PROMPT}, [("images", third)] * 3)
    requests: list[tuple[Way, Any, dict[str, str | None]]] = [
        (way, *way.payload(large)) for way in WAYS if way.path not in {EDIT[0], UPSCALE[0]}
    ]
    requests.append((Way("multi-edit", "/api/v1/image/multi-edit", in_form()), several, as_form))
    beating = asyncio.run_coroutine_threadsafe(beat(), gateway.loop)

    def longest_turn(way: Way, body: Any, headers: dict[str, str | None]) -> float:
        turns.clear()
        answer = ask(gateway, key, body, path=way.path, headers=headers)
        assert answer.status == 200, answer
        return max(turns)

    for (way, body, headers), is_named in itertools.product(requests, (False, True)):
        for attempt in range(ATTEMPTS):  # something else may have slowed a processor down
            sent = {"content-type": "application/json"} | headers
            sent |= (
                {"idempotency-key": f"{way.name.replace(' ', '-')}-{attempt}"} if is_named else {}
            )
            held = longest_turn(way, body, sent)
            if held < HELD_SECONDS_MAX:
                break
        assert held < HELD_SECONDS_MAX, (way.name, is_named)
    beating.cancel()


ROOM_BYTES = 4 << 20
"""For the bodies of all requests; what images become may take as much again."""


def test_small_files_of_large_pictures_do_not_fill_the_memory(tmp_path: Path) -> None:
    """What a picture becomes counts until its request ends, however long an engine takes."""
    noise = Image.effect_noise((1100, 1000), 90).convert("RGBA")
    noise.putalpha(Image.effect_noise((1100, 1000), 90))
    small = encoded(noise, "avif", quality=5, speed=10)
    body, headers = form({"prompt": PROMPT}, [("images", small)] * 2)
    toml = edit_toml("editor", fault='"hang"')
    settings = {"bodies_in_flight_bytes_max": ROOM_BYTES, "media_seconds_max": 60}
    with running_gateway(tmp_path, toml, **settings) as gateway:
        key = gateway.new_key()
        bodies = gateway.gateway.services.bodies
        connections = [http.client.HTTPConnection(*gateway.address) for _ in range(6)]
        with contextlib.ExitStack() as opened_ones:
            for connection in connections:
                opened_ones.enter_context(contextlib.closing(connection))
                sent = {"authorization": f"Bearer {key}", **headers}
                connection.request("POST", "/api/v1/image/multi-edit", body, sent)
            answered = select.select([each.sock for each in connections], [], [], 20)[0]
            first = next(each for each in connections if each.sock in answered)
            assert_published(Answer.read(first.getresponse()), "MODEL_AT_CAPACITY")
            assert bodies.bytes <= 2 * ROOM_BYTES
        wait_until(lambda: bodies.bytes == 0)
        assert len(body) < ROOM_BYTES / 10


@pytest.mark.parametrize("has_key", [True, False])
def test_uploads_leave_nothing_in_memory(tmp_path: Path, has_key: bool) -> None:
    """However many large files are refused one after the other, with a key or without one."""
    uploads, file_bytes = 12, 24 << 20
    body, headers = form({}, [("image", random.Random(SEED).randbytes(file_bytes))])
    books = ("--data-dir", str(tmp_path / "data"), "--failed-requests-max", "1000")
    with gateway_process(tmp_path, *books) as process:
        connection = http.client.HTTPConnection(*process.address)
        sent = {"authorization": f"Bearer {process.admin_key}"} if has_key else {}

        def upload() -> int:
            connection.request("POST", UPSCALE[0], body, sent | headers)
            return Answer.read(connection.getresponse()).status

        assert upload() == (400 if has_key else 401)
        warm = memory_bytes(process.process.pid, "VmRSS")
        for _ in range(uploads):
            upload()
        growth = memory_bytes(process.process.pid, "VmRSS") - warm
        assert growth < uploads * file_bytes // 4, growth
        connection.close()


def test_strangers_fill_no_memory_with_bodies(tmp_path: Path) -> None:
    """A large body of who has no key is refused before it is read, by its length or in chunks."""
    start = f"POST {UPSCALE[0]} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    piece = b"x" * 100_000
    with running_gateway(tmp_path, IMAGE_MODELS) as gateway:
        for key in (None, "VENICE_INFERENCE_KEY_of-nobody"):
            head = start if key is None else f"{start}authorization: Bearer {key}\r\n"
            declared = raw_exchange(
                gateway.address, f"{head}content-length: 24000000\r\n\r\n".encode(), seconds=1
            )
            assert declared.startswith(b"HTTP/1.1 401 "), declared
            chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
            chunked = raw_exchange(
                gateway.address,
                f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk,
                seconds=1,
            )
            assert chunked.startswith(b"HTTP/1.1 401 "), chunked
        assert gateway.gateway.services.bodies.bytes == 0
