"""The order of checks (contract A.3): a request with two faults is answered for the earlier one.

A *flaw* is one thing wrong with a request that is otherwise sound. Flaws are listed in the order
of the checks and are independent of one another, so any two of them can be put into one request.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.client import CHAT, Answer, ask, chat_body
from support.configuration import model_toml
from support.gateway import RunningGateway, running_gateway
from traghetto.clock import ManualClock
from traghetto.limits.rates import Admission

BODY_BYTES_MAX = 4096


@dataclass
class Attempt:
    """A request in the making."""

    gateway: RunningGateway
    model: str
    account: str
    key: str
    body: dict[str, Any]
    undo: list[Callable[[], None]] = field(default_factory=list)

    def use_up_rate(self) -> None:
        """The account has had its one request of this minute."""
        account_id = self.gateway.perform("accounts.show", account=self.account)["id"]
        rates = self.gateway.gateway.services.rates
        admission: Admission = self.gateway.call(
            lambda: rates.admit(
                account_id, self.model, tier="standard", size_class="l", tokens_bound=1
            )
        )
        assert dict(admission.headers())[b"x-ratelimit-remaining-requests"] == b"0"

    def use_up_slots(self) -> None:
        """The only slot of the model is taken."""
        gate = self.gateway.gateway.services.fleet.gates[self.model]
        assert self.gateway.call(gate.try_enter)
        self.undo.append(lambda: self.gateway.call(gate.leave))

    def use_up_failures(self) -> None:
        """This key has failed 21 times with this model, while its account was switched off."""
        was_disabled = self.gateway.perform("accounts.show", account=self.account)["disabled"]
        self.gateway.perform("accounts.set", account=self.account, disabled=True)
        for _ in range(21):
            assert ask(self.gateway, self.key, self.body).status == 403
        self.gateway.perform("accounts.set", account=self.account, disabled=was_disabled)


def _nothing(_: Attempt) -> None:
    """Most flaws need no preparation."""


@dataclass(frozen=True)
class Flaw:
    """One thing wrong, and what the answer is if nothing earlier is wrong."""

    name: str
    stage: int
    """The step of contract A.3."""
    status: int
    code: str
    path: str = CHAT
    method: str = "POST"
    headers: Mapping[str, str | None] = field(default_factory=dict)
    wrap: Callable[[bytes], bytes] = bytes
    """What becomes of the encoded body."""
    key: Callable[[str], str | None] = str
    account: Mapping[str, Any] = field(default_factory=dict)
    key_members: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, str] = field(default_factory=dict)
    """Members of the model's table."""
    body: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Attempt], None] = _nothing
    conflicts: frozenset[str] = frozenset()
    """Names of flaws that cannot be in the same request."""


FLAWS: tuple[Flaw, ...] = (
    Flaw("route", 1, 404, "ROUTE_NOT_FOUND", path="/api/v1/chat", conflicts=frozenset({"method"})),
    Flaw("method", 1, 405, "METHOD_NOT_ALLOWED", method="PUT"),
    Flaw("size", 2, 413, "PAYLOAD_TOO_LARGE", wrap=lambda body: body.ljust(BODY_BYTES_MAX + 1)),
    Flaw("type", 3, 415, "INVALID_CONTENT_TYPE", headers={"content-type": "text/plain"}),
    Flaw("syntax", 4, 400, "INVALID_REQUEST", wrap=lambda body: body + b"]"),
    Flaw("payment", 5, 400, "PAYMENT_HEADER_NOT_ACCEPTED", headers={"payment-signature": "e30="}),
    Flaw(
        "nobody",
        6,
        401,
        "AUTHENTICATION_FAILED",
        key=lambda _: None,
        conflicts=frozenset({"stranger"}),
    ),
    Flaw("stranger", 7, 401, "AUTHENTICATION_FAILED", key=lambda key: key[:-6] + "000000"),
    Flaw(
        "failures",
        8,
        429,
        "FAILED_REQUEST_BUDGET",
        prepare=Attempt.use_up_failures,
    ),
    Flaw("disabled", 9, 403, "API_ACCESS_DISABLED", account={"disabled": True}),
    Flaw(
        "lapsed",
        9,
        401,
        "AUTHENTICATION_FAILED_INACTIVE_KEY",
        account={"subscription": "inactive"},
    ),
    Flaw("no model", 11, 400, "INVALID_REQUEST", body={"model": None}),
    Flaw("pro", 12, 401, "PRO_ONLY_MODEL", model={"pro_only": "true"}),
    Flaw(
        "privacy",
        12,
        403,
        "UNAUTHORIZED",
        model={"privacy": '"anonymized"'},
        key_members={"privacy": "PRIVATE_ONLY"},
    ),
    Flaw("feature", 12, 403, "UNAUTHORIZED", model={"feature": '"beta"'}),
    Flaw("offline", 13, 503, "MODEL_OFFLINE", model={"offline": "true"}),
    Flaw("schema", 14, 400, "INVALID_REQUEST", body={"temperature": 9}),
    Flaw(
        "capability",
        14,
        400,
        "INVALID_REQUEST",
        body={"venice_parameters": {"enable_web_search": "on"}},
    ),
    Flaw(
        "image",
        14,
        400,
        "CORRUPTED_IMAGE",
        body={
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "data:image/png;base64,AAAA"},
                        }
                    ],
                }
            ]
        },
    ),
    Flaw("context", 14, 400, "TOO_MANY_TOKENS", model={"context_tokens": "20"}),
    Flaw("funds", 16, 402, "INSUFFICIENT_BALANCE", account={"usd": "0"}),
    Flaw("rate", 17, 429, "RATE_LIMIT_EXCEEDED", prepare=Attempt.use_up_rate),
    Flaw("capacity", 18, 503, "MODEL_AT_CAPACITY", prepare=Attempt.use_up_slots),
    Flaw("inference", 19, 500, "INFERENCE_FAILED", model={"fault": '"broken"'}),
)
"""In the order in which the gateway looks."""

SENTENCES = {
    "syntax": "Invalid JSON request",
    "no model": "model is required",
    "schema": "Number must be less than or equal to 2",
    "capability": "enable_web_search is not supported by this model",
}
"""What tells answers of INVALID_REQUEST apart."""

COMBINATIONS: tuple[tuple[Flaw, ...], ...] = (
    (),
    *((flaw,) for flaw in FLAWS),
    *(
        pair
        for pair in itertools.combinations(FLAWS, 2)
        if not ({pair[0].name} & pair[1].conflicts or {pair[1].name} & pair[0].conflicts)
    ),
)


def _model_name(flaws: tuple[Flaw, ...]) -> str:
    return "-".join(["m", *(flaw.name.replace(" ", "_") for flaw in flaws if flaw.model)])


def _toml() -> str:
    tables = {}
    for flaws in COMBINATIONS:
        members = {"size_class": '"l"', "concurrency_max": "1", "queue_max": "0"}
        for flaw in flaws:
            members |= flaw.model
        tables[_model_name(flaws)] = model_toml(_model_name(flaws), **members)
    return "[rate_limits.l]\nrequests_per_minute = 1\n" + "".join(tables.values())


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """One gateway with a model for every combination of flaws of a model."""
    tmp_path = tmp_path_factory.mktemp("precedence")
    with running_gateway(tmp_path, _toml(), clock=CLOCK, body_bytes_max=BODY_BYTES_MAX) as running:
        yield running


CLOCK = ManualClock()
_numbers = itertools.count()


def _send(gateway: RunningGateway, flaws: tuple[Flaw, ...]) -> Answer:
    # All unknown callers come from one address: what they did before is to be forgotten.
    CLOCK.advance(60)
    account = f"caller-{next(_numbers)}"
    account_members: dict[str, Any] = {"usd": "10"}
    key_members: dict[str, Any] = {}
    model = _model_name(flaws)
    body = chat_body(model)
    for flaw in flaws:
        account_members |= flaw.account
        key_members |= flaw.key_members
        body |= flaw.body
    gateway.perform("accounts.create", name=account, **account_members)
    key: str | None = gateway.perform("keys.create", account=account, **key_members)["secret"]
    attempt = Attempt(gateway, model, account, key, body)
    try:
        # The failures first: they would themselves use up what is prepared after them.
        for flaw in flaws:
            flaw.prepare(attempt)
        path, method, headers, payload = CHAT, "POST", {}, json.dumps(body).encode()
        for flaw in flaws:
            path = path if flaw.path == CHAT else flaw.path
            method = method if flaw.method == "POST" else flaw.method
            headers |= flaw.headers
            payload = flaw.wrap(payload)
            key = key and flaw.key(key)
        return ask(gateway, key, payload, method=method, path=path, headers=headers)
    finally:
        for undo in attempt.undo:
            undo()


@pytest.mark.parametrize(
    "flaws", COMBINATIONS, ids=lambda fs: " + ".join(f.name for f in fs) or "-"
)
def test_the_earlier_flaw_is_answered(gateway: RunningGateway, flaws: tuple[Flaw, ...]) -> None:
    """Of two things wrong with a request, the answer names the one that is looked at first."""
    answer = _send(gateway, flaws)
    if not flaws:
        assert answer.status == 200
        return
    first = flaws[0]
    assert (answer.status, answer.headers["x-error-code"]) == (first.status, first.code)
    if first.name in SENTENCES:
        assert SENTENCES[first.name].encode() in answer.body


def test_the_table_is_in_the_order_of_the_contract() -> None:
    """Flaws are sorted by their step, and every step that one request can fail has one."""
    steps = [flaw.stage for flaw in FLAWS]
    assert steps == sorted(steps)
    assert set(range(1, 20)) - set(steps) == {10, 15}, "endpoint limiters and input moderation"


def test_nothing_was_held_or_lost(gateway: RunningGateway) -> None:
    """After hundreds of refused requests the books agree and nothing is held."""
    assert gateway.gateway.book.open_holds == 0
    assert gateway.differences() == []
