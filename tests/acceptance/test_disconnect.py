"""Clients that leave: the backend is stopped, and the client pays for what its socket took.

Each test leaves in another phase of a request. The rule is contract A.4: nothing before the first
output is charged, after it the prompt and the output that was delivered, and there is exactly one
settlement.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support import upstream as up
from support.client import chat_body, raw_chat
from support.configuration import model_toml, upstream_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import Act, FaultUpstream, Request, upstream_in_thread
from support.waiting import wait_until
from traghetto.engines.openai.backend import STREAM_READ_BYTES_MAX
from traghetto.storage.facts import UsageRecorded
from traghetto.storage.sqlite import open_read_only

STOP_SECONDS_MAX = 0.25
STALL_SECONDS = 0.6
START = up.usual_events()[:3]
"""The role, and two pieces of text."""
WORDS = 24
LONG_FRAME_BYTES = 4096
LONG_FRAME_TOKENS = LONG_FRAME_BYTES // 4
"""What a delta of that size is taken for where nobody counts."""
BUFFERED_BYTES_MAX = 64 * 1024 + STREAM_READ_BYTES_MAX
"""What may wait in the server's own buffer when a stalled connection is cut: up to its high-water
mark, and what was written in one piece at that point."""


def with_usage(payload: bytes, completion_tokens: int) -> bytes:
    usage = {"prompt_tokens": 11, "completion_tokens": completion_tokens}
    return payload[:-1] + b"," + json.dumps({"usage": usage}).encode()[1:]


async def flood(exchange: up.Exchange) -> None:
    """Far more output than any buffer on the way holds, as fast as it is taken."""
    await exchange.head(200, up.CHUNKED)
    with contextlib.suppress(ConnectionError):
        for _ in range(20_000):
            await exchange.chunk(up.event(up.delta("x" * LONG_FRAME_BYTES)))


ACTS: dict[str, Act] = {
    "hang": up.hang,
    "slow-headers": up.slow_headers(0.1),
    "role-only": up.stream(START[:1], then=up.hang),
    "mid-stream": up.stream(START, then=up.hang),
    "metered": up.stream([with_usage(p, 7 * n) for n, p in enumerate(START)], then=up.hang),
    "words": up.stream(up.usual_events(*map(str, range(WORDS))), seconds=0.01),
    "flood": flood,
}


@dataclass
class Stage:
    """The gateway and the backend behind it."""

    gateway: RunningGateway
    upstream: FaultUpstream

    def request(self, model: str) -> Request:
        """The last request for `model` that reached the backend; waits for it."""
        wait_until(lambda: any(r.model == model for r in self.upstream.requests))
        return [r for r in self.upstream.requests if r.model == model][-1]


@dataclass
class Customer:
    """A fresh account with 10 USD."""

    stage: Stage
    name: str
    key: str

    def start(
        self,
        model: str,
        *,
        stream: bool = True,
        receive_bytes: int | None = None,
        prompt_bytes: int = 0,
    ) -> Client:
        connection = socket.socket()
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(10)
        connection.connect(self.stage.gateway.address)
        body = chat_body(model, max_tokens=None, stream=stream)
        body["messages"][0]["content"] += " " * prompt_bytes
        connection.sendall(raw_chat(body, self.key))
        return Client(connection)

    def usages(self) -> list[UsageRecorded]:
        """The usage records of the account, once nothing of it is under way any more."""
        gateway = self.stage.gateway
        wait_until(lambda: all(m.outstanding == 0 for m in members(gateway)))
        wait_until(lambda: not gateway.gateway.book._open)
        assert gateway.differences() == []
        account = gateway.perform("accounts.show", account=self.name)
        with open_read_only(gateway.data_dir) as books:
            assert list(books.holds()) == []
            usages = [u for u in books.usages() if u.account_id == account["id"]]
        spent = sum(usage.charged for usage in usages)
        assert account["usd"] == f"{10 - spent / 10**9:.9f}".rstrip("0").rstrip(".")
        return usages


def members(gateway: RunningGateway) -> list[Any]:
    return [m for pool in gateway.gateway.services.fleet.pools.values() for m in pool.members]


class Client:
    """A connection whose client leaves at will."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""

    def read_until(self, *needles: bytes) -> None:
        while not all(needle in self.received for needle in needles):
            piece = self.connection.recv(65536)
            assert piece, "the gateway closed first"
            self.received += piece

    def leave(self, *, reset: bool = False) -> float:
        """Close the connection; the moment at which that happened."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        return time.monotonic()

    def close(self) -> None:
        self.connection.close()

    @property
    def output(self) -> int:
        """Pieces of text in what was received."""
        return self.received.count(b'"content":"') - self.received.count(b'"content":""')


def assert_stopped(request: Request, left_at: float) -> None:
    """The gateway closed its connection to the backend soon after `left_at`."""
    wait_until(request.closed.is_set)
    assert request.closed_by_peer_at is not None
    assert request.closed_by_peer_at - left_at <= STOP_SECONDS_MAX


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with upstream_in_thread() as upstream:
        upstream.by_model |= ACTS | {"narrow": up.stream(START, then=up.hang)}
        relayed = {"upstreams": '["behind"]', "context_tokens": ""}
        queue = {"concurrency_max": "1", "queue_max": "4", "queue_seconds_max": "20"}
        toml = (
            f'rate_limits = "off"\nwrite_stall_seconds_max = {STALL_SECONDS}\n'
            + upstream_toml(upstream)
            + "".join(model_toml(name, **relayed) for name in ACTS if name != "flood")
            + model_toml("flood", **{**relayed, "context_tokens": "4_000_000"})
            + model_toml("narrow", **relayed, **queue)
        )
        with running_gateway(tmp_path_factory.mktemp("leaving"), toml) as gateway:
            yield Stage(gateway, upstream)


@pytest.fixture
def customer(stage: Stage) -> Customer:
    key = stage.gateway.new_key()
    accounts = stage.gateway.perform("accounts.list")["accounts"]
    return Customer(stage, accounts[-1]["name"], key)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", ["hang", "slow-headers"])
@pytest.mark.parametrize("prompt_bytes", [0, 1_000_000], ids=["short", "long"])
def test_a_client_that_leaves_before_the_answer_pays_nothing(
    customer: Customer, model: str, stream: bool, reset: bool, prompt_bytes: int
) -> None:
    """The backend is stopped within a quarter of a second, and nothing was bought.

    Also after a long body, whose reading had been paused for a while.
    """
    before = len(customer.stage.upstream.requests)
    client = customer.start(model, stream=stream, prompt_bytes=prompt_bytes)
    wait_until(lambda: len(customer.stage.upstream.requests) > before)
    request = customer.stage.request(model)
    left_at = client.leave(reset=reset)
    assert_stopped(request, left_at)
    assert customer.usages() == []
    assert len(customer.stage.upstream.requests) == before + 1, "nothing is retried for nobody"


def test_a_client_that_leaves_within_its_own_request_costs_nobody_anything(
    customer: Customer,
) -> None:
    """Half a body reaches no backend."""
    before = len(customer.stage.upstream.requests)
    request = raw_chat(chat_body("hang", max_tokens=None, stream=False), customer.key)
    with socket.create_connection(customer.stage.gateway.address) as connection:
        connection.sendall(request[:-5])
        time.sleep(0.05)
    assert customer.usages() == []
    assert len(customer.stage.upstream.requests) == before


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_client_that_leaves_after_the_role_alone_pays_nothing(
    customer: Customer, reset: bool
) -> None:
    """The first frame announces the role; it is not yet output."""
    client = customer.start("role-only")
    client.read_until(b'"role":"assistant"')
    left_at = client.leave(reset=reset)
    assert_stopped(customer.stage.request("role-only"), left_at)
    assert customer.usages() == []


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_client_that_leaves_in_mid_stream_pays_for_what_it_got(
    customer: Customer, reset: bool
) -> None:
    """Two pieces of text were delivered: the prompt and two tokens, counted here."""
    client = customer.start("mid-stream")
    client.read_until(b'"lo"')
    left_at = client.leave(reset=reset)
    assert_stopped(customer.stage.request("mid-stream"), left_at)
    (usage,) = customer.usages()
    assert (usage.completion_tokens, usage.basis, usage.streamed) == (2, "counted", True)
    assert usage.charged == usage.prompt_tokens * 1_000 + 2 * 2_000


def test_a_client_that_leaves_pays_by_reported_usage_capped_by_delivery(
    customer: Customer,
) -> None:
    """A backend that counts as it goes knows the prompt; its output counts as far as it went out."""
    client = customer.start("metered")
    client.read_until(b'"lo"')
    client.leave()
    (usage,) = customer.usages()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.basis) == (11, 2, "backend")
    assert usage.charged == 11 * 1_000 + 2 * 2_000


def test_leaving_is_nobodys_failure(customer: Customer) -> None:
    """The breaker ignores it, and metrics count it as 499."""
    gateway = customer.stage.gateway
    pool = gateway.gateway.services.fleet.pools["mid-stream"]
    for _ in range(6):
        client = customer.start("mid-stream")
        client.read_until(b'"lo"')
        client.leave()
    assert len(customer.usages()) == 6
    assert pool.members[0].breaker._consecutive == 0
    exposition = gateway.gateway.metrics.exposition().decode()
    assert 'status="499"' in exposition


def test_a_client_that_leaves_the_queue_never_reaches_the_backend(customer: Customer) -> None:
    """Its place in the queue is free at once, while the slot is still taken."""
    stage = customer.stage
    gate = stage.gateway.gateway.services.fleet.gates["narrow"]
    with contextlib.closing(customer.start("narrow")) as first:
        first.read_until(b'"lo"')
        second = customer.start("narrow")
        wait_until(lambda: gate.waiting == 1)
        second.leave()
        wait_until(lambda: gate.waiting == 0, 1.0)
        assert gate.active == 1
    assert len(customer.usages()) == 1
    assert gate.active == 0
    assert sum(1 for r in stage.upstream.requests if r.model == "narrow") == 1


def test_a_reader_that_stalls_is_cut_and_pays_for_what_was_accepted(customer: Customer) -> None:
    """No connection is kept for a client that does not read; the backend is stopped with it."""
    client = customer.start("flood", receive_bytes=16 * 1024)
    request = customer.stage.request("flood")
    started = time.monotonic()
    wait_until(request.closed.is_set, 20)
    assert STALL_SECONDS <= time.monotonic() - started < STALL_SECONDS + 5
    (usage,) = customer.usages()
    with contextlib.suppress(ConnectionError):
        while piece := client.connection.recv(65536):
            client.received += piece
    client.leave()
    assert client.output > 0
    assert b"[DONE]" not in client.received
    assert b'"usage"' not in client.received
    unread_max = BUFFERED_BYTES_MAX // LONG_FRAME_BYTES + 2
    frames = usage.completion_tokens / LONG_FRAME_TOKENS
    assert client.output <= frames <= client.output + unread_max
    assert usage.basis == "counted"


def test_whenever_a_client_leaves_it_pays_once_and_never_for_more_than_was_sent(
    customer: Customer,
) -> None:
    """Two dozen clients leave at arbitrary moments; what each received was paid for, and only once."""
    rng = random.Random(11)
    received: dict[str, int] = {}
    for _ in range(24):
        client = customer.start("words")
        until = time.monotonic() + rng.uniform(0.001, 0.35)
        with contextlib.suppress(TimeoutError):
            while b"[DONE]" not in client.received and (left := until - time.monotonic()) > 0:
                client.connection.settimeout(left)
                client.received += client.connection.recv(512)
        client.leave(reset=rng.random() < 0.5)
        if b"\r\n\r\n" in client.received:
            head = client.received.split(b"\r\n\r\n")[0].decode().lower()
            request_id = head.split("x-request-id: ")[1].split("\r\n")[0]
            received[request_id] = client.output
    charged = {usage.request_id: usage.completion_tokens for usage in customer.usages()}
    assert len(charged) >= 8
    assert any(0 < count < WORDS for count in received.values())
    for request_id, output in received.items():
        finished = output == WORDS and charged.get(request_id) == 3
        assert finished or output <= charged.get(request_id, 0) <= WORDS


def test_nothing_is_left_behind(stage: Stage) -> None:
    """After all of it no task, place or connection remains."""
    gateway = stage.gateway
    wait_until(lambda: all(m.outstanding == 0 for m in members(gateway)))
    services = gateway.gateway.services
    assert services.bodies.bytes == 0
    assert all(gate.active == gate.waiting == 0 for gate in services.fleet.gates.values())

    def chat_tasks() -> int:
        return sum("run_asgi" in repr(task) for task in asyncio.all_tasks())

    wait_until(lambda: gateway.call(chat_tasks) == 0)
