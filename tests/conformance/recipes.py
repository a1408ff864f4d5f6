"""THE RECIPES: how each error is provoked for real, and what a client then sees, byte for byte.

One row per code, in the order in which the gateway looks (contract A.3). The texts of the
published codes come from `spec/errors.json`; everything else a client sees is written by hand,
here or in `support.client`, so that a change of the product's tables cannot change what is
expected.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from support.client import (
    BUDGET_USED_UP,
    CHAT,
    PUBLISHED,
    UPSTREAM_REJECTED,
    Answer,
    ask,
    chat_body,
    pending_chat,
)
from support.configuration import model_toml, relayed_toml
from support.gateway import RunningGateway, raw_exchange
from support.images import blank_bomb, data_url, png
from support.upstream import FaultUpstream, answer_json, upstream_in_thread
from support.waiting import wait_until
from traghetto.clock import ManualClock

BODY_BYTES_MAX = 4096
CANARY = "the canary sings at noon"
"""The prompt of every recipe; it must not be found in any log."""

NOT_REACHABLE_YET = {
    "X402_INVALID_SIGN_IN",
    "X402_WALLET_MISMATCH",
    "REQUEST_ID_NOT_FOUND",
    "INVALID_AUDIO_FORMAT",
    "INVALID_VIDEO_FORMAT",
    "CHARACTER_NOT_FOUND",
    "MEDIA_NOT_FOUND",
    "VIDEO_DURATION_TOO_LONG",
    "VIDEO_DURATION_TOO_SHORT",
    "ASR_UPSTREAM_VALIDATION_FAILED",
    "TEE_ATTESTATION_FAILED",
    "TEE_SIGNATURE_FAILED",
    "ASR_UPSTREAM_FAILED",
}
"""Published codes of endpoints that this server does not serve."""

Level = Literal["warn", "error"]
Reached = Literal["edge", "account", "model", "admitted"]
"""How far a request came, which decides the headers of its answer: nothing is known; the account
is (balance, budget); the model too; it was admitted (rate limits)."""


@dataclass
class Scene:
    """A running gateway, the backend behind one of its models, and the caller."""

    gateway: RunningGateway
    upstream: FaultUpstream
    account: str
    key: str
    stream: bool = False
    """Whether its requests ask for a stream: an error before the first byte is the same."""

    def chat(self, model: str = "priced", **members: Any) -> Answer:
        return ask(self.gateway, self.key, self.body(model, **members))

    def body(self, model: str = "priced", **members: Any) -> dict[str, Any]:
        sound = chat_body(model, messages=[{"role": "user", "content": CANARY}])
        return sound | ({"stream": True} if self.stream else {}) | members

    def key_of(self, *, account: Mapping[str, Any] | None = None, **key: Any) -> str:
        """A fresh key: of the scene's account, or of a new one with these attributes."""
        if account is not None:
            self.account = f"account-{len(self.gateway.perform('accounts.list')['accounts'])}"
            self.gateway.perform("accounts.create", name=self.account, **account)
        self.key = self.gateway.perform("keys.create", account=self.account, **key)["secret"]
        return self.key


Provoke = Callable[[Scene], Answer]


@dataclass(frozen=True)
class Recipe:
    """One row: how a code is provoked, and everything that follows from it."""

    code: str
    """The name in the catalogue, of a published code or an adjunct."""
    how: str
    """What tells this row from others of the same code; part of the test's name."""
    provoke: Provoke
    status: int
    text: str
    reached: Reached = "edge"
    model: str | None = None
    """The model that is named in the headers and in a log record."""
    sent_name: str | None = None
    """What `x-error-code` carries where it is not `code`."""
    body: str | None = None
    """The whole body; None for the plain one. `<id>` stands for the request id."""
    log: Level | None = None
    should_retry: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of this code alone."""
    balance: str | None = "10"
    """The USD balance that the answer names; None where there is nothing to spend, or the row has
    another account's."""
    spent: str = "0"
    """What each key of the scene paid before, in USD."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.code}, {self.how}" if self.how else self.code

    def expected_body(self, request_id: str) -> bytes:
        """The exact bytes of the answer."""
        body = self.body or '{"error":' + json.dumps(self.text, ensure_ascii=False) + "}"
        return body.replace("<id>", request_id).encode()


def published(code: str, provoke: Provoke, how: str = "", **members: Any) -> Recipe:
    """A row of one of the 40 codes: its status, text and level are those of the publication."""
    row = PUBLISHED[code]
    values = {"status": row.status, "text": row.message, "log": row.log_level}
    return Recipe(code, how, provoke, **(values | members))


# --- the models ---------------------------------------------------------------------------------


def gateway_toml(upstream: FaultUpstream) -> str:
    """The configuration of every row."""
    return (
        "[rate_limits.l]\nrequests_per_minute = 1\ntokens_per_minute = 100000\n"
        "[rate_limits.m]\nrequests_per_minute = 10\ntokens_per_minute = 30\n"
        + relayed_toml(upstream)
        + model_toml("priced")
        + model_toml("pro", pro_only="true")
        + model_toml("anonymized", privacy='"anonymized"')
        + model_toml("gated", feature='"beta"')
        + model_toml(
            "picture",
            type='"image"',
            engine="",
            context_tokens="",
            pricing='{ generation = "0.01", upscale = { 2x = "0.02", 4x = "0.08" } }',
        )
        + model_toml("retired", offline="true")
        + model_toml("small", context_tokens="32")
        + model_toml("seldom", size_class='"l"')
        + model_toml("terse", size_class='"m"')
        + model_toml("busy", fault='"hang"', concurrency_max="1", queue_max="0")
        + model_toml("broken", fault='"broken"')
        + model_toml("slow", fault='"hang"', total_seconds="0.2", first_event_seconds="0.2")
        + model_toml("overloaded", fault='"overloaded"')
        + model_toml("full", fault='"at-capacity"')
        + model_toml("prudish", fault='"content-policy"')
    )


@contextlib.contextmanager
def upstream_and_toml() -> Iterator[tuple[FaultUpstream, str]]:
    """A backend, and a configuration that has it behind the model `relayed`."""
    with upstream_in_thread() as upstream:
        upstream.models_act = answer_json({"object": "list", "data": [{"id": "relayed"}]})
        yield upstream, gateway_toml(upstream)


# --- the edge -----------------------------------------------------------------------------------


def _malformed(scene: Scene) -> Answer:
    request = b"POST /api/v1/chat/completions HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
    head, _, body = raw_exchange(scene.gateway.address, request).partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    _, status, reason = start.split(" ", 2)
    headers = dict(line.split(": ", 1) for line in lines)
    return Answer(int(status), reason, headers, body)


def _no_route(scene: Scene) -> Answer:
    return ask(scene.gateway, scene.key, scene.body(), path="/api/v1/chat/completion")


def _wrong_method(scene: Scene) -> Answer:
    return ask(scene.gateway, scene.key, scene.body(), method="PUT")


def _too_large(scene: Scene) -> Answer:
    padded = json.dumps(scene.body()).encode().ljust(BODY_BYTES_MAX + 1)
    return ask(scene.gateway, scene.key, padded)


def _too_large_in_chunks(scene: Scene) -> Answer:
    """A body without a declared length is counted as it comes."""
    connection = http.client.HTTPConnection(*scene.gateway.address, timeout=10)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json", "authorization": f"Bearer {scene.key}"}
        pieces = iter([b" " * (BODY_BYTES_MAX // 2)] * 3)
        connection.request("POST", CHAT, pieces, headers, encode_chunked=True)
        return Answer.read(connection.getresponse())


def _wrong_type(content_type: str | None) -> Provoke:
    def provoke(scene: Scene) -> Answer:
        headers = {"content-type": content_type}
        return ask(scene.gateway, scene.key, scene.body(), headers=headers)

    return provoke


def _compressed(scene: Scene) -> Answer:
    return ask(scene.gateway, scene.key, scene.body(), headers={"content-encoding": "gzip"})


def _not_json(scene: Scene) -> Answer:
    return ask(scene.gateway, scene.key, json.dumps(scene.body()).encode() + b"}")


def _payment_header(scene: Scene) -> Answer:
    return ask(scene.gateway, scene.key, scene.body(), headers={"x-payment": "e30="})


# --- who is calling -----------------------------------------------------------------------------


def _no_credentials(scene: Scene) -> Answer:
    return ask(scene.gateway, None, scene.body())


def _mistyped_key(scene: Scene) -> Answer:
    swapped = scene.key[:-1] + ("a" if scene.key[-1] != "a" else "b")
    return ask(scene.gateway, swapped, scene.body())


def _wrong_scheme(scene: Scene) -> Answer:
    return ask(scene.gateway, None, scene.body(), headers={"authorization": f"Basic {scene.key}"})


def _revoked_key(scene: Scene) -> Answer:
    listed = scene.gateway.perform("keys.list", account=scene.account)["keys"]
    scene.gateway.perform("keys.revoke", key=listed[-1]["id"])
    return scene.chat()


def _expired_key(scene: Scene) -> Answer:
    clock = scene.gateway.gateway.services.clock
    assert isinstance(clock, ManualClock)
    scene.key_of(expires_at_ns=clock.utc_ns() + 1_000)
    scene.gateway.call(clock.advance, 0.000_001)
    return scene.chat()


def _remote_metrics(scene: Scene) -> Answer:
    """Behind a proxy nobody is local, so metrics need an admin key."""
    return ask(
        scene.gateway,
        scene.key,
        method="GET",
        path="/metrics",
        headers={"x-forwarded-for": "192.0.2.7"},
    )


def _too_many_failures(scene: Scene) -> Answer:
    for _ in range(21):
        assert scene.chat(messages=[]).status == 400
    return scene.chat()


def _as_account(model: str = "priced", **account: Any) -> Provoke:
    def provoke(scene: Scene) -> Answer:
        scene.key_of(account={"usd": "10"} | account)
        return scene.chat(model)

    return provoke


def _as_key(model: str = "priced", **key: Any) -> Provoke:
    def provoke(scene: Scene) -> Answer:
        scene.key_of(**key)
        return scene.chat(model)

    return provoke


def _asking(model: str = "priced", **members: Any) -> Provoke:
    return lambda scene: scene.chat(model, **members)


def _showing(make: Callable[[], bytes | str]) -> Provoke:
    """A question about an image: the bytes of a file, or a URL."""

    def provoke(scene: Scene) -> Answer:
        image = make()
        url = image if isinstance(image, str) else data_url(image)
        content = [
            {"type": "text", "text": CANARY},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return scene.chat(messages=[{"role": "user", "content": content}])

    return provoke


def _as_diem_key(scene: Scene) -> Answer:
    scene.key_of(account={"diem": "1"}, limit_diem="0")
    return scene.chat()


def _with_idempotency_key(scene: Scene, key: str, **members: Any) -> Answer:
    headers = {"idempotency-key": key}
    return ask(scene.gateway, scene.key, scene.body(**members), headers=headers)


def _malformed_idempotency_key(scene: Scene) -> Answer:
    return _with_idempotency_key(scene, "no spaces")


def _reused_idempotency_key(scene: Scene) -> Answer:
    assert _with_idempotency_key(scene, "key-1").status == 200
    return _with_idempotency_key(scene, "key-1", temperature=1)


def _answer_that_was_not_kept(scene: Scene) -> Answer:
    assert _with_idempotency_key(scene, "key-1").status == 200
    return _with_idempotency_key(scene, "key-1")


def _without_model(scene: Scene) -> Answer:
    body = scene.body()
    del body["model"]
    return ask(scene.gateway, scene.key, body)


# --- limits and inference -----------------------------------------------------------------------


def _second_in_a_minute(scene: Scene) -> Answer:
    assert scene.chat("seldom").status == 200
    scene.key_of(account={"usd": "10"})
    assert scene.chat("seldom").status == 200, "another account has a window of its own"
    return scene.chat("seldom")


def _too_many_tokens_in_a_minute(scene: Scene) -> Answer:
    assert scene.chat("terse").status == 200
    return scene.chat("terse")


def _no_free_slot(scene: Scene) -> Answer:
    """A first request occupies the only slot of the model as long as its client waits."""
    gate = scene.gateway.gateway.services.fleet.gates["busy"]
    with pending_chat(scene.gateway, scene.key, "busy"):
        wait_until(lambda: gate.active == 1)
        scene.key_of(account={"usd": "10"})
        answer = scene.chat("busy")
    wait_until(lambda: gate.active == 0)
    return answer


def _upstream(*acts: Any, **members: Any) -> Provoke:
    def provoke(scene: Scene) -> Answer:
        scene.upstream.then(*acts)
        return scene.chat("relayed", **members)

    return provoke


def _upstream_down(scene: Scene) -> Answer:
    """The health check finds nobody; the model is offline before anything is dispatched."""
    unavailable = answer_json({"error": {"message": "loading"}}, 503)
    scene.upstream.models_act = unavailable
    member = scene.gateway.gateway.services.fleet.pools["relayed"].members[0]
    for _ in range(2):
        scene.gateway.run(member.check())
    return scene.chat("relayed")


_POLICY_ERROR = {
    "error": {"message": CANARY, "type": "invalid_request_error", "code": "content_filter"}
}
_PARAMETER_ERROR = {
    "error": {
        "message": f"temperature: {CANARY}",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": None,
    }
}
_CONTEXT_ERROR = {
    "error": {
        "message": f"This model's maximum context length is 10 tokens. {CANARY}",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
}
_INVALID = '{"error":"Invalid request parameters",'
_TOO_MANY_TOKENS_BODY = (
    '{"error": {"message": "Your request exceeds the model\'s maximum context. Please reduce your '
    'prompt or completion length.", "type": "invalid_request_error", "param": "messages", '
    '"code": "context_length_exceeded"}}'
)
_REJECTED = UPSTREAM_REJECTED.format(request_id="<id>")

_EDGE: tuple[Recipe, ...] = (
    Recipe(
        "MALFORMED_HTTP",
        "two hosts",
        _malformed,
        400,
        "Invalid request parameters",
        headers={"connection": "close"},
    ),
    Recipe("ROUTE_NOT_FOUND", "", _no_route, 404, "Not found"),
    Recipe(
        "METHOD_NOT_ALLOWED",
        "",
        _wrong_method,
        405,
        "Method not allowed",
        headers={"allow": "POST"},
    ),
    *(
        published(
            "PAYLOAD_TOO_LARGE",
            provoke,
            how,
            body='{"code":"PAYLOAD_TOO_LARGE","error":"The request payload is too large. Please '
            'reduce the size of your request."}',
            settings={"body_bytes_max": BODY_BYTES_MAX},
        )
        for how, provoke in (("declared", _too_large), ("in chunks", _too_large_in_chunks))
    ),
    published("INVALID_CONTENT_TYPE", _wrong_type("text/plain"), "text"),
    published("INVALID_CONTENT_TYPE", _wrong_type(None), "none"),
    published("INVALID_CONTENT_TYPE", _wrong_type("application/json; charset=utf-16"), "UTF-16"),
    published("INVALID_CONTENT_TYPE", _compressed, "compressed"),
    Recipe("INVALID_JSON", "", _not_json, 400, "Invalid JSON request", sent_name="INVALID_REQUEST"),
    Recipe(
        "PAYMENT_HEADER_NOT_ACCEPTED",
        "",
        _payment_header,
        400,
        "",
        body='{"code":"PAYMENT_HEADER_NOT_ACCEPTED","error":"Payment headers are accepted on '
        '/x402/top-up only"}',
    ),
)

_CHALLENGE = {"www-authenticate": "Bearer"}

_CALLER: tuple[Recipe, ...] = (
    Recipe(
        "NO_CREDENTIALS",
        "",
        _no_credentials,
        401,
        "Authentication failed",
        sent_name="AUTHENTICATION_FAILED",
        headers=_CHALLENGE,
    ),
    *(
        published("AUTHENTICATION_FAILED", provoke, how, headers=_CHALLENGE)
        for how, provoke in (
            ("mistyped key", _mistyped_key),
            ("revoked key", _revoked_key),
            ("expired key", _expired_key),
            ("not Bearer", _wrong_scheme),
        )
    ),
    Recipe(
        "FAILED_REQUEST_BUDGET",
        "",
        _too_many_failures,
        429,
        BUDGET_USED_UP,
        should_retry=True,
        headers={
            "retry-after": "30",
            "x-ratelimit-remaining": "0",
            "x-ratelimit-resets": "+30",
            "x-venice-balance-usd": "10",
        },
    ),
    published("API_ACCESS_DISABLED", _as_account(disabled=True), reached="account"),
    published(
        "AUTHENTICATION_FAILED_INACTIVE_KEY",
        _as_account(subscription="inactive"),
        reached="account",
        headers=_CHALLENGE,
    ),
    Recipe(
        "ADMIN_KEY_REQUIRED",
        "metrics from afar",
        _remote_metrics,
        401,
        "Admin API key required",
        headers=_CHALLENGE,
    ),
)

_CLAIM: tuple[Recipe, ...] = (
    published(
        "INVALID_REQUEST",
        _malformed_idempotency_key,
        "malformed idempotency key",
        reached="account",
        body=_INVALID + '"details":{"_errors":[],"Idempotency-Key":{"_errors":["Invalid"]}},'
        '"issues":[{"code":"invalid_string","validation":"regex","path":["Idempotency-Key"],'
        '"message":"Invalid"}]}',
    ),
    Recipe(
        "IDEMPOTENCY_KEY_REUSED",
        "",
        _reused_idempotency_key,
        400,
        "This Idempotency-Key was already used with a different request",
        "account",
        balance="9.999956",
        spent="0.000044",
    ),
    Recipe(
        "IDEMPOTENT_ANSWER_NOT_KEPT",
        "",
        _answer_that_was_not_kept,
        400,
        "The request with this Idempotency-Key was answered, but its answer was not kept and "
        "cannot be sent again",
        "account",
        settings={"kept_answers_bytes_max": 0},
        balance="9.999956",
        spent="0.000044",
    ),
)

_MODEL: tuple[Recipe, ...] = (
    Recipe(
        "MODEL_REQUIRED",
        "",
        _without_model,
        400,
        "model is required",
        "account",
        sent_name="INVALID_REQUEST",
    ),
    Recipe(
        "MODEL_NOT_A_STRING",
        "",
        _asking(model=7),  # type: ignore[arg-type]
        400,
        "model must be a string",
        "account",
        sent_name="INVALID_REQUEST",
    ),
    published("MODEL_NOT_FOUND", _asking("nobody"), reached="account"),
    published("MODEL_NOT_FOUND", _asking("priced:beta"), "tail", reached="account"),
    published("INVALID_MODEL", _asking("picture"), reached="account"),
    published("PRO_ONLY_MODEL", _asking("pro"), reached="model", model="pro", headers=_CHALLENGE),
    published(
        "UNAUTHORIZED",
        _as_key("anonymized", privacy="PRIVATE_TEXT"),
        "privacy",
        reached="model",
        model="anonymized",
    ),
    published("UNAUTHORIZED", _asking("gated"), "feature", reached="model", model="gated"),
    published(
        "MODEL_OFFLINE",
        _asking("retired"),
        "by its entry",
        reached="model",
        model="retired",
        should_retry=True,
        headers={"retry-after": "30"},
    ),
    published(
        "MODEL_OFFLINE",
        _upstream_down,
        "by its health check",
        reached="model",
        model="relayed",
        should_retry=True,
        headers={"retry-after": "10"},
    ),
)

_REQUEST: tuple[Recipe, ...] = (
    published(
        "INVALID_REQUEST",
        _asking(temperature=9),
        "too big",
        reached="model",
        model="priced",
        body=_INVALID
        + '"details":{"_errors":[],"temperature":{"_errors":["Number must be less than or equal '
        'to 2"]}},"issues":[{"code":"too_big","type":"number","maximum":2,"inclusive":true,'
        '"exact":false,"path":["temperature"],"message":"Number must be less than or equal to 2"}'
        "]}",
    ),
    published(
        "INVALID_REQUEST",
        _asking(thinking={}),
        "unknown key",
        reached="model",
        model="priced",
        body=_INVALID + '"details":{"_errors":["Unrecognized key(s) in object: \'thinking\'"]},'
        '"issues":[{"code":"unrecognized_keys","keys":["thinking"],"path":[],'
        '"message":"Unrecognized key(s) in object: \'thinking\'"}]}',
    ),
    published(
        "INVALID_REQUEST",
        _asking(venice_parameters={"enable_web_search": "on"}),
        "capability",
        reached="model",
        model="priced",
        body=_INVALID
        + '"details":{"_errors":[],"venice_parameters":{"_errors":[],"enable_web_search":'
        '{"_errors":["enable_web_search is not supported by this model"]}}},'
        '"issues":[{"code":"custom","path":["venice_parameters","enable_web_search"],'
        '"message":"enable_web_search is not supported by this model"}]}',
    ),
    *(
        published(code, _showing(make), how, reached="model", model="priced")
        for code, how, make in (
            ("CORRUPTED_IMAGE", "in a chat, cut off", lambda: png(200, 200)[:-100]),
            ("CORRUPTED_IMAGE", "in a chat, nothing at all", lambda: "data:image/png;base64,"),
            ("IMAGE_TOO_SMALL", "in a chat", lambda: png(63, 64)),
            ("IMAGE_TOO_LARGE", "in a chat", lambda: blank_bomb(7681, 4320)),
        )
    ),
    *(
        Recipe(
            "IMAGE_NOT_ACCEPTED",
            how,
            _showing(make),
            400,
            "Supplied image did not pass validation checks.",
            "model",
            model="priced",
            sent_name="INVALID_REQUEST",
        )
        for how, make in (
            ("in a chat, from a private address", lambda: "http://127.0.0.1/picture.png"),
            ("in a chat, no image", lambda: "data:text/plain;base64,aGVsbG8="),
        )
    ),
    published(
        "TOO_MANY_TOKENS",
        _asking("small", max_tokens=30),
        "counted here",
        reached="model",
        model="small",
        body=_TOO_MANY_TOKENS_BODY,
    ),
    published(
        "TOO_MANY_TOKENS",
        _upstream(answer_json(_CONTEXT_ERROR, 400)),
        "counted by the backend",
        reached="admitted",
        model="relayed",
        body=_TOO_MANY_TOKENS_BODY,
    ),
)

_FUNDS: tuple[Recipe, ...] = (
    published(
        "INSUFFICIENT_BALANCE",
        _as_account(usd="0.099999999"),
        reached="model",
        model="priced",
        balance="0.099999999",
    ),
    published(
        "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED",
        _as_diem_key,
        reached="model",
        model="priced",
        balance=None,
    ),
    published(
        "API_KEY_USD_SPEND_LIMIT_EXCEEDED",
        _as_key(limit_usd="0"),
        reached="model",
        model="priced",
        balance=None,
    ),
)

_WINDOW_USED_UP = {
    "retry-after": "60",
    "x-ratelimit-type": "user",
    "x-ratelimit-reset-requests": "+60",
    "x-ratelimit-reset-tokens": "60",
}

_SHED: tuple[Recipe, ...] = (
    published(
        "RATE_LIMIT_EXCEEDED",
        _second_in_a_minute,
        "requests",
        reached="model",
        model="seldom",
        should_retry=True,
        headers=_WINDOW_USED_UP
        | {
            "x-ratelimit-limit-requests": "1",
            "x-ratelimit-limit-tokens": "100000",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-remaining-tokens": "99972",
        },
        balance="9.999956",
        spent="0.000044",
    ),
    published(
        "RATE_LIMIT_EXCEEDED",
        _too_many_tokens_in_a_minute,
        "tokens",
        reached="model",
        model="terse",
        should_retry=True,
        headers=_WINDOW_USED_UP
        | {
            "x-ratelimit-limit-requests": "10",
            "x-ratelimit-limit-tokens": "30",
            "x-ratelimit-remaining-requests": "9",
            "x-ratelimit-remaining-tokens": "2",
        },
        balance="9.999956",
        spent="0.000044",
    ),
    published(
        "MODEL_AT_CAPACITY",
        _no_free_slot,
        "no slot",
        reached="admitted",
        model="busy",
        should_retry=True,
        headers={"retry-after": "2", "x-ratelimit-remaining-requests": "500"},
    ),
)

_INFERENCE: tuple[Recipe, ...] = (
    published(
        "MODEL_AT_CAPACITY",
        _asking("full"),
        "by the backend",
        reached="admitted",
        model="full",
        should_retry=True,
        headers={"retry-after": "2"},
    ),
    published(
        "MODEL_OVERLOADED",
        _asking("overloaded"),
        "with a time",
        reached="admitted",
        model="overloaded",
        should_retry=True,
        headers={"retry-after": "2"},
    ),
    published(
        "MODEL_OVERLOADED",
        _upstream(answer_json({"error": {"message": CANARY}}, 429)),
        "without a time",
        reached="admitted",
        model="relayed",
        should_retry=True,
        headers={"retry-after": "30"},
    ),
    published(
        "INFERENCE_FAILED",
        _asking("broken"),
        reached="admitted",
        model="broken",
        should_retry=True,
    ),
    published(
        "INFERENCE_FAILED",
        _upstream(*[answer_json({"error": {"message": CANARY}}, 500)] * 2),
        "twice",
        reached="admitted",
        model="relayed",
        should_retry=True,
    ),
    published(
        "MODEL_OFFLINE",
        _upstream(answer_json({"error": {"message": CANARY}}, 401)),
        "the backend refuses our key",
        reached="admitted",
        model="relayed",
        should_retry=True,
        headers={"retry-after": "30"},
    ),
    published(
        "CONTENT_POLICY_VIOLATION",
        _asking("prudish"),
        reached="admitted",
        model="prudish",
    ),
    published(
        "CONTENT_POLICY_VIOLATION",
        _upstream(answer_json(_POLICY_ERROR, 400)),
        "by the backend",
        reached="admitted",
        model="relayed",
    ),
    Recipe(
        "UPSTREAM_REJECTED",
        "naming a member",
        _upstream(answer_json(_PARAMETER_ERROR, 400), temperature=1),
        400,
        "",
        "admitted",
        "relayed",
        sent_name="INVALID_REQUEST",
        body='{"error":"' + _REJECTED + ': temperature","request_id":"<id>"}',
    ),
    Recipe(
        "UPSTREAM_REJECTED",
        "naming what was not sent",
        _upstream(answer_json(_PARAMETER_ERROR, 400)),
        400,
        "",
        "admitted",
        "relayed",
        sent_name="INVALID_REQUEST",
        body='{"error":"' + _REJECTED + '","request_id":"<id>"}',
    ),
    published("REQUEST_TIMEOUT", _asking("slow"), reached="admitted", model="slow"),
)

RECIPES: tuple[Recipe, ...] = (
    *_EDGE,
    *_CALLER,
    *_CLAIM,
    *_MODEL,
    *_REQUEST,
    *_FUNDS,
    *_SHED,
    *_INFERENCE,
)

PROVOKED_ELSEWHERE = {
    # A process of its own: test_broken_store.py.
    "UNKNOWN_ERROR",
    # Other endpoints than chat: test_api_keys.py and test_billing.py.
    "ANALYTICS_TIMEOUT",
    "API_KEY_COULD_NOT_BE_FOUND",
    "API_KEY_NOT_FOUND",
    "API_KEY_NOT_FOUND_OR_EXPIRED",
    "ENDPOINT_RETIRED",
    "INVALID_CURSOR",
    "TOO_MANY_API_KEYS",
    # Endpoints for images: image_recipes.py.
    "CORRUPTED_IMAGE",
    "IMAGE_EDIT_ERROR",
    "IMAGE_NOT_ACCEPTED",
    "IMAGE_TOO_LARGE",
    "IMAGE_TOO_SMALL",
    "INVALID_FORM",
    "UPSCALE_FAILED",
}
"""Codes that no request to the chat endpoint provokes."""
