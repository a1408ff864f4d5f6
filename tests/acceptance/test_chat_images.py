"""Images in chats: what a model's server is given of them, what they cost, what is refused."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import features

from support import upstream as up
from support.client import (
    Answer,
    ask,
    assert_published,
    chat,
    chat_body,
    get,
    pending_chat,
)
from support.configuration import model_toml, upstream_toml
from support.gateway import RunningGateway, running_gateway
from support.images import blank_bomb, data_url, encoded, opened, picture, png, turned
from support.repository import ROOT
from support.upstream import Act, Exchange, FaultUpstream, Request, upstream_in_thread
from support.waiting import wait_until
from traghetto.app import Launch
from traghetto.pipeline.stages import chat_images
from traghetto.settings import Upstream

NOT_ACCEPTED = b'{"error":"Supplied image did not pass validation checks."}'
LOOPBACK = ("127.0.0.1/32",)
HEIF = ROOT / "tests" / "media" / "files" / "scene-64x64.heic"
SEES = "{ supportsVision = true, supportsMultipleImages = true }"
SEES_ONE_MESSAGE = "{ supportsVision = true, maxImages = 2 }"
_numbers = itertools.count()
PRICE_NANO_USD = 1_000
"""Of a prompt token; an output token costs twice as much."""


@dataclass
class Stage:
    """A gateway, the server behind its models, which also serves pictures, and a caller."""

    gateway: RunningGateway
    server: FaultUpstream
    account: str
    """A fresh one with 10 USD."""
    key: str

    def url(self, data: bytes | Act, path: str = "/pictures/1") -> str:
        """Where a picture is to be found."""
        act = served(data) if isinstance(data, bytes) else data
        self.server.by_path[path] = act
        return f"http://127.0.0.1:{self.server.port}{path}"

    def look(self, *urls: str, model: str = "relayed", **members: Any) -> Answer:
        """The answer to a question about images, all in one message."""
        return chat(self.gateway, self.key, model, messages=[message(*urls)], **members)

    def spent(self) -> Decimal:
        """What the caller has paid, in nano_usd."""
        return (10 - Decimal(self.gateway.usd(self.account))) * 10**9

    @property
    def fetched(self) -> list[str]:
        """The paths of the pictures that were fetched."""
        paths = [request.path for request in self.server.other_requests]
        return [path for path in paths if path.startswith("/pictures/")]


def message(*urls: str, text: str = "What is this?") -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


def served(data: bytes, content_type: str = "image/png") -> Act:
    return up.answer(200, data, content_type=content_type)


def given(request: Request) -> list[bytes]:
    """The files that a model's server was given, which must be all in the request itself."""
    files = []
    for sent in request.json["messages"]:
        for part in sent["content"] if isinstance(sent["content"], list) else ():
            if part["type"] == "image_url":
                assert part["image_url"].keys() == {"url"}
                head, _, text = part["image_url"]["url"].partition(",")
                assert head in {"data:image/png;base64", "data:image/jpeg;base64"}
                files.append(base64.b64decode(text, validate=True))
    assert b"http://" not in request.body
    return files


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, Any]]:
    with upstream_in_thread() as server:
        models = [{"id": name} for name in ("relayed", "single", "known")]
        server.models_act = up.answer_json({"object": "list", "data": models})
        behind = {"upstreams": '["behind"]', "context_tokens": ""}
        toml = (
            upstream_toml(server)
            + model_toml("relayed", capabilities=SEES, **behind)
            + model_toml("single", capabilities=SEES_ONE_MESSAGE, **behind)
            + model_toml("known", capabilities=SEES, image_tokens_max="300", **behind)
            + model_toml("simulated")
            + model_toml("blind", capabilities="{ supportsVision = false }")
        )
        settings = {
            "media_fetch_allow_networks": LOOPBACK,
            "image_bytes_max": 1 << 20,
            "failed_requests_max": 10_000,
        }
        with running_gateway(tmp_path_factory.mktemp("images"), toml, **settings) as gateway:
            yield gateway, server


@pytest.fixture
def stage(running: tuple[RunningGateway, FaultUpstream]) -> Stage:
    gateway, server = running
    server.requests.clear()
    server.other_requests.clear()
    server.queue.clear()
    account = f"account-{next(_numbers)}"
    gateway.perform("accounts.create", name=account, usd="10")
    key = gateway.perform("keys.create", account=account)["secret"]
    return Stage(gateway, server, account, key)


# --- what the model's server is given -----------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_client_of_openai_sends_images_by_data_url_and_by_url(
    stage: Stage, stream: bool
) -> None:
    """Both arrive as the bytes that they are, in their places, and the answer is charged."""
    first, second = png(96, 64), encoded(picture(70, 80), "jpeg")
    content: Any = message(data_url(first), stage.url(second))["content"]
    with openai.OpenAI(api_key=stage.key, base_url=f"{stage.gateway.url}/v1") as client:
        messages: Any = [{"role": "user", "content": content}]
        if stream:
            chunks = client.chat.completions.create(model="relayed", messages=messages, stream=True)
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        else:
            answer = client.chat.completions.create(model="relayed", messages=messages)
            text = answer.choices[0].message.content or ""
    assert text == "Hello."
    (request,) = stage.server.requests
    assert given(request) == [first, second]
    assert [opened(data).size for data in given(request)] == [(96, 64), (70, 80)]
    assert request.json["messages"][0]["content"][0] == {"type": "text", "text": "What is this?"}
    assert stage.gateway.differences() == []
    assert stage.gateway.gateway.book.open_holds == 0


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: encoded(picture(80, 72), "webp"), "JPEG"),
        (lambda: encoded(picture(80, 72, "RGBA"), "webp", lossless=True), "PNG"),
        (lambda: turned(72, 80, 6), None),
        (lambda: encoded(picture(80, 72), "gif"), None),
        pytest.param(
            lambda: encoded(picture(80, 72), "avif"),
            None,
            marks=pytest.mark.skipif(not features.check("avif"), reason="no encoder for AVIF"),
        ),
    ],
    ids=["WebP", "WebP with alpha", "turned", "GIF", "AVIF"],
)
def test_a_server_gets_png_or_jpeg_whatever_was_sent(
    stage: Stage, make: Callable[[], bytes], form: str | None
) -> None:
    """Upright and of the same size; some servers of models read no other format."""
    assert stage.look(data_url(make(), "image/x")).status == 200
    (data,) = given(stage.server.requests[0])
    image = opened(data)
    assert image.size == (80, 72)
    assert image.format in ({"PNG", "JPEG"} if form is None else {form})


def test_heif_is_decoded_too(stage: Stage) -> None:
    """With the optional decoder a photograph of a telephone arrives like any other."""
    pytest.importorskip("pi_heif")
    assert stage.look(data_url(HEIF.read_bytes(), "image/heic")).status == 200
    (data,) = given(stage.server.requests[0])
    assert (opened(data).size, opened(data).format) in (((64, 64), "PNG"), ((64, 64), "JPEG"))


def test_images_of_several_messages_keep_their_places(stage: Stage) -> None:
    """A model that takes many is given all; texts stay between them."""
    files = [png(64 + n, 64) for n in range(5)]
    messages = [
        message(data_url(files[0]), stage.url(files[1], "/pictures/b")),
        {"role": "assistant", "content": "Boats."},
        message(stage.url(files[2], "/pictures/c"), data_url(files[3])),
        message(stage.url(files[4], "/pictures/e")),
    ]
    assert chat(stage.gateway, stage.key, "relayed", messages=messages).status == 200
    (request,) = stage.server.requests
    assert given(request) == files
    assert [m["role"] for m in request.json["messages"]] == ["user", "assistant", "user", "user"]


def test_only_images_that_reach_the_model_are_read(stage: Stage) -> None:
    """A model of one message's images never sees earlier ones, so these may be anything."""
    last = png(64, 65)
    messages = [
        message(stage.url(up.hang, "/pictures/old"), data_url(b"no image")),
        message(stage.url(last)),
        {"role": "user", "content": "Well?"},
    ]
    assert chat(stage.gateway, stage.key, "single", messages=messages).status == 200
    (request,) = stage.server.requests
    assert given(request) == [last]
    assert request.json["messages"][0]["content"] == [{"type": "text", "text": "What is this?"}]
    assert stage.fetched == ["/pictures/1"]
    too_many = chat(stage.gateway, stage.key, "single", messages=[message(*["data:,"] * 3)])
    assert too_many.json["issues"][0]["message"] == (
        "At most 2 image_url parts are allowed per request"
    )


def test_the_simulator_says_what_it_received(stage: Stage) -> None:
    """Whole and streamed; the prompt is counted exactly, 256 tokens for each image."""
    urls = (data_url(png(640, 480)), stage.url(encoded(picture(64, 99), "jpeg")))
    sees = " I received 2 images: 640 x 480, PNG; 64 x 99, JPEG."
    whole = stage.look(*urls, model="simulated", max_tokens=64)
    assert sees in whole.text
    assert whole.json["usage"]["prompt_tokens"] == 3 + 4 + 4 + 2 * 256
    assert sees in stage.look(*urls, model="simulated", max_tokens=64, stream=True).text


def test_an_attempt_that_failed_is_repeated_with_the_same_images(stage: Stage) -> None:
    """The body is sent in pieces, and whole each time."""
    files = [png(90, 64), png(64, 90)]
    stage.server.then(up.answer_json({"error": {"message": "x"}}, 500))
    assert stage.look(*map(data_url, files)).status == 200
    first, second = stage.server.requests
    assert given(first) == given(second) == files
    assert first.body == second.body


# --- what is refused ----------------------------------------------------------------------------


BAD_IMAGES: list[tuple[str, Callable[[], bytes], str]] = [
    ("broken", lambda: png(300, 300)[:-500], "CORRUPTED_IMAGE"),
    ("narrow", lambda: png(63, 200), "IMAGE_TOO_SMALL"),
    ("low", lambda: png(200, 63), "IMAGE_TOO_SMALL"),
    ("wide", lambda: blank_bomb(7681, 4320), "IMAGE_TOO_LARGE"),
]


@pytest.mark.parametrize("by_url", [False, True], ids=["data URL", "URL"])
@pytest.mark.parametrize(
    ("make", "code"), [row[1:] for row in BAD_IMAGES], ids=[row[0] for row in BAD_IMAGES]
)
def test_an_image_that_no_model_should_see_is_named(
    stage: Stage, make: Callable[[], bytes], code: str, by_url: bool
) -> None:
    """By its own code, before the model's server hears of the request, and free of charge."""
    url = stage.url(make()) if by_url else data_url(make())
    assert_published(stage.look(url, stream=by_url), code)
    assert stage.server.requests == []
    assert stage.spent() == 0


def test_the_largest_and_the_smallest_image_pass(stage: Stage) -> None:
    """The bounds belong to what is taken."""
    for size in ((7680, 4320), (64, 64)):
        assert stage.look(data_url(blank_bomb(*size))).status == 200
        assert opened(given(stage.server.requests[-1])[0]).size == size


async def endless(exchange: Exchange) -> None:
    """A picture that never ends."""
    await exchange.head(200, {"content-type": "image/png", "transfer-encoding": "chunked"})
    while not exchange.request.closed.is_set():
        await exchange.chunk(b"\0" * 65536)


REFUSED_URLS: dict[str, Callable[[Stage], str]] = {
    "redirect": lambda s: s.url(up.answer(302, headers={"location": "http://127.0.0.1/x.png"})),
    "missing": lambda s: s.url(up.answer(404, png(64, 64), content_type="image/png")),
    "a page": lambda s: s.url(served(b"<html><img src=x.png></html>", "text/html")),
    "SVG": lambda s: s.url(served(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")),
    "too large": lambda s: s.url(served(png(64, 64) + bytes(1 << 20))),
    "endless": lambda s: s.url(endless),
    "private": lambda _: "http://169.254.169.254/latest/meta-data/",
    "nobody": lambda _: "https://nobody.invalid/x.png",
    "another scheme": lambda _: "ftp://example.com/x.png",
    "a file": lambda _: "file:///etc/passwd",
    "text by data URL": lambda _: data_url(b"words", "text/plain"),
    "too large by data URL": lambda _: data_url(png(64, 64) + bytes(1 << 20)),
}


@pytest.mark.parametrize("make", REFUSED_URLS.values(), ids=REFUSED_URLS)
def test_what_cannot_be_had_or_is_no_image_is_not_accepted(
    stage: Stage, make: Callable[[Stage], str]
) -> None:
    """One sentence for all of it; the model's server hears nothing, and nothing is charged."""
    answer = stage.look(make(stage))
    assert (answer.status, answer.body) == (400, NOT_ACCEPTED)
    assert answer.headers["x-error-code"] == "INVALID_REQUEST"
    assert stage.server.requests == []
    assert stage.spent() == 0


def test_of_several_bad_images_the_first_is_told(stage: Stage) -> None:
    """Also when a later one is found out sooner."""
    slow = stage.url(_slowly(png(63, 63)), "/pictures/slow")
    answer = stage.look(data_url(png(64, 64)), slow, data_url(b"x"), data_url(b"x", "text/plain"))
    assert_published(answer, "IMAGE_TOO_SMALL")


def _slowly(data: bytes) -> Act:
    async def act(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        await served(data)(exchange)

    return act


def test_a_model_without_vision_fetches_nothing(stage: Stage) -> None:
    """The refusal names the first image, as ever."""
    answer = stage.look(stage.url(png()), model="blind")
    assert answer.status == 400
    assert answer.json["issues"] == [
        {
            "code": "custom",
            "path": ["messages", 0, "content", 1],
            "message": "Image content is not supported by this model. Please use a model that "
            "supports it.",
        }
    ]
    assert stage.fetched == []


def test_images_of_one_request_are_bounded_together(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their bytes, by the memory that all requests share, and by time."""
    urls = [data_url(png(200, 200))] * 3
    monkeypatch.setattr(chat_images, "IMAGES_BYTES_MAX", 2 * len(png(200, 200)))
    assert_published(stage.look(*urls), "PAYLOAD_TOO_LARGE")
    monkeypatch.undo()
    bodies = stage.gateway.gateway.services.bodies
    monkeypatch.setattr(bodies, "_bytes_max", 1024)
    assert_published(stage.look(*urls), "MODEL_AT_CAPACITY")
    monkeypatch.undo()
    assert bodies.bytes == 0
    monkeypatch.setattr(chat_images, "IMAGES_SECONDS_MAX", 0.2)
    answer = stage.look(stage.url(up.hang))
    assert (answer.status, answer.body) == (400, NOT_ACCEPTED)
    assert stage.server.requests == []


def test_nothing_of_an_image_is_logged(stage: Stage) -> None:
    """Neither its URL nor its bytes, also where it is refused."""
    secret = "c2VjcmV0LXRva2Vu"
    stage.look(stage.url(up.answer(404), f"/pictures/{secret}?sig={secret}"))
    stage.look(f"data:image/png;base64,{secret}")
    stage.look(f"https://{secret}.invalid/{secret}")
    assert secret not in stage.gateway.log.getvalue()


# --- clients that leave, and requests that come twice --------------------------------------------


def test_a_client_that_leaves_ends_the_fetch(stage: Stage) -> None:
    """The connection to the picture's server is closed, and nothing remains of the request."""
    url = stage.url(up.hang)
    with pending_chat(stage.gateway, stage.key, "relayed", messages=[message(url)]):
        wait_until(lambda: stage.fetched)
    wait_until(lambda: stage.server.other_requests[-1].closed_by_peer_at is not None)
    wait_until(lambda: stage.gateway.gateway.services.bodies.bytes == 0)
    assert stage.gateway.gateway.book.open_holds == 0
    assert stage.server.requests == []


def test_a_repeated_request_is_answered_once(stage: Stage) -> None:
    """The same image under the same key is neither read nor charged again; another is refused."""

    def asked(url: str) -> Answer:
        body = chat_body("relayed", messages=[message(url)])
        headers: dict[str, str | None] = {"idempotency-key": "key-1"}
        return ask(stage.gateway, stage.key, body, headers=headers)

    url = stage.url(png(64, 64))
    first, again = asked(url), asked(url)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body
    assert len(stage.server.requests) == len(stage.fetched) == 1
    assert asked(data_url(png(64, 64))).json["error"].startswith("This Idempotency-Key was already")


# --- money --------------------------------------------------------------------------------------


def usage(prompt: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3}


@pytest.mark.parametrize(
    ("model", "reported", "charged"),
    [
        ("relayed", usage(7_000), 7_000),
        ("relayed", usage(2_000_000), None),
        ("relayed", None, None),
        ("known", usage(300), 300),
        ("known", usage(7_000), None),
    ],
    ids=["reported", "unbelievable", "not reported", "of a known encoder", "above its most"],
)
def test_an_image_is_charged_as_it_was_counted(
    stage: Stage, model: str, reported: dict[str, int] | None, charged: int | None
) -> None:
    """By the backend where that can be, else by an estimate from its size: 23 times 18 patches."""
    stage.server.then(up.answer_json(up.completion(usage=reported)))
    answer = stage.look(data_url(png(640, 480)), model=model)
    assert answer.status == 200
    told = answer.json["usage"]
    if charged is None:
        image = 300 if model == "known" else 23 * 18
        assert image < told["prompt_tokens"] < image + 60
    else:
        assert told["prompt_tokens"] == charged
    prompt, output = told["prompt_tokens"], told["completion_tokens"]
    assert stage.spent() == (prompt + 2 * output) * PRICE_NANO_USD
    assert stage.gateway.differences() == []


def test_a_hold_covers_what_an_image_can_cost(stage: Stage) -> None:
    """The text of a data URL does not count, the image's size does."""
    stage.server.then(up.hang)
    url = data_url(png(640, 480))
    with pending_chat(stage.gateway, stage.key, "relayed", messages=[message(url)], max_tokens=1):
        wait_until(lambda: stage.gateway.gateway.book.open_holds == 1)
        wait_until(lambda: stage.server.requests)
        (hold,) = stage.gateway.gateway.book._open.values()
        tokens = hold.amount_nano_usd / PRICE_NANO_USD
        assert 7_424 < tokens < 7_424 + 600 < len(url) / 4
    wait_until(lambda: stage.gateway.gateway.book.open_holds == 0)


def test_a_bad_image_is_found_before_funds_are_looked_at(stage: Stage) -> None:
    """Steps 14 and 16 of the order of checks."""
    poor = stage.gateway.new_key(account={"usd": "0"})
    bad = chat(stage.gateway, poor, "relayed", messages=[message(data_url(b"x"))])
    assert_published(bad, "CORRUPTED_IMAGE")
    good = chat(stage.gateway, poor, "relayed", messages=[message(data_url(png(64, 64)))])
    assert_published(good, "INSUFFICIENT_BALANCE")


# --- what is advertised -------------------------------------------------------------------------


def test_the_listing_says_which_models_see(stage: Stage) -> None:
    """By their entries; only the simulator sees without being told to."""
    listed = get(stage.gateway, "/v1/models").json["data"]
    capabilities = {model["id"]: model["model_spec"]["capabilities"] for model in listed}
    assert {
        name: (found["supportsVision"], found["supportsMultipleImages"], found.get("maxImages"))
        for name, found in capabilities.items()
    } == {
        "relayed": (True, True, None),
        "single": (True, False, 2),
        "known": (True, True, None),
        "simulated": (True, True, None),
        "blind": (False, True, None),
    }


def test_without_configuration_the_first_model_that_sees_is_the_default_for_vision(
    tmp_path: Path,
) -> None:
    """The simulator is, until there is another; it answers under the trait's name."""
    with running_gateway(tmp_path) as gateway:
        traits = get(gateway, "/v1/models/traits").json["data"]
        assert traits == {"default": "simulator", "default_vision": "simulator"}
        seen = [message(data_url(png(64, 64)))]
        answer = chat(gateway, gateway.new_key(), "default_vision", messages=seen, max_tokens=64)
        assert (
            "1 image: 64 x 64, PNG" in json.loads(answer.body)["choices"][0]["message"]["content"]
        )


@pytest.mark.parametrize(
    ("modalities", "traits"),
    [({"vision": True}, {"default": "v", "default_vision": "v"}), ({}, {"default": "v"})],
)
def test_a_server_that_says_so_is_shown_images(
    tmp_path: Path, modalities: dict[str, bool], traits: dict[str, str]
) -> None:
    """Without an entry: llama.cpp tells what it was started with, and is believed."""
    with upstream_in_thread() as server:
        listing = {"object": "list", "data": [{"id": "v", "owned_by": "llamacpp"}]}
        server.models_act = up.answer_json(listing)
        server.by_path["/props"] = up.answer_json({"modalities": modalities})
        flags = {"data_dir": tmp_path / "data", "port": 0}
        launch = Launch(upstreams=(Upstream(name="u", url=server.url),), flags=flags)
        with running_gateway(tmp_path, launch=launch) as gateway:
            assert get(gateway, "/v1/models/traits").json["data"] == traits
            seen = [message(data_url(png(64, 64)))]
            answer = chat(gateway, gateway.new_key(), "v", messages=seen)
            assert answer.status == (200 if modalities else 400)
