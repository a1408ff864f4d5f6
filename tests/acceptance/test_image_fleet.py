"""Image models of a running gateway: which adapter serves them, and what a reload keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.client import ask, chat_body
from support.configuration import model_toml, upstream_toml
from support.gateway import RunningGateway, running_gateway
from support.image_servers import openai_images
from support.images import png
from support.upstream import answer_json, upstream_in_thread
from support.waiting import wait_until
from traghetto.engines.comfyui.backend import ComfyUIBackend
from traghetto.engines.image_pool import ImagePool
from traghetto.engines.openai.images import OpenAIImageBackend
from traghetto.engines.sdapi.backend import SdapiBackend, SdapiUpscaler

SERVERS = """
[[upstreams]]
name = "plain"
url = "http://127.0.0.1:9/v1"

[[upstreams]]
name = "forge"
url = "http://127.0.0.1:9"
api = "sdapi"
key_env = "FORGE_LOGIN"

[[upstreams]]
name = "comfy"
url = "http://127.0.0.1:9"
api = "comfyui"
"""
GENERATION = '{ generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }'


def image_toml(model_id: str, upstream: str, **members: str) -> str:
    table = {"type": '"image"', "pricing": GENERATION, "upstreams": f'["{upstream}"]', **members}
    return model_toml(model_id, context_tokens="", **table)


def workflow(path: Path, text: str = "{{prompt}}") -> str:
    path.write_text(json.dumps({"1": {"class_type": "X", "inputs": {"text": text}}}))
    return f'"{path}"'


def pool(gateway: RunningGateway, model_id: str) -> ImagePool:
    return gateway.gateway.services.fleet.image_pools[model_id]


def backend(gateway: RunningGateway, model_id: str) -> Any:
    return pool(gateway, model_id).members[0].backend


def records(gateway: RunningGateway, event: str) -> list[dict[str, Any]]:
    return [record for record in gateway.records() if record["event"] == event]


@pytest.fixture(autouse=True)
def _login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_LOGIN", "me:secret")


def test_each_model_has_the_adapter_of_its_server(tmp_path: Path) -> None:
    """By what the upstream speaks, and what the model is for; text has no image pool."""
    upscale = {"type": '"upscale"', "pricing": '{ upscale = { 2x = "0", 4x = "0" } }'}
    toml = (
        SERVERS
        + model_toml("chat")
        + image_toml("a", "plain")
        + image_toml("b", "forge")
        + image_toml("c", "forge", upstream_model='"R-ESRGAN 4x+"', **upscale)
        + image_toml("d", "comfy", workflow=workflow(tmp_path / "paint.json"))
    )
    with running_gateway(tmp_path, toml) as gateway:
        fleet = gateway.gateway.services.fleet
        assert list(fleet.pools) == ["chat"]
        kinds = {name: type(backend(gateway, name)) for name in fleet.image_pools}
        assert kinds == {
            "a": OpenAIImageBackend,
            "b": SdapiBackend,
            "c": SdapiUpscaler,
            "d": ComfyUIBackend,
        }
        # The port refuses connections, which the health checks of the pools find out.
        wait_until(lambda: len(records(gateway, "backend_down")) == 4)
        key = gateway.new_key()
        assert ask(gateway, key, chat_body("a")).status == 400
        assert ask(gateway, key, chat_body("chat")).status == 200
        assert "secret" not in gateway.log.getvalue()


def test_a_reload_keeps_the_pool_of_a_model_that_is_served_as_before(tmp_path: Path) -> None:
    """A workflow that was edited, or another deadline, makes a new one; the old one is closed."""
    path = tmp_path / "paint.json"
    toml = SERVERS + image_toml("kept", "plain") + image_toml("w", "comfy", workflow=workflow(path))
    with running_gateway(tmp_path, toml) as gateway:
        kept, old = pool(gateway, "kept"), pool(gateway, "w")
        gateway.run(gateway.gateway.reload())
        assert (pool(gateway, "kept"), pool(gateway, "w")) == (kept, old)
        workflow(path, "{{prompt=edited}}")
        gateway.run(gateway.gateway.reload())
        assert pool(gateway, "kept") is kept
        assert pool(gateway, "w") is not old
        wait_until(lambda: old.members[0].backend._is_open is False)
        assert backend(gateway, "kept")._is_open


def test_a_workflow_that_cannot_be_used_refuses_the_reload(tmp_path: Path) -> None:
    """The fleet that runs goes on; the record says which file and what to write."""
    path = tmp_path / "paint.json"
    toml = SERVERS + image_toml("w", "comfy", workflow=workflow(path))
    with running_gateway(tmp_path, toml) as gateway:
        old = pool(gateway, "w")
        workflow(path, "{{promt}}")
        gateway.run(gateway.gateway.reload())
        (record,) = records(gateway, "reload_refused")
        assert str(path) in record["reason"]
        assert "did you mean prompt?" in record["reason"]
        assert pool(gateway, "w") is old
        assert backend(gateway, "w")._is_open


def test_the_check_reads_the_workflow(tmp_path: Path) -> None:
    """`traghetto models check` refuses what `serve` would refuse."""
    path, config = tmp_path / "paint.json", tmp_path / "traghetto.toml"
    config.write_text(SERVERS + image_toml("w", "comfy", workflow=workflow(path)))
    command = [sys.executable, "-m", "traghetto", "models", "check", "--config", str(config)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    workflow(path, "no placeholder")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f'{path}: no "{{{{prompt}}}}"' in done.stderr


@pytest.mark.parametrize(
    ("engine", "library", "extra"), [("grabcut", "cv2", "vision"), ("onnx", "onnxruntime", "onnx")]
)
def test_the_check_and_the_start_ask_for_the_same_libraries(
    tmp_path: Path, engine: str, library: str, extra: str
) -> None:
    """Both name the model and what to install, here in a Python that finds the library no more."""
    (tmp_path / "network.onnx").write_bytes(b"not looked at")
    path = f'"{tmp_path}/network.onnx"' if engine == "onnx" else ""
    config = tmp_path / "traghetto.toml"
    members = {"type": '"inpaint"', "engine": f'"{engine}"', "onnx": path, "context_tokens": ""}
    config.write_text(model_toml("cutter", pricing='{ inpaint = "0.03" }', **members))
    hiding = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, p=None: None if n == {library!r} else find(n, p)\n"
        "from traghetto.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", hiding]
    data = ("--data-dir", str(tmp_path / "data"), "--port", "0")
    for asked in (("models", "check"), ("serve", *data)):
        done = subprocess.run(
            [*command, *asked, "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 1, done.stderr
        assert "model 'cutter'" in done.stderr
        assert f"pip install 'traghetto[{extra}]'" in done.stderr


def test_the_check_asks_for_the_files_of_networks(tmp_path: Path) -> None:
    """With the line that names the file."""
    config = tmp_path / "traghetto.toml"
    members = {"type": '"inpaint"', "engine": '"onnx"', "onnx": '"missing.onnx"'}
    toml = model_toml("cutter", pricing='{ inpaint = "0.03" }', context_tokens="", **members)
    config.write_text(toml)
    command = [sys.executable, "-m", "traghetto", "models", "check", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "models[0].onnx: missing.onnx is not a file" in done.stderr


def test_a_backend_whose_images_cannot_be_decoded_is_left_alone(tmp_path: Path) -> None:
    """What begins as a PNG and is none counts against whoever sent it."""
    with upstream_in_thread() as upstream:
        upstream.by_path["/v1/images/generations"] = openai_images(png()[:-30])
        upstream.models_act = answer_json({"object": "list", "data": [{"id": "painter"}]})
        toml = upstream_toml(upstream) + image_toml("painter", "behind")
        with running_gateway(tmp_path, toml) as gateway:
            key = gateway.new_key()
            codes = []
            for number in range(8):
                body = {"model": "painter", "prompt": f"lagoon {number}"}
                answer = ask(gateway, key, body, path="/api/v1/image/generate")
                codes.append(answer.headers["x-error-code"])
            assert codes[0] == "INFERENCE_FAILED"
            assert codes[-1] == "MODEL_OFFLINE"
            assert gateway.differences() == []
