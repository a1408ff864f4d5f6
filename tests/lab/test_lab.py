"""A lab over its socket: accounts in every state, time that moves, failures on command."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.client import get
from support.configuration import PRICED_MODEL
from support.gateway import running_gateway
from support.waiting import wait_until
from traghetto.engines.imaging.extras import is_available
from traghetto.engines.simulator.faults import Fault
from traghetto.lab.states import STATES
from traghetto.testing import Lab, LabRefused
from traghetto.testing.http import Answer, ask


def chat(lab: Lab, key: str, model: str = "chat", **members: Any) -> Answer:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": model, "max_tokens": 16, "messages": messages, **members}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return ask("POST", f"{lab.url}/chat/completions", headers, msgspec.json.encode(body))


def code(answer: Answer) -> str:
    return answer.headers.get("x-error-code", "")


EXPECTED = {
    "fresh": "",
    "broke": "INSUFFICIENT_BALANCE",
    "diem-only": "",
    "bundled-only": "",
    "pro": "",
    "beta": "",
    "partner": "",
    "inactive": "AUTHENTICATION_FAILED_INACTIVE_KEY",
    "disabled": "API_ACCESS_DISABLED",
    "expired": "AUTHENTICATION_FAILED",
    "usd-limit-reached": "API_KEY_USD_SPEND_LIMIT_EXCEEDED",
    "diem-limit-reached": "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED",
    "private-only": "",
    "private-text": "",
    "openai-errors": "",
    "admin": "",
}


@pytest.mark.parametrize("state", STATES)
def test_a_state_decides_what_a_chat_gets(lab: Lab, state: str) -> None:
    """For every state there is a row here."""
    answer = chat(lab, lab.key(state))
    assert code(answer) == EXPECTED[state]
    assert (answer.status == 200) == (not EXPECTED[state])


def test_models_are_for_whom_their_names_say(lab: Lab) -> None:
    """Pro, beta and private keys, each with the model that tells them apart."""
    for state, model, expected in (
        ("pro", "pro-chat", ""),
        ("fresh", "pro-chat", "PRO_ONLY_MODEL"),
        ("beta", "beta-chat", ""),
        ("fresh", "beta-chat", "UNAUTHORIZED"),
        ("private-only", "anonymized-chat", "UNAUTHORIZED"),
        ("private-text", "anonymized-chat", "UNAUTHORIZED"),
        ("fresh", "anonymized-chat", ""),
    ):
        assert code(chat(lab, lab.key(state), model)) == expected, (state, model)


@pytest.mark.parametrize("state", ["usd-limit-reached", "diem-limit-reached"])
@pytest.mark.parametrize(
    ("period", "reopens"),
    [("EPOCH", {"day", "month"}), ("MONTH", {"month"}), ("LIFETIME", set())],
)
def test_a_limit_opens_again_when_its_window_ends(
    lab: Lab, state: str, period: str, reopens: set[str]
) -> None:
    """With the next epoch, the next month, or never."""
    lab.set_time(datetime(2031, 5, 10, 12, tzinfo=UTC))
    key = lab.key(state, key={"period": period})
    refused = EXPECTED[state]
    assert code(chat(lab, key)) == refused
    assert lab.next_day() == datetime(2031, 5, 11, tzinfo=UTC)
    assert code(chat(lab, key)) == ("" if "day" in reopens else refused)
    assert lab.next_month() == datetime(2031, 6, 1, tzinfo=UTC)
    assert code(chat(lab, key)) == ("" if "month" in reopens else refused)


def test_a_key_expires_while_time_passes(lab: Lab) -> None:
    """The key has an hour; the rate limit's minute is over before."""
    key = lab.key(key={"expires_in_seconds": 3600})
    assert chat(lab, key, "limited-chat").status == 200
    limited = chat(lab, key, "limited-chat")
    assert code(limited) == "RATE_LIMIT_EXCEEDED"
    lab.advance(float(limited.headers["retry-after"]))
    assert chat(lab, key, "limited-chat").status == 200
    lab.advance(3600)
    assert code(chat(lab, key)) == "AUTHENTICATION_FAILED"


def test_balances_are_what_they_are_set_to(lab: Lab) -> None:
    """Up, down and to nothing; the books stay exact."""
    account = lab.account(usd="3")
    lab.balances(account, usd="0.5")
    assert chat(lab, account.key).headers["x-venice-balance-usd"] == "0.5"
    lab.balances(account, usd="0")
    assert code(chat(lab, account.key)) == "INSUFFICIENT_BALANCE"
    lab.balances(account, usd="2", bundled="1")
    assert chat(lab, account.key).headers["x-venice-balance-usd"] == "3"


def test_a_fault_lasts_for_so_many_calls(lab: Lab) -> None:
    """Of that model, and of no other."""
    key = lab.key()
    lab.fault("overloaded", calls=2)
    assert [code(chat(lab, key)) for _ in range(3)] == ["MODEL_OVERLOADED"] * 2 + [""]
    lab.fault("broken", calls=1)
    assert [code(chat(lab, key)) for _ in range(2)] == ["INFERENCE_FAILED", ""]
    lab.fault("content-policy", calls=1)
    assert chat(lab, key, "small-chat", max_tokens=8).status == 200
    assert code(chat(lab, key)) == "CONTENT_POLICY_VIOLATION"
    assert chat(lab, key).status == 200


def test_however_often_a_model_fails_it_is_asked_again(lab: Lab) -> None:
    """In a lab it fails on purpose, so nothing is held against it: each answer is the same."""
    key = lab.key()
    lab.fault("broken")
    assert {code(chat(lab, key)) for _ in range(15)} == {"INFERENCE_FAILED"}


def test_slow_models_answer_in_the_end(lab: Lab) -> None:
    """Latency is a fault like others."""
    key = lab.key()
    lab.fault("slow", seconds=0.05)
    assert chat(lab, key).status == 200


def test_a_broken_stream_says_so(lab: Lab) -> None:
    """It ends with a frame of the contract."""
    lab.fault("cut-after", after_events=2)
    answer = chat(lab, lab.key(), stream=True)
    assert answer.status == 200
    assert b'data: {"error":' in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_the_gateway_itself_can_fail(lab: Lab) -> None:
    """For the next requests, and none after them."""
    key = lab.key()
    lab.fault("crash", calls=2)
    assert [code(chat(lab, key)) for _ in range(3)] == ["UNKNOWN_ERROR", "UNKNOWN_ERROR", ""]


def test_capacity_can_be_taken_and_given_back(lab: Lab) -> None:
    """Without a place every request is refused."""
    key = lab.key()
    lab.capacity(0)
    full = chat(lab, key)
    assert code(full) == "MODEL_AT_CAPACITY"
    assert int(full.headers["retry-after"]) >= 1
    lab.capacity(None)
    assert chat(lab, key).status == 200


def test_a_reset_leaves_nothing(lab: Lab) -> None:
    """No account, no fault, no time; the address stays."""
    key, admin_key = lab.key(), lab.admin_key
    lab.fault("broken")
    lab.advance(10 * 86_400)
    lab.capacity(0, "painter")
    lab.reset()
    assert lab.admin_key != admin_key
    assert code(chat(lab, key)) == "AUTHENTICATION_FAILED"
    assert chat(lab, lab.key()).status == 200
    now = ask("GET", lab.control_url, {}).json["utc"]
    assert abs(datetime.fromisoformat(now) - datetime.now(UTC)).total_seconds() < 60


def test_a_reset_ends_what_is_under_way(lab: Lab) -> None:
    """A request that hangs is answered: the gateway that it met is stopping."""
    key = lab.key()
    lab.fault("hang")
    metrics = lab.control_url.removesuffix("/lab") + "/metrics"
    with ThreadPoolExecutor(1) as one:
        asked = one.submit(chat, lab, key)
        wait_until(lambda: b"traghetto_open_holds 1.0" in ask("GET", metrics, {}).body)
        lab.reset()
        assert code(asked.result(20)) == "MODEL_OFFLINE"


@pytest.mark.parametrize(
    ("action", "arguments", "reason"),
    [
        ("accounts", {"state": "rich"}, "there is no state 'rich'; there are fresh, broke"),
        ("accounts", {"colour": "red"}, "Object contains unknown field `colour`"),
        ("accounts", {"usd": "much"}, "much"),
        ("faults", {"fault": "rain"}, "there is no fault 'rain'; there are crash, overloaded"),
        ("faults", {"fault": "broken", "model": "nobody"}, "no model 'nobody' is served"),
        ("faults", {"fault": "no-done", "model": "painter"}, "models of images have no fault"),
        ("faults", {"fault": "overloaded", "seconds": 2}, "`seconds` is a measure of 'slow'"),
        ("faults", {"fault": "overloaded", "after_events": 2}, "`after_events` is a measure of"),
        ("faults", {"fault": "crash", "model": "chat"}, "a crash is the gateway's"),
        ("clock", {}, "give one of `advance_seconds`, `set` and `to`"),
        ("clock", {"advance_seconds": -1}, "Expected `float` >= 0.0"),
        ("clock", {"set": "2031-01-01T00:00:00"}, "`set` needs a time zone"),
        ("balances", {"account": "nobody", "usd": "1"}, "there is no account 'nobody'"),
        ("capacity", {"model": "nobody", "concurrency_max": 1}, "no model 'nobody' is served"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    lab: Lab, action: str, arguments: dict[str, Any], reason: str
) -> None:
    """As a bad request of the contract, and nothing is changed."""
    with pytest.raises(LabRefused) as refused:
        lab.tell(action, **arguments)
    assert reason in str(refused.value)


def test_many_may_ask_at_once(lab: Lab) -> None:
    """Whatever the clock's resolution, and also while somebody resets."""
    with ThreadPoolExecutor(8) as threads:
        names = [account.name for account in threads.map(lambda _: lab.account(), range(200))]
        assert len(set(names)) == 200
        limited = [threads.submit(lab.key, "usd-limit-reached") for _ in range(40)]
        lab.reset()
        assert all(future.result(20) for future in limited)
    assert chat(lab, lab.key()).status == 200


def test_time_may_pass_while_a_request_is_under_way(lab: Lab) -> None:
    """It ends as if nothing had happened: what it holds is for as long as it really takes."""
    key = lab.key()
    lab.fault("slow", seconds=1.5)
    with ThreadPoolExecutor(1) as one:
        asked = one.submit(chat, lab, key)
        lab.advance(86_400)
        assert asked.result(30).status == 200


def test_a_web_page_controls_no_lab(lab: Lab) -> None:
    """A browser names the page that sends a request; nobody else has to."""
    for headers in ({"origin": "https://pages.example"}, {"host": "pages.example:80"}):
        for method, url in (("POST", f"{lab.control_url}/reset"), ("GET", lab.control_url)):
            answer = ask(method, url, headers, b"{}")
            assert (answer.status, code(answer)) == (403, "UNAUTHORIZED")
    for host in ("localhost:80", "lab:8421", "lab.local", "127.0.0.1", "[::1]:8421"):
        assert ask("GET", lab.control_url, {"host": host}).status == 200


def test_an_unknown_action_does_not_exist(lab: Lab) -> None:
    """As any other path that is not served."""
    with pytest.raises(LabRefused, match="Not found"):
        lab.tell("dance")


def test_a_lab_says_what_it_can(lab: Lab) -> None:
    """Its states, faults and models, for whoever has nothing but curl."""
    facts = ask("GET", lab.control_url, {}).json
    assert set(facts["states"]) == set(STATES)
    assert set(facts["faults"]) == {"crash", *(fault.value for fault in Fault)}
    assert {"chat", "painter", "editor", "upscaler"} <= {model["id"] for model in facts["models"]}


def test_only_a_lab_has_such_a_control(tmp_path: Path) -> None:
    """A gateway that serves people has none of it."""
    with running_gateway(tmp_path, PRICED_MODEL) as gateway:
        assert get(gateway, "/lab").status == 404
        assert get(gateway, "/lab/accounts").status == 404
        with pytest.raises(LabRefused, match="is no lab"):
            Lab.at(f"{gateway.url}/api/v1")


def test_every_model_of_the_lab_answers(lab: Lab) -> None:
    """Each as its kind is asked."""
    key = lab.key("pro")
    for model in ("chat", "limited-chat", "impatient-chat", "pro-chat", "anonymized-chat"):
        assert chat(lab, key, model).status == 200, model
    assert code(chat(lab, key, "offline-chat")) == "MODEL_OFFLINE"
    listed = {model["id"] for model in ask("GET", lab.control_url, {}).json["models"]}
    assert ("cutter" in listed) == is_available("vision")
