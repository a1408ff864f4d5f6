"""`traghetto serve` as a process over engines that really run: three ways to one answer.

A model file in the gateway's own process, the same file behind llama.cpp's HTTP server, and the
simulator. Each must answer the official client alike, and refuse an over-long prompt alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from support.client import Answer, assert_published, chat, get
from support.gateway import GatewayProcess, gateway_process
from support.llama_server import llama_server
from support.tiny_gguf import CONTEXT_TOKENS, tiny_gguf
from support.upstream import upstream_in_thread
from support.waiting import wait_until

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
TINY_PROMPT_TOKENS = 1 + len("<user>hi\n<assistant>")
"""The tiny model has one token per byte, and one that begins the text."""
UPSTREAM_KEY = "sk-upstream-secret"


@dataclass(frozen=True)
class Engine:
    """A gateway over one engine."""

    gateway: GatewayProcess
    model: str
    context_tokens: int
    prompt_tokens: int | None
    """Of `MESSAGES`, where it can be known by hand."""

    @property
    def key(self) -> str:
        assert self.gateway.admin_key is not None
        return self.gateway.admin_key

    @contextlib.contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        base_url = f"{self.gateway.url}/api/v1"
        with openai.OpenAI(api_key=self.key, base_url=base_url, max_retries=0) as client:
            yield client

    def ask(self, **members: Any) -> Answer:
        return chat(self.gateway, self.key, self.model, **{"max_tokens": None, **members})


@contextlib.contextmanager
def gguf(folder: Path) -> Iterator[Engine]:
    arguments = ("--gguf", str(tiny_gguf()), "--data-dir", str(folder / "data"))
    with gateway_process(folder, *arguments) as gateway:
        yield Engine(gateway, "tiny", CONTEXT_TOKENS, TINY_PROMPT_TOKENS)


@contextlib.contextmanager
def llama_cpp_server(folder: Path) -> Iterator[Engine]:
    with llama_server(tiny_gguf()) as server:
        arguments = ("--upstream", f"{server.address}/v1", "--data-dir", str(folder / "data"))
        with gateway_process(folder, *arguments) as gateway:
            (listed,) = get(gateway, "/v1/models").json["data"]
            yield Engine(gateway, listed["id"], CONTEXT_TOKENS, TINY_PROMPT_TOKENS)


@contextlib.contextmanager
def simulator(folder: Path) -> Iterator[Engine]:
    with gateway_process(folder, "--data-dir", str(folder / "data")) as gateway:
        yield Engine(gateway, "simulator", 32_768, None)


@pytest.fixture(scope="module", params=[gguf, llama_cpp_server, simulator])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    start: Callable[[Path], contextlib.AbstractContextManager[Engine]] = request.param
    with start(tmp_path_factory.mktemp("engine")) as running:
        yield running


def test_it_answers_the_official_client_whole_and_streamed(engine: Engine) -> None:
    """Both ways tell the same number of prompt tokens, and end for a reason."""
    with engine.client() as client:
        whole = client.chat.completions.create(
            model=engine.model, messages=MESSAGES, max_tokens=16, temperature=0
        )
        chunks = list(
            client.chat.completions.create(
                model=engine.model, messages=MESSAGES, max_tokens=16, temperature=0, stream=True
            )
        )
    assert whole.choices[0].finish_reason in {"stop", "length"}
    assert whole.model == engine.model
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 16
    if engine.prompt_tokens is not None:
        assert whole.usage.prompt_tokens == engine.prompt_tokens
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_prompt_that_does_not_fit_is_too_many_tokens(engine: Engine, stream: bool) -> None:
    """The exact body of the contract, whichever engine found out, and the next request is served."""
    long = [{"role": "user", "content": "word " * engine.context_tokens}]
    reply = engine.ask(messages=long, stream=stream)
    assert_published(reply, "TOO_MANY_TOKENS")
    assert reply.headers["x-should-retry"] == "false"
    assert engine.ask(max_tokens=4).status == 200


def test_a_json_schema_holds(engine: Engine) -> None:
    """A strict schema decides what even random weights answer."""
    schema = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}, "port": {"enum": ["in", "out"]}},
        "required": ["sure", "port"],
        "additionalProperties": False,
    }
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "a", "strict": True, "schema": schema},
    }
    with engine.client() as client:
        answer = client.chat.completions.create(
            model=engine.model, messages=MESSAGES, max_tokens=200, response_format=wanted
        )
    text = answer.choices[0].message.content
    assert text is not None
    assert answer.choices[0].finish_reason == "stop", text
    parsed = json.loads(text)
    assert parsed.keys() == {"sure", "port"}
    assert parsed["port"] in {"in", "out"}


def test_several_callers_are_served_at_once(engine: Engine) -> None:
    """More calls than slots wait for each other, and all are answered."""
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda n: engine.ask(max_tokens=8, stream=n % 2 == 0), range(6)))
    assert [reply.status for reply in replies] == [200] * 6


def test_models_that_nobody_priced_cost_nothing(engine: Engine) -> None:
    """The first account has no money; what runs at home answers all the same."""
    reply = engine.ask(max_tokens=4)
    assert reply.status == 200
    assert reply.json["cost"] == {"usd": 0, "diem": 0}
    assert "price" in engine.gateway.log.read_text()


# Servers behind the gateway


def test_a_server_that_is_killed_is_offline(tmp_path: Path) -> None:
    """A real model server dies; its model is offline, and the gateway stays."""
    with llama_server(tiny_gguf()) as server:
        arguments = ("--upstream", f"{server.address}/v1", "--data-dir", str(tmp_path / "data"))
        with gateway_process(tmp_path, *arguments) as gateway:
            (listed,) = get(gateway, "/v1/models").json["data"]
            model = listed["id"]
            assert chat(gateway, gateway.admin_key, model, max_tokens=4).status == 200
            os.kill(server.process_id, signal.SIGKILL)
            for stream in (False, True):
                reply = chat(gateway, gateway.admin_key, model, max_tokens=4, stream=stream)
                assert_published(reply, "MODEL_OFFLINE")


def test_a_server_that_is_down_at_the_start_is_served_once_it_is_up(tmp_path: Path) -> None:
    """The gateway starts without it, says so, and finds its models by itself."""
    with upstream_in_thread() as upstream:
        upstream.go_away()
        arguments = ("--upstream", upstream.url, "--data-dir", str(tmp_path / "data"))
        with gateway_process(tmp_path, *arguments) as gateway:
            assert_published(chat(gateway, gateway.admin_key, "m"), "MODEL_NOT_FOUND")
            assert "does not answer yet" in gateway.log.read_text()
            upstream.come_back()

            def listed() -> list[str]:
                reply = get(gateway, "/v1/models")
                return [model["id"] for model in reply.json["data"]]

            wait_until(lambda: listed() == ["m"], 20)
            assert chat(gateway, gateway.admin_key, "m").status == 200


def test_the_key_of_a_server_comes_from_the_environment(tmp_path: Path) -> None:
    """It is sent to that server, and to nobody else: not to callers, and not to the log."""
    with upstream_in_thread() as upstream:
        arguments = ("--upstream", upstream.url, "--upstream-key-env", "SERVER_KEY")
        with gateway_process(
            tmp_path, *arguments, "--data-dir", str(tmp_path / "data"), SERVER_KEY=UPSTREAM_KEY
        ) as gateway:
            reply = chat(gateway, gateway.admin_key, "m")
            assert reply.status == 200
            metrics = get(gateway, "/metrics").body
        (request,) = upstream.requests
        assert request.header("authorization") == f"Bearer {UPSTREAM_KEY}"
        assert all(r.header("authorization") for r in upstream.other_requests)
        seen = gateway.log.read_text() + reply.body.decode() + str(reply.headers) + metrics.decode()
        assert UPSTREAM_KEY not in seen


def test_a_key_that_is_not_set_stops_the_start(tmp_path: Path) -> None:
    """A server that wants a key is not called without one; the operator is told which variable."""
    command = [sys.executable, "-m", "traghetto", "serve", "--port", "0"]
    command += ["--upstream", "http://127.0.0.1:1/v1", "--upstream-key-env", "NO_SUCH_KEY"]
    environment = {name: value for name, value in os.environ.items() if name != "NO_SUCH_KEY"}
    finished = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert finished.returncode != 0
    assert "NO_SUCH_KEY" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout == ""
