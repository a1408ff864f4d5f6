"""Images by URL: fetched from public addresses only, whatever a name server or a server says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from support.client import Answer, ask, assert_published
from support.configuration import IMAGE_MODELS
from support.gateway import RunningGateway, running_gateway
from support.images import opened, png
from support.upstream import Act, Exchange, FaultUpstream, upstream_in_thread
from support.waiting import wait_until
from traghetto.media.fetching import Fetcher

EDIT = "/api/v1/image/edit"
BACKGROUND = "/api/v1/image/background-remove"
NOT_ACCEPTED = b'{"error":"Supplied image did not pass validation checks."}'
LOOPBACK = ("127.0.0.1/32",)


def served(data: bytes, content_type: str = "image/png", **headers: str) -> Act:
    """A plain answer with a body."""

    async def act(exchange: Exchange) -> None:
        sent = {"content-type": content_type, "content-length": str(len(data))} | headers
        await exchange.head(200, sent)
        await exchange.write(data)

    return act


def redirect(where: str) -> Act:
    async def act(exchange: Exchange) -> None:
        await exchange.head(302, {"location": where, "content-length": "0"})

    return act


async def endless(exchange: Exchange) -> None:
    """A picture that never ends."""
    await exchange.head(200, {"content-type": "image/png", "transfer-encoding": "chunked"})
    with contextlib.suppress(ConnectionError):
        while not exchange.request.closed.is_set():
            await exchange.chunk(b"\0" * 65536)
    exchange.request.closed.set()


async def silent(exchange: Exchange) -> None:
    """A server that never answers."""
    await exchange.wait_closed_by_peer()


@pytest.fixture
def server() -> Iterator[FaultUpstream]:
    with upstream_in_thread() as running:
        running.by_path["/picture.png"] = served(png())
        yield running


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway that may fetch from the loopback address, as a test of an application does."""
    with running_gateway(
        tmp_path,
        IMAGE_MODELS,
        media_fetch_allow_networks=LOOPBACK,
        media_fetch_seconds_max=1.0,
        failed_requests_max=10_000,
    ) as running:
        yield running


def edited(gateway: RunningGateway, url: str) -> Answer:
    body = {"image": url, "prompt": "make it grayscale"}
    return ask(gateway, gateway.new_key(), body, path=EDIT)


def assert_not_accepted(answer: Answer) -> None:
    assert (answer.status, answer.body) == (400, NOT_ACCEPTED)
    assert answer.headers["x-error-code"] == "INVALID_REQUEST"


def test_an_image_is_fetched(gateway: RunningGateway, server: FaultUpstream) -> None:
    """By every endpoint that takes URLs; nothing of the gateway or its caller goes along."""
    url = f"http://127.0.0.1:{server.port}/picture.png?sig=secret"
    server.by_path["/picture.png?sig=secret"] = served(png())
    answer = edited(gateway, url)
    assert opened(answer.body).size == (320, 256)
    (request,) = server.other_requests
    assert request.method == "GET"
    names = {name.lower() for name, _ in request.headers}
    assert names <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
    body = {"image_url": f"http://127.0.0.1:{server.port}/picture.png"}
    assert ask(gateway, gateway.new_key(), body, path=BACKGROUND).status == 200
    assert "secret" not in gateway.log.getvalue()


@pytest.mark.parametrize(
    "act",
    [
        redirect("http://127.0.0.1/elsewhere.png"),
        redirect("http://169.254.169.254/latest/meta-data/"),
        silent,
        served(png(), "image/png", **{"content-encoding": "gzip"}),
    ],
    ids=["redirect", "redirect to metadata", "silence", "compressed"],
)
def test_what_is_not_fetched(gateway: RunningGateway, server: FaultUpstream, act: Act) -> None:
    """Redirects are not followed, and nobody is waited for longer than the deadline."""
    server.by_path["/picture.png"] = act
    assert_not_accepted(edited(gateway, f"http://127.0.0.1:{server.port}/picture.png"))
    assert len(server.other_requests) == 1


def test_what_is_fetched_must_be_an_image(gateway: RunningGateway, server: FaultUpstream) -> None:
    """Whatever its server calls it."""
    server.by_path["/picture.png"] = served(b"<html>", "image/png")
    url = f"http://127.0.0.1:{server.port}/picture.png"
    assert_published(edited(gateway, url), "CORRUPTED_IMAGE")
    server.by_path["/picture.png"] = served(png(), "text/html")
    assert edited(gateway, url).status == 200


def test_a_picture_without_end_is_too_large(gateway: RunningGateway, server: FaultUpstream) -> None:
    """It is given up where its allowance ends, and its connection is closed."""
    server.by_path["/picture.png"] = endless
    url = f"http://127.0.0.1:{server.port}/picture.png"
    answer = edited(gateway, url)
    # On a slow machine the deadline may come first.
    assert answer.status in {413, 400}
    (request,) = server.other_requests
    wait_until(request.closed.is_set)


class Changing:
    """A name server that gives one answer first, and another one after that."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(self, _host: str) -> Sequence[str]:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def close(self) -> None:
        return


class Listener:
    """A socket on loopback that counts who connects: nobody should."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1"):
        self._socket = socket.create_server((host, 0), family=family)
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway as operators run it: it fetches from the public internet only."""
    with running_gateway(
        tmp_path, IMAGE_MODELS, media_fetch_seconds_max=2.0, failed_requests_max=10_000
    ) as running:
        yield running


def with_names(gateway: RunningGateway, resolver: Changing, ports: tuple[int, ...]) -> None:
    """Have names resolved by `resolver`, and `ports` allowed."""
    fetcher = Fetcher(resolver=resolver, allow_ports=ports)
    services = gateway.gateway.services
    services.media = msgspec.structs.replace(services.media, fetcher=fetcher)


@pytest.mark.parametrize(
    "answers",
    [
        [["127.0.0.1"]],
        [["93.184.215.14", "127.0.0.1"]],
        [["::1"]],
        [["::ffff:127.0.0.1"]],
        [["10.0.0.7"]],
        [["169.254.169.254"]],
        [["fd00:ec2::254"]],
        [["100.64.0.1"]],
        [["64:ff9b::7f00:1"]],
        [["2002:7f00:1::"]],
    ],
    ids=lambda answers: ",".join(answers[0]),
)
def test_names_that_lead_inside(closed: RunningGateway, answers: list[list[str]]) -> None:
    """If any address of a name is not public, nothing is fetched from any of them."""
    listener = Listener()
    with_names(closed, Changing(*answers), (listener.port,))
    assert_not_accepted(edited(closed, f"http://pictures.example:{listener.port}/a.png"))
    assert listener.connections == 0
    listener.close()


def test_a_name_is_resolved_once(closed: RunningGateway) -> None:
    """A name that is public when it is looked at cannot turn to loopback when it is connected to.

    The public address is one for documentation, where nobody answers.
    """
    listener = Listener()
    resolver = Changing(["203.0.113.9"], ["127.0.0.1"])
    with_names(closed, resolver, (listener.port,))
    assert_not_accepted(edited(closed, f"http://pictures.example:{listener.port}/a.png"))
    assert (resolver.asked, listener.connections) == (1, 0)
    listener.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "0", "0.0.0.0", "0x7f.1", "2130706433", "0177.0.0.1", "[::1]",
        "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "localhost", "LOCALHOST.", "127.0.0.1.",
        "\uff11\uff12\uff17.0.0.1", "a@127.0.0.1", "127.0.0.1%00.example", "[fe80::1%25lo]",
        "metadata.google.internal", "127\u30020\u30020\u30021",
    ],
)  # fmt: skip
def test_spellings_of_this_machine(closed: RunningGateway, host: str) -> None:
    """No way to write a private address leads there."""
    listener = Listener()
    assert_not_accepted(edited(closed, f"http://{host}:{listener.port}/a.png"))
    assert_not_accepted(edited(closed, f"http://{host}/a.png"))
    assert listener.connections == 0
    listener.close()


@pytest.mark.parametrize("url", ["ftp://a.example/x.png", "file:///etc/passwd", "gopher://a/"])
def test_other_schemes_are_no_urls_of_images(closed: RunningGateway, url: str) -> None:
    """They are read as base64, which they are not."""
    assert_published(edited(closed, url), "CORRUPTED_IMAGE")
