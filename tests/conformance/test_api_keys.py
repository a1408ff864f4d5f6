"""`/api_keys`: exact shapes, exact refusals, and what a change does to the next request (B.12)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.client import Answer, ask, chat, get
from support.configuration import PRICED_MODEL, model_toml
from support.gateway import RunningGateway, running_gateway
from support.published import assert_answer_is_published
from traghetto.clock import ManualClock

KEYS = "/api/v1/api_keys"
COST = "0.000044"


@dataclass
class Scene:
    """A gateway, and an account that manages its keys itself."""

    gateway: RunningGateway
    clock: ManualClock
    account: str
    admin: str

    def create(self, **body: Any) -> Answer:
        sound = {"apiKeyType": "INFERENCE", "description": "a key"}
        return ask(self.gateway, self.admin, sound | body, path=KEYS)

    def created(self, **body: Any) -> dict[str, Any]:
        answer = self.create(**body)
        assert answer.status == 200, answer
        assert_answer_is_published("POST", "/api_keys", answer.json)
        data: dict[str, Any] = answer.json["data"]
        return data

    def update(self, **body: Any) -> Answer:
        return ask(self.gateway, self.admin, body, method="PATCH", path=KEYS)

    def delete(self, query: str = "", body: Any = None, **options: Any) -> Answer:
        return ask(self.gateway, self.admin, body, method="DELETE", path=KEYS + query, **options)

    def listed(self, key: str | None = None) -> list[dict[str, Any]]:
        answer = get(self.gateway, KEYS, key or self.admin)
        assert answer.status == 200, answer
        assert_answer_is_published("GET", "/api_keys", answer.json)
        data: list[dict[str, Any]] = answer.json["data"]
        return data

    def shown(self, key_id: str) -> dict[str, Any]:
        answer = get(self.gateway, f"{KEYS}/{key_id}", self.admin)
        assert_answer_is_published("GET", "/api_keys/{id}", answer.json)
        data: dict[str, Any] = answer.json["data"]
        return data


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    clock = ManualClock()
    toml = (
        PRICED_MODEL
        + model_toml("seldom", size_class='"l"')
        + model_toml("hidden", privacy='"anonymized"')
    )
    toml = "[rate_limits.l]\nrequests_per_minute = 1\ntokens_per_minute = 1000\n" + toml
    with running_gateway(tmp_path, toml, clock=clock) as gateway:
        gateway.perform("accounts.create", name="owner", usd="10")
        admin = gateway.perform("keys.create", account="owner", admin=True)["secret"]
        yield Scene(gateway, clock, "owner", admin)
        assert gateway.differences() == []


def test_a_key_is_made_with_defaults(scene: Scene) -> None:
    """What is not said is INFERENCE-safe: a day's window, all models, no limit, no end."""
    data = scene.created()
    assert data["apiKey"].startswith("VENICE_INFERENCE_KEY_")
    assert {name: data[name] for name in data if name not in {"id", "apiKey"}} == {
        "apiKeyType": "INFERENCE",
        "description": "a key",
        "expiresAt": None,
        "consumptionLimit": {"usd": None, "diem": None, "vcu": None},
        "limitPeriod": "EPOCH",
        "modelPrivacy": "ALL",
    }
    assert chat(scene.gateway, data["apiKey"]).status == 200


def test_a_key_is_made_as_asked(scene: Scene) -> None:
    """Type, limits, period, privacy and end are those of the request, to the last digit."""
    data = scene.created(
        apiKeyType="ADMIN",
        description="x" * 64,
        consumptionLimit={"usd": 0.123456789, "diem": 9999999999},
        limitPeriod="MONTH",
        modelPrivacy="PRIVATE_ONLY",
        expiresAt="2026-02-03",
    )
    assert data["apiKey"].startswith("VENICE_ADMIN_KEY_")
    assert data["expiresAt"] == "2026-02-03T00:00:00.000Z"
    assert data["consumptionLimit"] == {"usd": 0.123456789, "diem": 9999999999, "vcu": 9999999999}
    shown = scene.shown(data["id"])
    assert shown["consumptionLimits"] == data["consumptionLimit"]
    assert (shown["limitPeriod"], shown["modelPrivacy"]) == ("MONTH", "PRIVATE_ONLY")
    assert shown["last6Chars"] == data["apiKey"][-6:]
    assert shown["createdAt"] == "2026-01-01T00:00:00.000Z"
    assert shown["lastUsedAt"] is None
    assert scene.listed(data["apiKey"])[0]["lastUsedAt"] == "2026-01-01T00:00:00.000Z"


def test_the_largest_limit_survives_a_restart(tmp_path: Path) -> None:
    """A limit above what a column holds is echoed as it was set."""
    with running_gateway(tmp_path, PRICED_MODEL) as gateway:
        gateway.perform("accounts.create", name="owner", usd="10")
        admin = gateway.perform("keys.create", account="owner", admin=True)["secret"]
        body = {
            "apiKeyType": "INFERENCE",
            "description": "",
            "consumptionLimit": {"usd": 9999999999},
        }
        created = ask(gateway, admin, body, path=KEYS).json["data"]
    with running_gateway(tmp_path, PRICED_MODEL) as gateway:
        shown = get(gateway, f"{KEYS}/{created['id']}", admin).json["data"]
        assert shown["consumptionLimits"]["usd"] == 9999999999
        assert chat(gateway, created["apiKey"]).status == 200


def test_vcu_is_diem_by_its_old_name(scene: Scene) -> None:
    """A client that limits VCU limits DIEM; where both are named, DIEM counts."""
    assert scene.created(consumptionLimit={"vcu": 3})["consumptionLimit"]["diem"] == 3
    both = scene.created(consumptionLimit={"vcu": 3, "diem": 4})
    assert both["consumptionLimit"] == {"usd": None, "diem": 4, "vcu": 4}


def test_keys_are_listed_newest_first_with_what_they_spent(scene: Scene) -> None:
    """Usage of seven days always, of the limit's window where there is a limit."""
    first = scene.created(description="first")
    scene.clock.advance(60)
    second = scene.created(description="second", consumptionLimit={"usd": 1})
    for data in (first, second):
        assert chat(scene.gateway, data["apiKey"]).status == 200
    scene.gateway.differences()
    newest, older, own = scene.listed()
    assert [newest["description"], older["description"]] == ["second", "first"]
    assert own["apiKeyType"] == "ADMIN"
    assert newest["usage"]["trailingSevenDays"] == {
        "usd": "0.0000",
        "diem": "0.0000",
        "vcu": "0.0000",
    }
    assert newest["currentPeriodUsage"] == {"usd": "0.0000", "diem": "0.0000"}
    assert "currentPeriodUsage" not in older
    for _ in range(2):
        assert (
            chat(
                scene.gateway,
                second["apiKey"],
                max_tokens=400,
                messages=[{"role": "user", "content": "x" * 900}],
            ).status
            == 200
        )
    scene.gateway.differences()
    spent = scene.listed()[0]
    assert float(spent["currentPeriodUsage"]["usd"]) > 0
    assert spent["usage"]["trailingSevenDays"]["usd"] == spent["currentPeriodUsage"]["usd"]
    scene.clock.advance(86_400)
    later = scene.listed()[0]
    assert later["currentPeriodUsage"]["usd"] == "0.0000"
    assert later["usage"]["trailingSevenDays"] == spent["usage"]["trailingSevenDays"]
    scene.clock.advance(6 * 86_400)
    assert scene.listed()[0]["usage"]["trailingSevenDays"]["usd"] == "0.0000"


def test_a_change_holds_for_the_next_request(scene: Scene) -> None:
    """A limit of 0 blocks at once, null lifts it; what is not named stays."""
    data = scene.created(description="kept", limitPeriod="MONTH")
    blocked = scene.update(id=data["id"], consumptionLimit={"usd": 0})
    assert blocked.status == 200
    assert_answer_is_published("PATCH", "/api_keys", blocked.json)
    assert blocked.json["data"]["consumptionLimits"] == {"usd": 0, "diem": None, "vcu": None}
    assert blocked.json["data"]["description"] == "kept"
    assert blocked.json["data"]["limitPeriod"] == "MONTH"
    refused = chat(scene.gateway, data["apiKey"])
    assert refused.headers["x-error-code"] == "API_KEY_USD_SPEND_LIMIT_EXCEEDED"
    assert "x-venice-balance-usd" not in refused.headers, "a zero is never sent"
    assert scene.update(id=data["id"], consumptionLimit={"usd": None}).status == 200
    assert chat(scene.gateway, data["apiKey"]).status == 200


@pytest.mark.parametrize("never", ["", None])
def test_an_end_can_be_set_and_cleared(scene: Scene, never: str | None) -> None:
    """A key ends when it says, and an empty or null end is none."""
    data = scene.created(expiresAt="2026-01-01T00:01:00Z")
    assert scene.update(id=data["id"], expiresAt=never).json["data"]["expiresAt"] is None
    scene.clock.advance(120)
    assert chat(scene.gateway, data["apiKey"]).status == 200
    later = scene.update(id=data["id"], expiresAt="2026-01-01T00:03:00.500Z")
    assert later.json["data"]["expiresAt"] == "2026-01-01T00:03:00.500Z"
    scene.clock.advance(60.5)
    expired = chat(scene.gateway, data["apiKey"])
    assert (expired.status, expired.body) == (401, b'{"error":"Authentication failed"}')
    assert data["id"] not in {key["id"] for key in scene.listed()}
    assert (
        get(scene.gateway, f"{KEYS}/{data['id']}", scene.admin).body
        == b'{"error":"API key not found"}'
    )
    gone = scene.update(id=data["id"], expiresAt="")
    assert (gone.status, gone.body) == (400, b'{"error":"API key not found or expired"}')


@pytest.mark.parametrize("place", ["query", "body", "both"])
def test_a_key_is_ended_for_good(scene: Scene, place: str) -> None:
    """The id may be in the query, as published, or in a body, as some clients send it."""
    data = scene.created()
    query = f"?id={data['id']}" if place != "body" else ""
    body = {"id": data["id"] if place == "body" else "ignored"} if place != "query" else None
    ended = scene.delete(query, body)
    assert (ended.status, ended.body) == (200, b'{"success":true}')
    assert chat(scene.gateway, data["apiKey"]).status == 401
    again = scene.delete(query, body)
    assert (again.status, again.body) == (400, b'{"error":"API key could not be found"}')


def test_a_get_or_delete_with_a_content_type_and_no_body_is_sound(scene: Scene) -> None:
    """Some clients send `content-type: application/json` with everything."""
    data = scene.created()
    headers = {"content-type": "application/json"}
    assert ask(scene.gateway, scene.admin, method="GET", path=KEYS, headers=headers).status == 200
    assert scene.delete(f"?id={data['id']}", headers=headers).status == 200


def test_another_account_is_answered_as_if_there_were_no_key(scene: Scene) -> None:
    """Reading, changing and ending a foreign key is like one that does not exist, and does nothing."""
    foreign = scene.created()
    scene.gateway.perform("accounts.create", name="stranger", usd="1")
    stranger = scene.gateway.perform("keys.create", account="stranger", admin=True)["secret"]
    for key_id in (foreign["id"], "no-such-key", "x" * 300):
        path = f"{KEYS}/{key_id}"
        assert get(scene.gateway, path, stranger).body == b'{"error":"API key not found"}'
        changed = ask(
            scene.gateway,
            stranger,
            {"id": key_id, "description": "mine"},
            method="PATCH",
            path=KEYS,
        )
        assert changed.body == b'{"error":"API key not found or expired"}'
        ended = ask(scene.gateway, stranger, method="DELETE", path=f"{KEYS}?id={key_id}")
        assert ended.body == b'{"error":"API key could not be found"}'
    assert scene.shown(foreign["id"])["description"] == "a key"
    assert len(scene.listed(stranger)) == 1


BAD = (
    {"apiKeyType": "OWNER"},
    {"apiKeyType": None},
    {"description": "x" * 65},
    {"description": 7},
    {"description": "a\x00b"},
    {"description": "line\nbreak"},
    {"unknown": 1},
    {"openai_errors": True},
    {"account": "default"},
    {"limitPeriod": "WEEK"},
    {"modelPrivacy": "SOME"},
    {"consumptionLimit": []},
    {"consumptionLimit": {"USD": 5}},
    {"consumptionLimit": {"usd": 5, "eur": 3}},
    {"consumptionLimit": None},
    {"consumptionLimit": {"usd": -1}},
    {"consumptionLimit": {"usd": -0.000000001}},
    {"consumptionLimit": {"usd": "1"}},
    {"consumptionLimit": {"diem": True}},
    {"consumptionLimit": {"usd": 10_000_000_000}},
    {"consumptionLimit": {"vcu": 1e300}},
    {"consumptionLimit": {"usd": 0.0000000001}},
    {"expiresAt": "2025-12-31"},
    {"expiresAt": "2026-01-01"},
    {"expiresAt": "2026-01-01T00:00:00Z"},
    {"expiresAt": "2026-02-30"},
    {"expiresAt": "2027-13-01"},
    {"expiresAt": "2026-02-03T25:00:00Z"},
    {"expiresAt": "tomorrow"},
    {"expiresAt": 1_800_000_000},
    {"expiresAt": "9999-12-31"},
)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: json.dumps(bad)[:60])
def test_bad_members_are_refused_and_change_nothing(scene: Scene, bad: dict[str, Any]) -> None:
    """Every violation is a 400 that names the member, for a new key and for a change."""
    before = scene.listed()
    created = scene.create(**bad)
    changes = [created]
    if "apiKeyType" not in bad:
        changes.append(scene.update(id=before[0]["id"], **bad))
    for refused in changes:
        assert refused.status == 400, refused
        assert refused.json.keys() == {"error", "details", "issues"}
        assert refused.json["error"] == "Invalid request parameters"
        assert refused.json["issues"]
    after = [key | {"lastUsedAt": None} for key in scene.listed()]
    assert after == [key | {"lastUsedAt": None} for key in before]


AMOUNT = '{"apiKeyType":"INFERENCE","description":"","consumptionLimit":{"usd":AMOUNT}}'


@pytest.mark.parametrize("literal", ["1e-10", "0.1234567891", "9999999999.0000000001", "1e10"])
def test_amounts_are_read_to_the_last_digit(scene: Scene, literal: str) -> None:
    """A number that a float would round to a sound one is refused as it was written."""
    body = AMOUNT.replace("AMOUNT", literal)
    refused = ask(scene.gateway, scene.admin, body.encode(), path=KEYS)
    assert refused.status == 400
    assert refused.json["issues"][0]["path"] == ["consumptionLimit", "usd"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999", "--1", '"1"x'])
def test_amounts_that_are_no_json_are_refused(scene: Scene, literal: str) -> None:
    """What is no JSON number is no JSON."""
    body = AMOUNT.replace("AMOUNT", literal)
    refused = ask(scene.gateway, scene.admin, body.encode(), path=KEYS)
    assert (refused.status, refused.body) == (400, b'{"error":"Invalid JSON request"}')


def test_twenty_keys_a_minute(scene: Scene) -> None:
    """The twenty-first creation of an account in a minute is refused, with a time that is true."""
    answers = [scene.create().status for _ in range(19)] + [scene.create(unknown=1).status]
    assert answers == [200] * 19 + [400]
    refused = scene.create()
    assert (refused.status, refused.body) == (429, b'{"error":"Rate limit exceeded"}')
    assert refused.headers["retry-after"] == "60"
    scene.clock.advance(60)
    assert scene.create().status == 200


def test_five_hundred_active_keys(scene: Scene) -> None:
    """An account has at most 500 keys that work; an expired one makes room."""
    instant = scene.clock.utc_ns() + 10**9
    for number in range(499):
        ends = {"expires_at_ns": instant} if number == 0 else {}
        scene.gateway.perform("keys.create", account="owner", **ends)
    refused = scene.create()
    assert refused.status == 400
    assert refused.json == {"error": "The maximum number of active API keys has been reached"}
    scene.clock.advance(1)
    assert scene.create().status == 200


def test_simultaneous_creations_do_not_exceed_the_maximum(scene: Scene) -> None:
    """Counting and making are one step."""
    for _ in range(494):
        scene.gateway.perform("keys.create", account="owner")
    with ThreadPoolExecutor(15) as pool:
        statuses = list(pool.map(lambda _: scene.create().status, range(15)))
    assert sorted(statuses) == [200] * 5 + [400] * 10
    assert len(scene.listed()) == 500


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_an_inference_key_manages_nothing(scene: Scene, method: str) -> None:
    """Key management needs an admin key, whatever is asked."""
    key = scene.created()["apiKey"]
    body = {"id": "x"} if method in {"POST", "PATCH"} else None
    for path in (KEYS, f"{KEYS}/x", f"{KEYS}/rate_limits/log") if method == "GET" else (KEYS,):
        refused = ask(scene.gateway, key, body, method=method, path=path)
        assert (refused.status, refused.body) == (401, b'{"error":"Admin API key required"}')
        assert refused.headers["x-venice-balance-usd"] == "10"


def test_the_order_of_checks(scene: Scene) -> None:
    """Size and type before credentials, credentials before kind, kind before content."""
    key = scene.created()["apiKey"]
    large = b"{" + b" " * 70_000 + b"}"
    assert ask(scene.gateway, None, large, path=KEYS).status == 413
    text = {"content-type": "text/plain"}
    assert ask(scene.gateway, None, b"{}", path=KEYS, headers=text).status == 415
    assert ask(scene.gateway, None, b"{", path=KEYS).body == b'{"error":"Invalid JSON request"}'
    assert ask(scene.gateway, None, b"{}", path=KEYS).status == 401
    assert ask(scene.gateway, key, b"{}", path=KEYS).body == b'{"error":"Admin API key required"}'
    assert ask(scene.gateway, scene.admin, b"{}", path=KEYS).status == 400


def test_rate_limits_are_those_of_the_key(scene: Scene) -> None:
    """Balances within the key's limits, its end, the next day, and the models it may use."""
    data = scene.created(
        consumptionLimit={"usd": 1.5}, modelPrivacy="PRIVATE_ONLY", expiresAt="2026-01-02"
    )
    answer = get(scene.gateway, f"{KEYS}/rate_limits", data["apiKey"])
    assert_answer_is_published("GET", "/api_keys/rate_limits", answer.json)
    shown = answer.json["data"]
    assert shown["accessPermitted"] is True
    assert shown["apiTier"] == {"id": "standard", "isCharged": True}
    assert shown["balances"] == {"USD": 1.5}
    assert shown["keyExpiration"] == "2026-01-02T00:00:00.000Z"
    assert shown["nextEpochBegins"] == "2026-01-02T00:00:00.000Z"
    limits = {model["apiModelId"]: model["rateLimits"] for model in shown["rateLimits"]}
    assert limits == {
        "priced": [{"amount": 500, "type": "RPM"}, {"amount": 1_000_000, "type": "TPM"}],
        "seldom": [{"amount": 1, "type": "RPM"}, {"amount": 1000, "type": "TPM"}],
    }
    assert answer.headers["x-venice-balance-usd"] == "1.5"


def test_refusals_by_limits_are_told(scene: Scene) -> None:
    """The last fifty of the account, newest first, each with its limit, model and key."""
    data = scene.created()
    assert chat(scene.gateway, data["apiKey"], "seldom").status == 200
    scene.clock.advance(1)
    assert chat(scene.gateway, data["apiKey"], "seldom").status == 429
    scene.clock.advance(1)
    for _ in range(21):
        assert chat(scene.gateway, data["apiKey"], "seldom", temperature=9).status == 400
    for _ in range(60):
        assert chat(scene.gateway, data["apiKey"], "seldom").status == 429
    answer = get(scene.gateway, f"{KEYS}/rate_limits/log", scene.admin)
    assert_answer_is_published("GET", "/api_keys/rate_limits/log", answer.json)
    entries = answer.json["data"]
    assert len(entries) == 50
    assert {entry["rateLimitType"] for entry in entries} == {"FAILED_REQUESTS"}
    assert entries[0] == {
        "apiKeyId": data["id"],
        "modelId": "seldom",
        "rateLimitTier": "standard",
        "rateLimitType": "FAILED_REQUESTS",
        "timestamp": "2026-01-01T00:00:02.000Z",
    }
    stranger = scene.gateway.new_key(admin=True)
    assert get(scene.gateway, f"{KEYS}/rate_limits/log", stranger).json["data"] == []


def test_a_refusal_by_a_models_limit_has_its_type(scene: Scene) -> None:
    """RPM and TPM are told apart."""
    data = scene.created()
    chat(scene.gateway, data["apiKey"], "seldom")
    chat(scene.gateway, data["apiKey"], "seldom")
    entries = get(scene.gateway, f"{KEYS}/rate_limits/log", scene.admin).json["data"]
    assert [entry["rateLimitType"] for entry in entries] == ["RPM"]


def test_no_secret_is_stored_or_logged(scene: Scene) -> None:
    """The secret of a key is in the answer that made it, and nowhere else."""
    data = scene.created()
    assert chat(scene.gateway, data["apiKey"]).status == 200
    scene.gateway.differences()
    assert data["apiKey"] not in json.dumps(scene.listed())
    assert data["apiKey"] not in scene.gateway.log.getvalue()
    for path in scene.gateway.data_dir.iterdir():
        assert not path.is_file() or data["apiKey"].encode() not in path.read_bytes()


def test_the_last_use_survives_a_restart(tmp_path: Path) -> None:
    """It is written down to the minute."""
    clock = ManualClock()
    with running_gateway(tmp_path, PRICED_MODEL, clock=clock) as gateway:
        gateway.perform("accounts.create", name="owner", usd="10")
        admin = gateway.perform("keys.create", account="owner", admin=True)["secret"]
        used = gateway.perform("keys.create", account="owner")["secret"]
        assert chat(gateway, used).status == 200
        gateway.call(clock.advance, 61)
        assert chat(gateway, used).status == 200
    with running_gateway(tmp_path, PRICED_MODEL, clock=clock) as gateway:
        newest, _ = get(gateway, KEYS, admin).json["data"]
        assert newest["lastUsedAt"] == "2026-01-01T00:01:01.000Z"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_keys_for_wallets_are_not_served(scene: Scene, method: str) -> None:
    """Their route is not taken for the id of a key, whoever asks."""
    for key in (None, scene.admin):
        missing = ask(scene.gateway, key, method=method, path=f"{KEYS}/generate_web3_key")
        assert (missing.status, missing.body) == (404, b'{"error":"Not found"}')
