"""Clients that leave while their images are made, and gateways that stop: nothing is charged."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import ask
from support.configuration import IMAGE_MODELS, edit_toml, image_toml
from support.gateway import RunningGateway, gateway_process, operate, running_gateway
from support.images import base64_text, encoded, picture, png
from support.waiting import wait_until

GENERATE = "/api/v1/image/generate"
EDIT = "/api/v1/image/edit"
UPSCALE = "/api/v1/image/upscale"


@contextlib.contextmanager
def pending(gateway: RunningGateway, key: str, path: str, body: dict[str, Any]) -> Iterator[None]:
    """A request has been sent, and its client waits; it leaves at the end of the context."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=20)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request("POST", path, json.dumps(body), headers)
        yield


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (GENERATE, {"model": "painter", "prompt": "x", "width": 64, "height": 64}),
        (EDIT, {"image": base64_text(png()), "prompt": "make it grayscale"}),
    ],
)
def test_a_client_that_leaves_pays_nothing(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    """Its hold ends, and its place is free for the next one."""
    slow = {"fault": '"hang"', "concurrency_max": "1"}
    with running_gateway(
        tmp_path, image_toml("painter", **slow) + edit_toml("editor", **slow)
    ) as gateway:
        key = gateway.new_key()
        gate = gateway.gateway.services.fleet.gates["painter" if path == GENERATE else "editor"]
        with pending(gateway, key, path, body):
            wait_until(lambda: gate.active == 1)
            wait_until(lambda: gateway.gateway.book.open_holds == 1)
        wait_until(lambda: gateway.gateway.book.open_holds == 0)
        wait_until(lambda: gate.active == 0)
        assert all(row["spent_usd"] == "0" for row in gateway.perform("keys.list")["keys"])
        assert gateway.differences() == []


def test_work_that_nobody_waits_for_is_given_up(tmp_path: Path) -> None:
    """The process that computes for a client that left is ended, and the next client is served."""
    with running_gateway(tmp_path, IMAGE_MODELS, media_workers_max=1) as gateway:
        key = gateway.new_key()
        large = {"image": base64_text(encoded(picture(2000, 2000), "jpeg")), "scale": 2}
        book, workers = gateway.gateway.book, gateway.gateway._workers
        for _ in range(3):
            with pending(gateway, key, UPSCALE, large):
                wait_until(lambda: book.open_holds == 1)
                (computing,) = workers.process_ids
            wait_until(lambda gone=computing: gone not in workers.process_ids)
            wait_until(lambda: book.open_holds == 0)
        small = {"image": base64_text(png()), "scale": 2}
        assert ask(gateway, key, small, path=UPSCALE).status == 200
        (paid,) = [row["spent_usd"] for row in gateway.perform("keys.list")["keys"][1:]]
        assert paid == "0.02"
        assert gateway.differences() == []


def test_a_stop_leaves_no_process_and_no_hold(tmp_path: Path) -> None:
    """A gateway that is asked to end amid images ends in good time; its books are in order."""
    config = tmp_path / "traghetto.toml"
    config.write_text(IMAGE_MODELS)
    data = tmp_path / "data"
    with gateway_process(
        tmp_path, "--config", str(config), "--data-dir", str(data), "--drain-seconds-max", "1"
    ) as gateway:
        operate(data, "accounts", "create", "painters", "--usd", "10")
        key = operate(data, "keys", "create", "--account", "painters")["secret"]
        large = {"image": base64_text(encoded(picture(2000, 2000), "jpeg")), "scale": 2}
        threads = [
            threading.Thread(target=_ask_quietly, args=(gateway, key, large)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")
        wait_until(lambda: bool(children.read_text()))
        workers = children.read_text().split()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(20) == 0
        for thread in threads:
            thread.join()
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert operate(data, "ledger", "verify")["differences"] == []


def _ask_quietly(gateway: Any, key: str, body: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(gateway, key, body, path=UPSCALE)
