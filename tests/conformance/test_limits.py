"""Rates and the failed-request budget: true headers, true waiting times (contract C.1, C.3).

The gateway runs on a clock that the test moves, so that a minute takes no time and every number
can be compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.client import BUDGET_USED_UP, QUESTION_TOKENS, Answer, ask, chat, chat_body
from support.configuration import PRICED_MODEL, model_toml, relayed_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import FaultUpstream, answer_json, completion
from traghetto.clock import ManualClock

NOW = 1_767_225_600
UNSUPPORTED_TEXT = BUDGET_USED_UP.replace("20", "200")
SIX = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
LIMITS = """
[rate_limits.l]
requests_per_minute = 2
tokens_per_minute = 100
[rate_limits.m]
requests_per_minute = 3
"""
NEVER = "X" * 40


@pytest.fixture
def gateway(tmp_path: Path, clock: ManualClock) -> Iterator[RunningGateway]:
    toml = (
        LIMITS
        + PRICED_MODEL
        + model_toml("seldom", size_class='"l"')
        + model_toml("other", size_class='"l"')
        + model_toml("free", size_class='"none"')
        + model_toml("plain", capabilities="{}")
        + model_toml("broken", fault='"broken"')
        + model_toml("overloaded", fault='"overloaded"')
        + model_toml("gone", offline="true")
    )
    with running_gateway(tmp_path, toml, clock=clock) as running:
        yield running


def six(answer: Answer) -> tuple[int, ...]:
    """The six headers in their order, as the integers that they must be."""
    return tuple(int(answer.headers[name]) for name in SIX)


# --- rates --------------------------------------------------------------------------------------


def test_headers_say_what_is_true_when_the_answer_begins(
    gateway: RunningGateway, clock: ManualClock
) -> None:
    """A whole answer names what it really used; a stream, which is not over, its bound."""
    key = gateway.new_key()
    first = chat(gateway, key, max_tokens=16, stop=["simulated"])
    used = first.json["usage"]["total_tokens"]
    assert used < QUESTION_TOKENS + 16
    assert six(first) == (500, 499, NOW + 60, 1_000_000, 1_000_000 - used, 60)
    clock.advance(20)
    second = chat(gateway, key, stream=True)
    bound = QUESTION_TOKENS + 16
    assert six(second) == (500, 498, NOW + 60, 1_000_000, 1_000_000 - used - bound, 40)
    third = chat(gateway, key)
    assert six(third)[4] == 1_000_000 - used - 2 * bound, "the stream used all of its bound"
    assert "x-ratelimit-type" not in third.headers


@pytest.mark.parametrize("stream", [False, True])
def test_requests_per_minute(gateway: RunningGateway, clock: ManualClock, stream: bool) -> None:
    """The third request within a minute is refused; after `Retry-After` seconds one succeeds."""
    key = gateway.new_key()
    for remaining in (1, 0):
        answer = chat(gateway, key, "seldom", stream=stream)
        assert (answer.status, six(answer)[1]) == (200, remaining)
    clock.advance(12)
    refused = chat(gateway, key, "seldom", stream=stream)
    assert refused.status == 429
    assert refused.body == b'{"error":"Rate limit exceeded"}'
    assert refused.headers["x-ratelimit-type"] == "user"
    assert six(refused) == (2, 0, NOW + 60, 100, 100 - 2 * (QUESTION_TOKENS + 16), 48)
    wait = int(refused.headers["retry-after"])
    assert wait == 48
    clock.advance(wait - 1)
    early = chat(gateway, key, "seldom")
    assert (early.status, early.headers["retry-after"]) == (429, "1")
    clock.advance(1)
    late = chat(gateway, key, "seldom")
    assert late.status == 200
    assert six(late) == (2, 1, NOW + 120, 100, 100 - QUESTION_TOKENS - 16, 60)


def test_tokens_per_minute(gateway: RunningGateway, clock: ManualClock) -> None:
    """A request whose bound does not fit is refused, although it has a request left."""
    key = gateway.new_key()
    assert chat(gateway, key, "seldom", max_tokens=60).status == 200
    refused = chat(gateway, key, "seldom", max_tokens=60)
    assert (refused.status, refused.body) == (429, b'{"error":"Rate limit exceeded"}')
    assert six(refused)[1] == 1, "a refused request counts for nothing"
    assert chat(gateway, key, "seldom", max_tokens=4).status == 200, "a smaller one still fits"
    clock.advance(int(refused.headers["retry-after"]))
    assert chat(gateway, key, "seldom", max_tokens=60).status == 200


def test_a_bound_above_the_limit_is_let_in_once(gateway: RunningGateway) -> None:
    """A request larger than the whole window would otherwise never be served."""
    key = gateway.new_key()
    answer = chat(gateway, key, "seldom", max_tokens=4000)
    assert answer.status == 200
    used = answer.json["usage"]["total_tokens"]
    assert six(answer)[3:5] == (100, max(0, 100 - used))


def test_windows_belong_to_an_account_and_a_model(gateway: RunningGateway) -> None:
    """Another key of the account shares the window; another model or account does not."""
    gateway.perform("accounts.create", name="a", usd="1")
    keys = [gateway.perform("keys.create", account="a")["secret"] for _ in range(2)]
    assert chat(gateway, keys[0], "seldom").status == 200
    assert chat(gateway, keys[1], "seldom").status == 200
    assert chat(gateway, keys[0], "seldom").status == 429
    assert chat(gateway, keys[0], "other").status == 200
    assert chat(gateway, gateway.new_key(), "seldom").status == 200


def test_failed_requests_use_a_request_but_no_tokens(gateway: RunningGateway) -> None:
    """A request that failed at the model was a request; its tokens are given back."""
    answer = chat(gateway, gateway.new_key(), "broken")
    assert answer.status == 500
    assert six(answer) == (500, 499, NOW + 60, 1_000_000, 1_000_000, 60)


def test_cached_tokens_do_not_count(
    tmp_path: Path, clock: ManualClock, upstream: FaultUpstream
) -> None:
    """Prompt tokens that a backend had in its cache are not charged to the minute."""
    usage = {
        "prompt_tokens": 40,
        "completion_tokens": 3,
        "total_tokens": 43,
        "prompt_tokens_details": {"cached_tokens": 32},
    }
    upstream.then(answer_json(completion(usage=usage)))
    with running_gateway(tmp_path, relayed_toml(upstream), clock=clock) as gateway:
        answer = chat(gateway, gateway.new_key(), "relayed")
        assert answer.status == 200
        assert six(answer)[4] == 1_000_000 - 11


def test_models_without_limits_have_no_rate_headers(gateway: RunningGateway) -> None:
    """Size class `none`: nothing is limited and nothing is said."""
    answer = chat(gateway, gateway.new_key(), "free")
    assert answer.status == 200
    assert not set(SIX) & answer.headers.keys()


def test_the_usual_numbers(gateway: RunningGateway) -> None:
    """The published numbers of the smallest class, for both tiers."""
    partner = gateway.new_key(account={"usd": "1", "tier": "partner"})
    assert six(chat(gateway, gateway.new_key()))[::3] == (500, 1_000_000)
    assert six(chat(gateway, partner))[::3] == (500, 2_000_000)


def test_live_resets_are_unix_milliseconds(tmp_path: Path, clock: ManualClock) -> None:
    """The units of the reset headers are a setting."""
    with running_gateway(tmp_path, PRICED_MODEL, clock=clock, ratelimit_reset_style="live") as live:
        answer = chat(live, live.new_key())
        assert six(answer)[2] == six(answer)[5] == (NOW + 60) * 1000
        assert answer.headers["x-ratelimit-resets"] == str(NOW * 1000)


def test_limits_can_be_off(tmp_path: Path) -> None:
    """`rate_limits = "off"`: no header, however many requests."""
    with running_gateway(tmp_path, PRICED_MODEL, rate_limits="off") as off:
        answer = chat(off, off.new_key())
        assert answer.status == 200
        assert not set(SIX) & answer.headers.keys()


# --- the failed-request budget ------------------------------------------------------------------


def budget(answer: Answer) -> tuple[int, int]:
    """What is left, and when it is reset, in seconds from the start of the test."""
    resets = int(answer.headers["x-ratelimit-resets"]) - NOW
    return int(answer.headers["x-ratelimit-remaining"]), resets


def test_twenty_failures_are_let_pass_and_the_next_one_blocks(
    gateway: RunningGateway, clock: ManualClock
) -> None:
    """More than 20 failures within 30 s block for 30 s; the block neither counts nor lengthens."""
    key = gateway.new_key()
    for count in range(21):
        answer = chat(gateway, key, messages=[])
        assert answer.status == 400
        assert budget(answer) == (20 - count, 30 if count else 0)
    for waited in (0, 29):
        clock.advance(waited)
        blocked = chat(gateway, key)
        assert blocked.status == 429
        assert blocked.json == {"error": BUDGET_USED_UP}
        assert blocked.headers["x-error-code"] == "FAILED_REQUEST_BUDGET"
        assert budget(blocked) == (0, 30)
        assert blocked.headers["retry-after"] == str(30 - waited)
        assert blocked.headers["x-should-retry"] == "true"
    clock.advance(1)
    after = chat(gateway, key)
    assert (after.status, budget(after)[0]) == (200, 20)


def test_failures_are_forgotten_after_thirty_seconds(
    gateway: RunningGateway, clock: ManualClock
) -> None:
    """Twenty now and one later are no attack, and success does not reset the count."""
    key = gateway.new_key()
    for _ in range(20):
        assert chat(gateway, key, messages=[]).status == 400
    assert budget(chat(gateway, key)) == (0, 30)
    clock.advance(30)
    assert chat(gateway, key, messages=[]).status == 400
    assert budget(chat(gateway, key))[0] == 19


@pytest.mark.parametrize(
    ("how", "request_members", "status"),
    [
        ("schema", {"body": chat_body(temperature=9)}, 400),
        ("no model", {"body": chat_body(model=None)}, 400),
        ("unknown model", {"body": chat_body("nobody")}, 404),
    ],
)
def test_what_counts(
    gateway: RunningGateway, how: str, request_members: dict[str, Any], status: int
) -> None:
    """Refusals for what the caller sent count."""
    key = gateway.new_key()
    assert ask(gateway, key, **request_members).status == status
    assert budget(ask(gateway, key, **request_members))[0] == 19


@pytest.mark.parametrize(
    ("how", "request_members", "status"),
    [
        ("overloaded", {"body": chat_body("overloaded")}, 429),
        ("failed inference", {"body": chat_body("broken")}, 500),
        ("offline", {"body": chat_body("gone")}, 503),
        ("size", {"body": b" " * 40_000_000}, 413),
        ("type", {"body": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ("syntax", {"body": b"{"}, 400),
        ("route", {"body": chat_body(), "path": "/v1/nothing"}, 404),
        ("method", {"body": chat_body(), "method": "PUT"}, 405),
    ],
)
def test_what_does_not_count(
    gateway: RunningGateway, how: str, request_members: dict[str, Any], status: int
) -> None:
    """What is not the caller's fault, or was refused before anybody was asked, is free."""
    key = gateway.new_key()
    assert ask(gateway, key, **request_members).status == status
    body = request_members["body"]
    model = body["model"] if isinstance(body, dict) else "priced"
    assert budget(chat(gateway, key, model))[0] == 20


def test_budgets_belong_to_key_model_and_user(gateway: RunningGateway) -> None:
    """One bad caller of an application does not block its other users, models or keys."""
    gateway.perform("accounts.create", name="a", usd="1")
    first, second = (gateway.perform("keys.create", account="a")["secret"] for _ in range(2))
    for _ in range(21):
        assert chat(gateway, first, messages=[], user="u").status == 400
    assert chat(gateway, first, user="u").status == 429
    assert chat(gateway, first, user="v").status == 200
    assert chat(gateway, first).status == 200
    assert chat(gateway, first, "other", user="u").status == 200
    assert chat(gateway, second, user="u").status == 200


def test_unsupported_features_have_a_budget_of_their_own(gateway: RunningGateway) -> None:
    """200 refusals of a capability are let pass, and the normal budget is not touched by them."""
    key = gateway.new_key()
    for _ in range(201):
        answer = chat(gateway, key, "plain", venice_parameters={"enable_web_search": "on"})
        assert answer.status == 400
        assert budget(answer)[0] == 20
    blocked = chat(gateway, key, "plain")
    assert (blocked.status, blocked.json) == (429, {"error": UNSUPPORTED_TEXT})


@pytest.mark.parametrize(
    ("credentials", "text"),
    [
        ({"authorization": f"Bearer {NEVER}"}, "Authentication failed"),
        ({"authorization": "Basic e30="}, "Authentication failed"),
        ({"x-payment": "e30="}, "Payment headers are accepted on /x402/top-up only"),
    ],
)
def test_unknown_callers_are_counted_by_address(
    gateway: RunningGateway, clock: ManualClock, credentials: dict[str, str], text: str
) -> None:
    """The 22nd guess from an address is not looked at; its neighbours and good keys are."""
    for _ in range(21):
        assert ask(gateway, None, chat_body(), headers=credentials).json["error"] == text
    blocked = ask(gateway, None, chat_body(), headers=credentials)
    assert (blocked.status, blocked.json) == (429, {"error": BUDGET_USED_UP})
    assert blocked.headers["retry-after"] == "30"
    neighbour = ask(gateway, None, chat_body(), headers=credentials, source="127.0.0.2")
    assert neighbour.json["error"] == text
    assert chat(gateway, gateway.new_key()).status == 200, "a valid key is not judged by address"
    clock.advance(30)
    assert ask(gateway, None, chat_body(), headers=credentials).json["error"] == text


def test_missing_credentials_do_not_count(gateway: RunningGateway) -> None:
    """A client that forgot its key learns so every time."""
    for _ in range(25):
        assert chat(gateway, None).status == 401


def test_ipv6_callers_share_the_budget_of_their_network(tmp_path: Path) -> None:
    """A /64 is one customer: changing the lower half of the address does not help."""
    with running_gateway(tmp_path, PRICED_MODEL, trusted_proxies="127.0.0.0/8") as gateway:

        def guess(address: str) -> int:
            headers = {"authorization": f"Bearer {NEVER}", "x-forwarded-for": address}
            return ask(gateway, None, chat_body(), headers=headers).status

        for number in range(21):
            assert guess(f"2001:db8:1:2::{number:x}") == 401
        assert guess("2001:db8:1:2:ffff::1") == 429
        assert guess("2001:db8:1:3::1") == 401
        assert guess("192.0.2.1") == 401
        for _ in range(20):
            assert guess("192.0.2.1") == 401
        assert guess("192.0.2.1") == 429
        assert guess("::ffff:192.0.2.1") == 429, "the same address, written as IPv6"
        assert guess("192.0.2.2") == 401


def test_the_threshold_is_a_setting_and_stands_in_the_text(tmp_path: Path) -> None:
    """The sentence names the numbers in force."""
    with running_gateway(
        tmp_path, PRICED_MODEL, failed_requests_max=1, failed_requests_block_seconds=7
    ) as gateway:
        key = gateway.new_key()
        for _ in range(2):
            assert chat(gateway, key, messages=[]).status == 400
        blocked = chat(gateway, key)
        assert blocked.json["error"] == BUDGET_USED_UP.replace("20", "1").replace("30s", "7s")
        assert blocked.headers["retry-after"] == "7"
