"""The clients against the real gateway: answers, exceptions, retries that are charged once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import traghetto.client as ours
from client.fronts import MESSAGES, Front
from client.losing_network import losing_first_answer
from support.configuration import IMAGE_MODELS, model_toml
from support.gateway import RunningGateway, running_gateway
from support.images import png
from support.waiting import wait_until
from traghetto.client import ApiStatusError, Completion, Picture

FAULTS = ("overloaded", "at-capacity", "content-policy", "context-exceeded", "rejected-input")
STREAM_FAULTS = ("broken", "in-band-error", "in-band-overload", "cut-after", "no-done")
BROKEN = [f"broken-{front}-{streams}" for front in ("sync", "async") for streams in (False, True)]
"""A model that fails for each test that needs it: what fails again and again is taken offline."""
TOML = (
    "[rate_limits.l]\nrequests_per_minute = 1\n"
    + model_toml("ferry")
    + model_toml("pro", pro_only="true")
    + model_toml("gated", feature='"beta"')
    + model_toml("embedder", type='"embedding"', engine="", context_tokens="")
    + model_toml("away", offline="true")
    + model_toml("seldom", size_class='"l"')
    + model_toml("hang", fault='"hang"', total_seconds="0.2", first_event_seconds="0.2")
    + model_toml("stalls", fault='"stall-after"', between_events_seconds="0.2")
    + "".join(model_toml(name, fault=f'"{name}"') for name in (*FAULTS, *STREAM_FAULTS))
    + "".join(model_toml(name, fault='"broken"') for name in BROKEN)
    + IMAGE_MODELS
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(folder, TOML, body_bytes_max=1 << 20) as running:
        yield running


def options(gateway: RunningGateway, **key: Any) -> dict[str, Any]:
    """How a client reaches the gateway, with a fresh key."""
    return {"base_url": f"{gateway.url}/api/v1", "api_key": gateway.new_key(**key)}


# --- answers ------------------------------------------------------------------------------------


def test_a_whole_answer(gateway: RunningGateway, front: Front) -> None:
    """Text, tokens and identifiers of a completion can be had without knowing its JSON."""
    completion = front.chat("ferry", **options(gateway))
    assert isinstance(completion, Completion)
    assert completion.text == completion.data["choices"][0]["message"]["content"] != ""
    assert completion.finish_reason == "stop"
    assert completion.usage["completion_tokens"] > 0
    assert completion.request_id == completion.headers["x-request-id"]
    assert not completion.was_replayed


def test_a_stream(gateway: RunningGateway, front: Front) -> None:
    """The events add up to the answer, and the last ones say how it ended and what it took."""
    known = options(gateway)
    got = front.stream("ferry", **known)
    assert got.error is None
    assert got.text == front.chat("ferry", **known).text
    assert [event.finish_reason for event in got.events if event.finish_reason] == ["stop"]
    assert got.events[-1].usage is not None
    assert got.headers["content-type"].startswith("text/event-stream")


def test_models_and_balance(gateway: RunningGateway, front: Front) -> None:
    """Listing needs no key, the balance is exact, and whatever else there is can be asked."""
    listed = front.ask(lambda client: client.models("all"), base_url=f"{gateway.url}/api/v1")
    assert {"ferry", "painter"} <= {model["id"] for model in listed}
    known = options(gateway, admin=True)
    front.chat("ferry", **known)
    balance = front.ask(lambda client: client.balance(), **known)
    assert balance.can_consume
    assert balance.currency == "USD"
    assert Decimal("9.99") < balance.usd < 10
    styles = front.ask(lambda client: client.request("get", "/image/styles"), **known)
    assert styles.json()["object"] == "list"
    sent = {"image": ("ferry.png", png(256, 256), "image/png")}
    enlarged = front.ask(
        lambda client: client.request(
            "POST", "/image/upscale", files=sent, json={"scale": "2"}, idempotency_key="once"
        ),
        **known,
    )
    assert enlarged.headers["content-type"] == "image/png"


def test_images(gateway: RunningGateway, front: Front) -> None:
    """Every helper returns the file, of the size that was asked for, and its headers."""
    known = options(gateway)
    picture = png(256, 256)

    def made(work: Any) -> tuple[int, int]:
        answer = front.ask(work, **known)
        assert isinstance(answer, Picture)
        assert answer.content_type.startswith("image/")
        assert answer.request_id
        assert not answer.is_content_violation
        return PIL.Image.open(io.BytesIO(answer.content)).size

    def generated(client: Any) -> Any:
        return client.images.generate("painter", "a ferry", width=128, height=64, format="png")

    grey = "make it black and white"
    assert made(generated) == (128, 64)
    assert made(lambda c: c.images.edit(picture, grey, model="editor")) == (256, 256)
    assert made(lambda c: c.images.multi_edit([picture], grey, model="editor")) == (256, 256)
    assert made(lambda c: c.images.upscale(picture, 2)) == (512, 512)
    assert made(lambda c: c.images.remove_background(picture)) == (256, 256)


# --- errors -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """How a code is reached, and the class that it raises."""

    raised: type[ApiStatusError]
    model: str = "ferry"
    account: dict[str, Any] | None = None
    key: dict[str, Any] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    secret: str | None = None
    before: int = 0
    """Requests made before the one that is looked at."""


LARGE = {"messages": [{"role": "user", "content": "x" * (1 << 20)}]}
CASES = [
    Case(ours.AuthenticationFailed, secret="sk-of-somebody-else"),
    Case(ours.AuthenticationFailedInactiveKey, account={"usd": "10", "subscription": "inactive"}),
    Case(ours.ProOnlyModel, "pro"),
    Case(ours.InsufficientBalance, account={}),
    Case(ours.ApiKeyUsdSpendLimitExceeded, key={"limit_usd": "0"}),
    Case(ours.ApiKeyDiemSpendLimitExceeded, account={"diem": "1"}, key={"limit_diem": "0"}),
    Case(ours.Unauthorized, "gated"),
    Case(ours.ApiAccessDisabled, account={"usd": "10", "disabled": True}),
    Case(ours.InvalidRequest, members={"temperature": 9}),
    Case(ours.InvalidRequest, "rejected-input"),
    Case(ours.InvalidModel, "embedder"),
    Case(ours.TooManyTokens, "context-exceeded"),
    Case(ours.ModelNotFound, "nobody-has-this"),
    Case(ours.PayloadTooLarge, members=LARGE),
    Case(ours.ContentPolicyViolation, "content-policy"),
    Case(ours.RateLimitExceeded, "seldom", before=1),
    Case(ours.RateLimited, "nobody-has-this", before=21),
    Case(ours.ModelOverloaded, "overloaded"),
    Case(ours.InferenceFailed, "broken"),
    Case(ours.ModelOffline, "away"),
    Case(ours.ModelAtCapacity, "at-capacity"),
    Case(ours.RequestTimeout, "hang"),
]


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.raised.__name__}-{case.model}")
def test_every_code_raises_its_class(
    gateway: RunningGateway, case: Case, front: Front, streams: bool
) -> None:
    """Also where a stream was asked for that never began; none of them is charged."""
    known = options(gateway, account=case.account, **case.key) | {"retries_max": 0}
    if case.secret is not None:
        known["api_key"] = case.secret
    model = case.model
    if model == "broken":
        model = f"broken-{'async' if front.is_async else 'sync'}-{streams}"
    body = {"model": model, "messages": MESSAGES, "stream": streams} | case.members

    def asked(client: Any) -> Any:
        return client.request("POST", "/chat/completions", json=body)

    for _ in range(case.before):
        with contextlib.suppress(ApiStatusError):
            front.ask(asked, **known)
    with pytest.raises(ApiStatusError) as raised:
        front.ask(asked, **known)
    error = raised.value
    assert type(error) is case.raised
    assert error.code == error.headers["x-error-code"]
    assert error.request_id == error.headers["x-request-id"]
    if not isinstance(error, ours.ContentPolicyViolation):
        assert error.charged is False
    assert error.retryable is (error.headers["x-should-retry"] == "true")
    assert (error.retry_after is not None) is (error.status in {429, 503})
    if case.members == {"temperature": 9}:
        assert [issue.path for issue in error.issues] == [("temperature",)]
        assert "temperature: " in str(error)


@pytest.mark.parametrize(
    ("model", "raised"),
    [
        ("in-band-error", ours.InferenceFailed),
        ("in-band-overload", ours.ModelOverloaded),
        ("cut-after", ours.InferenceFailed),
        ("no-done", ours.InferenceFailed),
        ("stalls", ours.RequestTimeout),
    ],
)
def test_a_stream_that_breaks_raises_after_what_was_good(
    gateway: RunningGateway, model: str, raised: type[ApiStatusError], front: Front
) -> None:
    """What came before the error frame was delivered; the error says that a stream had begun."""
    got = front.stream(model, **options(gateway))
    assert type(got.error) is raised
    assert got.error.in_stream
    assert got.error.charged is None
    assert got.error.request_id == got.headers["x-request-id"]
    assert got.events
    assert not any(event.finish_reason for event in got.events)


# --- again --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "asked"), [("broken", 3), ("hang", 1), ("content-policy", 1), ("pro", 1)]
)
def test_what_can_succeed_later_is_asked_again(
    tmp_path: Path, model: str, asked: int, front: Front
) -> None:
    """The gateway's own log counts how often a request came."""
    with running_gateway(tmp_path, TOML, access_log=True) as gateway:
        with pytest.raises(ApiStatusError):
            front.chat(model, **options(gateway))
        wait_until(lambda: len(requests(gateway)) >= asked)
        # A further request would have come before the client was closed.
        assert len(requests(gateway)) == asked


def requests(gateway: RunningGateway) -> list[dict[str, Any]]:
    """The access records of what was asked."""
    return [record for record in gateway.records() if record["event"] == "request"]


def test_a_repeated_key_is_answered_again_and_charged_once(
    gateway: RunningGateway, front: Front
) -> None:
    """A caller who crashed asks again with the same key."""
    known = options(gateway, admin=True)

    def asked(client: Any) -> Any:
        return client.chat("ferry", MESSAGES, idempotency_key="order-17")

    first = front.ask(asked, **known)
    left = front.ask(lambda client: client.balance(), **known).usd
    second = front.ask(asked, **known)
    assert second.was_replayed
    assert second.content == first.content
    assert front.ask(lambda client: client.balance(), **known).usd == left


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
def test_an_answer_that_is_lost_on_its_way_is_charged_once(
    gateway: RunningGateway, front: Front, streams: bool
) -> None:
    """The gateway answered, the connection broke: the client asks again and gets that answer."""
    known = options(gateway, admin=True)
    front.chat("ferry", **known)
    cost = 10 - front.ask(lambda client: client.balance(), **known).usd
    with losing_first_answer(gateway.address) as url:
        lost = known | {"base_url": f"{url}/api/v1"}
        if streams:
            got = front.stream("ferry", **lost)
            assert got.error is None
            assert got.headers["idempotent-replayed"] == "true"
        else:
            assert front.chat("ferry", **lost).was_replayed
    left = front.ask(lambda client: client.balance(), **known).usd
    assert left == 10 - 2 * cost


def test_another_model_stands_in(gateway: RunningGateway, front: Front) -> None:
    """With a fallback, an offline model is answered for by another, whole or as a stream."""
    known = options(gateway) | {"fallback": {"away": "ferry"}}
    assert front.chat("away", **known).data["model"] == "ferry"
    streamed = front.stream("away", **known)
    assert streamed.error is None
    assert streamed.events[0].data["model"] == "ferry"
