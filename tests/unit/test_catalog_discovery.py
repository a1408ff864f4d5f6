"""Discovery: loopback servers are recognised, suggested and never waited for."""

from __future__ import annotations

import asyncio
import time

import pytest

from traghetto.catalog.discovery import USUAL_SERVERS, UsualServer, discover, recognise

OLLAMA = UsualServer("Ollama", 11434)


def listing(*ids: str, owner: str = "library") -> dict:
    return {"object": "list", "data": [{"id": name, "owned_by": owner} for name in ids]}


def test_only_loopback_is_asked():
    """Every address that is probed is this machine's own."""
    assert {server.port for server in USUAL_SERVERS} == {11434, 8080, 1234, 8000}
    assert all(server.url.startswith("http://127.0.0.1:") for server in USUAL_SERVERS)


def test_servers_are_suggested_with_their_command():
    """A server that answers is named with its models and the command that uses it."""

    async def fetch(url: str):
        if ":11434/" in url:
            return listing("llama3.2:3b", "b", "c", "d")
        if ":8000/" in url:
            return listing("m", owner="vllm")
        raise ConnectionRefusedError

    found = asyncio.run(discover(fetch))
    assert [suggestion.server for suggestion in found] == ["Ollama", "vLLM"]
    assert found[0].line() == (
        "Ollama answers at http://127.0.0.1:11434/v1 (llama3.2:3b, b, c and 1 more). "
        "To use it: traghetto serve --upstream http://127.0.0.1:11434/v1"
    )


def test_silent_servers_are_not_waited_for():
    """All servers are probed together and each for 0.3 seconds at most."""

    async def fetch(url: str):
        await asyncio.sleep(5)

    begin = time.monotonic()
    assert asyncio.run(discover(fetch)) == []
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("failure", [OSError(), ValueError(), TimeoutError(), ConnectionError()])
def test_failures_are_no_findings(failure):
    """Whatever keeps a server from answering, the start goes on."""

    async def fetch(url: str):
        raise failure

    assert asyncio.run(discover(fetch)) == []


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "x",
        {},
        {"data": 3},
        {"data": [3]},
        {"data": [{"id": 3}]},
        {"data": [{"name": "x"}]},
        listing("qwen", owner="venice.ai"),
    ],
)
def test_other_programs_are_not_recognised(answer):
    """Another program on a usual port, or a gateway like this one, is not suggested."""
    assert recognise(answer, OLLAMA) is None


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("library", "Ollama"),
        ("llamacpp", "llama.cpp"),
        ("organization_owner", "LM Studio"),
        ("vllm", "vLLM"),
        ("somebody", "Ollama"),
    ],
)
def test_servers_are_told_apart_by_owner(owner, name):
    """A server on another's port is named by what it writes in `owned_by`."""
    assert recognise(listing("m", owner=owner), OLLAMA).server == name


def test_a_server_without_models_is_found():
    """A fresh Ollama, which sends null for its models, is suggested too."""
    found = recognise({"object": "list", "data": None}, OLLAMA)
    assert found.model_ids == ()
    assert "no model loaded" in found.line()
