"""A configuration that is read again while images are made: what has begun ends as it began."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.client import Answer, ask, assert_published
from support.configuration import cut_toml, edit_toml, image_toml, upscale_toml, upstream_toml
from support.gateway import (
    GatewayProcess,
    RunningGateway,
    gateway_process,
    operate,
    running_gateway,
)
from support.images import base64_text, encoded, opened, png
from support.onnx_files import enlarger
from support.processes import children, is_running
from support.upstream import Act, Exchange, FaultUpstream, answer_json, upstream_in_thread
from support.waiting import wait_until
from traghetto.storage.sqlite import open_read_only

GENERATE = "/api/v1/image/generate"
EDIT = "/api/v1/image/edit"
UPSCALE = "/api/v1/image/upscale"
SKETCH = {"model": "painter", "prompt": "a ferry", "width": 64, "height": 64, "format": "png"}
FORBIDDEN = {"categories": {"violence": True}, "category_scores": {}, "flagged": True}
CENT = 10_000_000
"""In nano_usd."""
RELOADS = 6
SECONDS_MAX = 20.0


def painter_toml(cents: int, server: FaultUpstream | None = None) -> str:
    """A generator at that price an image: a server's, or the built-in one."""
    pricing = f'{{ generation = "0.0{cents}", upscale = {{ 2x = "1", 4x = "1" }} }}'
    if server is None:
        return image_toml("painter", pricing=pricing)
    return upstream_toml(server) + image_toml("painter", pricing=pricing, upstreams='["behind"]')


@pytest.fixture
def server() -> Iterator[FaultUpstream]:
    """What makes images across the network; nothing is listed there."""
    with upstream_in_thread() as running:
        running.by_path["/v1/images/generations"] = painted()
        running.by_path["/v1/moderations"] = answer_json(
            {"id": "modr-1", "model": "m", "results": [FORBIDDEN]}
        )
        yield running


def painted(until: threading.Event | None = None) -> Act:
    """As many pictures as were asked for, as soon as `until` is set."""

    async def act(exchange: Exchange) -> None:
        while until is not None and not until.is_set():
            await asyncio.sleep(0.01)
        count = exchange.request.json["n"]
        await answer_json({"created": 1, "data": [{"b64_json": base64_text(png(64, 64))}] * count})(
            exchange
        )

    return act


@contextmanager
def waiting(
    gateway: RunningGateway, server: FaultUpstream, send: Callable[[], Answer]
) -> Iterator[Future[Answer]]:
    """A request that is with the server until the context ends; then its answer comes."""
    release = threading.Event()
    server.by_path["/v1/images/generations"] = painted(release)
    with ThreadPoolExecutor(1) as clients:
        sent = clients.submit(send)
        try:
            wait_until(lambda: server.other_requests and gateway.gateway.book.open_holds == 1)
            server.by_path["/v1/images/generations"] = painted()
            yield sent
        finally:
            release.set()


def reload(gateway: RunningGateway, toml: str) -> None:
    (gateway.data_dir.parent / "traghetto.toml").write_text(toml)
    gateway.run(gateway.gateway.reload())
    assert gateway.records()[-1]["event"] == "reloaded"


def charges(data_dir: Path) -> list[int]:
    """What the requests so far were charged, in nano_usd, the cheapest first."""
    with open_read_only(data_dir) as books:
        return sorted(usage.charged for usage in books.usages())


def is_black(answer: Answer) -> bool:
    """Whether an answer says that its images are forbidden."""
    assert answer.status == 200, answer
    return answer.headers["x-venice-is-content-violation"] == "true"


def test_what_has_begun_keeps_its_price_and_its_model(
    tmp_path: Path, server: FaultUpstream
) -> None:
    """Its price rises, its model and its server are taken away, and it ends as if nothing were."""
    with running_gateway(tmp_path, painter_toml(1, server) + edit_toml("editor")) as gateway:
        key = gateway.new_key()

        def send() -> Answer:
            return ask(gateway, key, SKETCH | {"variants": 2}, path=GENERATE)

        with waiting(gateway, server, send) as first:
            reload(gateway, painter_toml(5, server) + edit_toml("editor"))
            assert send().status == 200
            reload(gateway, edit_toml("editor"))
            assert_published(send(), "MODEL_NOT_FOUND")
        assert (first.result().status, len(first.result().json["images"])) == (200, 2)
        assert first.result().headers["x-venice-model-id"] == "painter"
        assert gateway.differences() == []
        assert charges(gateway.data_dir) == [2 * CENT, 10 * CENT]


@pytest.mark.parametrize("begins_judged", [False, True])
def test_what_has_begun_is_judged_by_the_policy_that_it_began_with(
    tmp_path: Path, server: FaultUpstream, begins_judged: bool
) -> None:
    """A classifier that came meanwhile is not asked about it; one that went still is."""
    free = painter_toml(1, server)
    judged = f'[moderation]\nclassifier_url = "{server.url}"\njudges = ["images"]\n' + free
    before, after = (judged, free) if begins_judged else (free, judged)
    with running_gateway(tmp_path, before) as gateway:
        key = gateway.new_key()

        def send() -> Answer:
            return ask(gateway, key, SKETCH, path=GENERATE)

        with waiting(gateway, server, send) as first:
            reload(gateway, after)
            assert is_black(send()) is not begins_judged
        assert is_black(first.result()) is begins_judged
        assert gateway.differences() == []
        assert charges(gateway.data_dir) == [CENT]


def brightness(gateway: RunningGateway, key: str) -> float:
    """How bright a plain grey picture comes out of the upscaler."""
    grey = base64_text(encoded(Image.new("L", (256, 256), 200)))
    answer = ask(gateway, key, {"image": grey}, path=UPSCALE)
    assert answer.status == 200, answer
    image = opened(answer.body).convert("L")
    centre = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(centre, int)
    return centre / 200


def test_a_network_that_takes_the_place_of_another_is_loaded(tmp_path: Path) -> None:
    """By every worker, also by those that have the other one in memory; one that is none is not."""
    network = enlarger(tmp_path / "net.onnx")
    toml = upscale_toml("upscaler", engine='"onnx"', onnx=f'"{network}"')
    with running_gateway(tmp_path, toml) as gateway:
        key = gateway.new_key()
        assert brightness(gateway, key) == pytest.approx(1, abs=0.05)
        enlarger(network, gain=0.5)
        reload(gateway, toml)
        assert brightness(gateway, key) == pytest.approx(0.5, abs=0.05)
        network.write_bytes(b"no network")
        gateway.run(gateway.gateway.reload())
        assert gateway.records()[-1]["event"] == "reload_refused"
        assert brightness(gateway, key) == pytest.approx(0.5, abs=0.05)


# --- by a signal, amid everything ---------------------------------------------------------------


def configurations(folder: Path) -> Iterator[str]:
    """Prices that rise and fall, engines that change, and a server that comes and goes."""
    network = enlarger(folder / "net.onnx")
    workflow = folder / "workflow.json"
    nodes = {"1": {"class_type": "Text", "inputs": {"text": "{{prompt}}"}}}
    workflow.write_text(json.dumps(nodes))
    far = '[[upstreams]]\nname = "far"\nurl = "http://127.0.0.1:9"\napi = "comfyui"\n'
    start = 'rate_limits = "off"\nfailed_requests_max = 1000000\n'
    yield start + painter_toml(1) + edit_toml("editor") + upscale_toml("upscaler")
    yield (
        start
        + far
        + image_toml("distant", upstreams='["far"]', workflow=f'"{workflow}"')
        + painter_toml(3)
        + edit_toml("editor", pricing='{ inpaint = "0.07" }')
        + upscale_toml("upscaler", engine='"onnx"', onnx=f'"{network}"')
        + cut_toml("cutter")
    )


def test_images_are_made_while_the_configuration_is_read_again_and_again(tmp_path: Path) -> None:
    """No request fails for it, each is charged one of its prices, and no process is left over."""
    config, data = tmp_path / "traghetto.toml", tmp_path / "data"
    versions = cycle(configurations(tmp_path))
    config.write_text(next(versions))
    picture = base64_text(png(256, 256))
    requests: list[tuple[str, dict[str, Any]]] = [
        (GENERATE, SKETCH | {"variants": 2}),
        (EDIT, {"image": picture, "prompt": "make it grayscale"}),
        (UPSCALE, {"image": picture}),
    ]
    with gateway_process(tmp_path, "--config", str(config), "--data-dir", str(data)) as gateway:
        operate(data, "accounts", "create", "painters", "--usd", "1000")
        key = operate(data, "keys", "create", "--account", "painters")["secret"]
        enough = threading.Event()
        answers: list[list[Answer]] = [[] for _ in requests]

        def keep_asking(number: int) -> None:
            path, body = requests[number]
            while not enough.is_set():
                answers[number].append(ask(gateway, key, body, path=path))

        def all_are_served() -> None:
            """Every client has sent a request and got its answer, from now on."""
            wanted = [len(each) + 2 for each in answers]
            for each, count in zip(answers, wanted, strict=True):
                wait_until(lambda each=each, count=count: len(each) >= count, SECONDS_MAX)  # type: ignore[misc]

        with ThreadPoolExecutor(len(requests)) as clients:
            asking = [clients.submit(keep_asking, number) for number in range(len(requests))]
            try:
                all_are_served()
                for number in range(1, RELOADS + 1):
                    config.write_text(next(versions))
                    gateway.process.send_signal(signal.SIGHUP)
                    wait_until(lambda n=number: reloads(gateway) == n, SECONDS_MAX)  # type: ignore[misc]
                    all_are_served()
                workers = children(gateway.process.pid)
                config.write_text("[[models]]\nid = 7\n")
                gateway.process.send_signal(signal.SIGHUP)
                wait_until(lambda: "reload_refused" in gateway.log.read_text(), SECONDS_MAX)
                all_are_served()
            finally:
                enough.set()
            for each in asking:
                each.result()
    wait_until(lambda: not any(map(is_running, workers)))
    assert {answer.status for each in answers for answer in each} == {200}
    assert operate(data, "ledger", "verify")["differences"] == []
    assert len(charges(data)) == sum(map(len, answers))
    assert set(charges(data)) == {2 * CENT, 4 * CENT, 6 * CENT, 7 * CENT}


def reloads(gateway: GatewayProcess) -> int:
    written = gateway.log.read_text()
    assert "reload_refused" not in written, written
    return written.count('"event":"reloaded"')
