"""`/billing`: balances, histories that can be paged through, sums, and what is retired (B.15)."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest

from support.client import Answer, ask, chat, get
from support.configuration import PRICED_MODEL, image_toml, model_toml
from support.gateway import RunningGateway, running_gateway
from support.published import assert_answer_is_published
from traghetto.catalog.model import TextPricing
from traghetto.clock import ManualClock
from traghetto.money import UnitPrice
from traghetto.pipeline.images.prices import UnitKind
from traghetto.pipeline.quote import charge_lines
from traghetto.storage import reports
from traghetto.wire.billing import LINE_KINDS
from traghetto.wire.completion import BackendUsage

BILLING = "/api/v1/billing"
COST = Decimal("0.000044")
DAY_SECONDS = 86_400
COLUMNS = [
    "timestamp",
    "sku",
    "pricePerUnitUsd",
    "units",
    "amount",
    "currency",
    "notes",
    "inferenceDetails.requestId",
    "inferenceDetails.inferenceExecutionTime",
    "inferenceDetails.promptTokens",
    "inferenceDetails.completionTokens",
]


@dataclass
class Scene:
    """A gateway, and an account with an admin key and one for inference."""

    gateway: RunningGateway
    clock: ManualClock
    admin: str
    key: str

    def billing(self, path: str, key: str | None = None, accept: str | None = None) -> Answer:
        headers = {} if accept is None else {"accept": accept}
        return ask(
            self.gateway, key or self.admin, method="GET", path=f"{BILLING}/{path}", headers=headers
        )

    def history(self, **query: Any) -> dict[str, Any]:
        answer = self.billing("usage-history?" + urllib.parse.urlencode(query))
        assert answer.status == 200, answer
        assert_answer_is_published("GET", "/billing/usage-history", answer.json)
        page: dict[str, Any] = json.loads(answer.body, parse_float=Decimal)
        return page

    def spend(self, requests: int = 1, model: str = "priced", **body: Any) -> list[Answer]:
        answers = [chat(self.gateway, self.key, model, **body) for _ in range(requests)]
        assert {answer.status for answer in answers} == {200}
        assert self.gateway.differences() == []
        return answers


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    clock = ManualClock()
    toml = (
        'rate_limits = "off"\n'
        + PRICED_MODEL
        + model_toml("other", pricing='{ input = "0.333333333", output = "0" }')
        + image_toml("painter")
    )
    with running_gateway(tmp_path, toml, clock=clock) as gateway:
        gateway.perform("accounts.create", name="owner", usd="10")
        admin = gateway.perform("keys.create", account="owner", admin=True, description="the admin")
        key = gateway.perform("keys.create", account="owner", description="the worker")
        yield Scene(gateway, clock, admin["secret"], key["secret"])
        assert gateway.differences() == []


@pytest.mark.parametrize(
    ("account", "body"),
    [
        (
            {},
            (
                '{"canConsume":false,"consumptionCurrency":null,"balances":{"diem":null,"usd":0},'
                '"diemEpochAllocation":0}'
            ),
        ),
        (
            {"usd": "0.099999999"},
            (
                '{"canConsume":false,"consumptionCurrency":null,"balances":{"diem":null,'
                '"usd":0.099999999},"diemEpochAllocation":0}'
            ),
        ),
        (
            {"usd": "12.5"},
            (
                '{"canConsume":true,"consumptionCurrency":"USD","balances":{"diem":null,"usd":12.5},'
                '"diemEpochAllocation":0}'
            ),
        ),
        (
            {"usd": "1", "diem": "2.25"},
            (
                '{"canConsume":true,"consumptionCurrency":"DIEM","balances":{"diem":2.25,"usd":1},'
                '"diemEpochAllocation":2.25}'
            ),
        ),
        (
            {"usd": "1", "bundled": "3"},
            (
                '{"canConsume":true,"consumptionCurrency":"BUNDLED_CREDITS","balances":{"diem":null,'
                '"usd":1,"bundledCredits":3},"diemEpochAllocation":0}'
            ),
        ),
    ],
)
def test_balance(scene: Scene, account: dict[str, str], body: str) -> None:
    """What the account owns, to the byte, and what its next request would be paid with."""
    admin = scene.gateway.new_key(account=account, admin=True)
    answer = scene.billing("balance", admin)
    assert (answer.status, answer.body.decode()) == (200, body)
    assert_answer_is_published("GET", "/billing/balance", answer.json)


def test_a_key_limit_does_not_change_the_accounts_balance(scene: Scene) -> None:
    """The balance is the account's; the headers are the key's."""
    admin = scene.gateway.perform("keys.create", account="owner", admin=True, limit_usd="1")[
        "secret"
    ]
    answer = scene.billing("balance", admin)
    assert answer.json["balances"]["usd"] == 10
    assert answer.headers["x-venice-balance-usd"] == "1"


def test_a_request_has_a_row_for_each_line(scene: Scene) -> None:
    """Input and output apart, with exact prices, units and amounts, and what was used."""
    (answer,) = scene.spend()
    rows = scene.history()["data"]
    details = {
        "requestId": answer.request_id,
        "promptTokens": 12,
        "completionTokens": 16,
        "inferenceExecutionTime": 0,
    }
    common = {
        "timestamp": "2026-01-01T00:00:00.000Z",
        "currency": "USD",
        "notes": "API Inference",
        "inferenceDetails": details,
    }
    assert rows == [
        {"sku": "priced-llm-input-mtoken", "pricePerUnitUsd": 1, "units": Decimal("0.000012"), "amount": Decimal("-0.000012"), **common},
        {"sku": "priced-llm-output-mtoken", "pricePerUnitUsd": 2, "units": Decimal("0.000016"), "amount": Decimal("-0.000032"), **common},
    ]  # fmt: skip


def test_a_free_line_has_no_row(scene: Scene) -> None:
    """A line that cost nothing is no entry of the books."""
    scene.spend(model="other")
    (row,) = scene.history()["data"]
    assert row["pricePerUnitUsd"] == Decimal("0.333333333")
    assert row["amount"] == Decimal("-0.000004")


def test_a_refund_is_a_row_of_its_own(scene: Scene) -> None:
    """It comes when it was made, with a positive amount, in the currency that had paid."""
    (answer,) = scene.spend()
    scene.clock.advance(60)
    scene.gateway.perform("ledger.refund", request=answer.request_id, reason="test")
    scene.gateway.differences()
    *_, first, second = scene.history()["data"]
    assert (first["timestamp"], first["notes"]) == ("2026-01-01T00:01:00.000Z", "Refund")
    assert first["amount"] + second["amount"] == COST
    assert first["inferenceDetails"]["requestId"] == answer.request_id


def test_pages_are_complete_and_stable(scene: Scene) -> None:
    """Every row is on exactly one page, in order, though requests go on meanwhile."""
    scene.spend(13)
    whole = scene.history()
    assert whole["nextCursor"] is None
    assert len(whole["data"]) == 26
    pages, cursor = [scene.history(pageSize=10)], None
    while (cursor := pages[-1]["nextCursor"]) is not None:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,512}", cursor)
        scene.spend(1)
        pages.append(scene.history(cursor=cursor))
    rows = [row for page in pages for row in page["data"]]
    assert rows[:26] == whole["data"]
    assert all(len(page["data"]) == 10 for page in pages[:-1])
    assert rows == scene.history()["data"]
    assert scene.history(pageSize=10) == pages[0]


def test_a_page_that_ends_the_history_has_no_cursor(scene: Scene) -> None:
    """A full last page is known to be the last."""
    scene.spend(5)
    page = scene.history(pageSize=10)
    assert (len(page["data"]), page["nextCursor"]) == (10, None)


def test_filters_go_with_the_cursor(scene: Scene) -> None:
    """Start is included, end is not, and a cursor carries both and the currency."""
    scene.spend(2)
    scene.clock.advance(10)
    scene.spend(6)
    scene.clock.advance(10)
    scene.gateway.perform("accounts.set", account="owner", diem="1")
    scene.spend(6)
    start, end = "2026-01-01T00:00:10Z", "2026-01-01T00:00:20.000Z"
    page = scene.history(startTimestamp=start, endTimestamp=end, pageSize=10)
    rest = scene.history(cursor=page["nextCursor"])
    times = {row["timestamp"] for row in page["data"] + rest["data"]}
    assert times == {"2026-01-01T00:00:10.000Z"}
    assert (len(page["data"]), len(rest["data"])) == (10, 2)
    usd, diem = scene.history(currency="USD"), scene.history(currency="DIEM")
    assert (len(usd["data"]), len(diem["data"])) == (16, 12)
    assert {row["currency"] for row in diem["data"]} == {"DIEM"}
    assert scene.history(currency="BUNDLED_CREDITS") == {"data": [], "nextCursor": None}
    offset = scene.history(startTimestamp="2026-01-01T02:00:20+02:00")
    assert len(offset["data"]) == 12
    ever = scene.history(startTimestamp="0001-01-01T00:00:00Z", endTimestamp="9999-12-31T23:59:59Z")
    assert len(ever["data"]) == 28
    for start, end in (("0001-01-01", "0002-01-01"), ("5000-01-01", "5000-01-02")):
        none = scene.history(startTimestamp=f"{start}T00:00:00Z", endTimestamp=f"{end}T00:00:00Z")
        assert none == {"data": [], "nextCursor": None}


BAD_QUERIES = (
    "pageSize=9",
    "pageSize=1001",
    "pageSize=-10",
    "pageSize=1e2",
    "pageSize=ten",
    "pageSize=10&pageSize=20",
    "currency=EUR",
    "currency=usd",
    "startTimestamp=yesterday",
    "startTimestamp=2026-02-30T00:00:00Z",
    "startTimestamp=2026-01-01T00:00:00Z" + "0" * 30,
    "startTimestamp=2026-01-02T00:00:00Z&endTimestamp=2026-01-01T00:00:00Z",
    "startTimestamp=2026-01-01T00:00:00Z&endTimestamp=2026-01-01T00:00:00Z",
    "cursor=abc&pageSize=10",
    "cursor=a.b",
    "cursor=" + "a" * 513,
    "page=2",
    "limit=5",
    "&".join(f"a{number}=1" for number in range(200)),
)


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda query: query[:40])
def test_a_bad_query_is_refused(scene: Scene, query: str) -> None:
    """What is unknown, out of range, contradictory or not a time is a 400 that says so."""
    refused = scene.billing("usage-history?" + query)
    assert refused.status == 400, refused
    assert refused.json["error"] == "Invalid request parameters"
    assert refused.json["issues"]


def test_a_cursor_is_bound_to_its_account(scene: Scene) -> None:
    """A cursor that was altered, made up, or given to another account leads nowhere."""
    scene.spend(6)
    cursor = scene.history(pageSize=10)["nextCursor"]
    stranger = scene.gateway.new_key(admin=True)
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[3] ^= 1
    altered = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    for key, sent in (
        (scene.admin, altered),
        (stranger, cursor),
        (scene.admin, "a"),
        (scene.admin, "abcd"),
    ):
        refused = scene.billing(f"usage-history?cursor={sent}", key)
        assert refused.status == 400
        assert refused.json == {"error": "Invalid or expired cursor; restart from the first page"}


def test_a_history_as_csv(scene: Scene) -> None:
    """The same rows in the published columns, as a file, with the cursor in a header."""
    scene.spend(6)
    answer = scene.billing("usage-history?pageSize=10", accept="text/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=billing-usage-history-20260101T000000000Z.csv"
    )
    header, *rows = csv.reader(io.StringIO(answer.body.decode()))
    assert header == COLUMNS
    expected = scene.history(pageSize=10)
    assert answer.headers["x-next-cursor"] == expected["nextCursor"]
    assert [[row[1], Decimal(row[4]), row[7]] for row in rows] == [
        [row["sku"], row["amount"], row["inferenceDetails"]["requestId"]]
        for row in expected["data"]
    ]
    last = scene.billing(
        f"usage-history?cursor={answer.headers['x-next-cursor']}", accept="text/csv"
    )
    assert "x-next-cursor" not in last.headers
    assert len(last.body.splitlines()) == 3


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("text/csv;q=0.9, application/json;q=0.1", "text/csv"),
        ("application/json, text/csv;q=0.5", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("*/*", "application/json"),
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=nonsense", "application/json"),
        ("", "application/json"),
    ],
)
def test_csv_is_sent_to_those_who_prefer_it(scene: Scene, accept: str, kind: str) -> None:
    """The `Accept` header decides, by its weights."""
    answer = scene.billing("usage-history", accept=accept)
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


def test_an_error_is_json_also_for_those_who_want_csv(scene: Scene) -> None:
    """Errors have one form."""
    refused = scene.billing("usage-history?pageSize=1", accept="text/csv")
    assert refused.headers["content-type"] == "application/json; charset=utf-8"


def test_units_are_those_of_the_model(scene: Scene) -> None:
    """Texts are counted in tokens, images in images."""
    scene.spend(1)
    body = {"model": "painter", "prompt": "a ferry", "width": 64, "height": 64, "variants": 2}
    made = ask(scene.gateway, scene.key, body, path="/api/v1/image/generate")
    assert made.status == 200
    answer = scene.billing("usage-analytics?lookback=1d")
    assert_answer_is_published("GET", "/billing/usage-analytics", answer.json)
    units = {
        row["modelName"]: (row["unitType"], row["totalUnits"]) for row in answer.json["byModel"]
    }
    assert units == {"priced": ("tokens", 28), "painter": ("images", 2)}


def test_analytics_add_up(scene: Scene) -> None:
    """By day, model and key the same total, which is what the account paid."""
    scene.spend(2)
    scene.clock.advance(DAY_SECONDS)
    scene.gateway.perform("accounts.set", account="owner", diem="1")
    scene.spend(3)
    scene.spend(1, model="other")
    answer = scene.billing("usage-analytics?lookback=3d")
    assert_answer_is_published("GET", "/billing/usage-analytics", answer.json)
    shown = json.loads(answer.body, parse_float=Decimal)
    assert shown["lookback"] == "3d"
    assert shown["byDate"] == [
        {"date": "2025-12-31", "USD": 0, "DIEM": 0},
        {"date": "2026-01-01", "USD": 2 * COST, "DIEM": 0},
        {"date": "2026-01-02", "USD": 0, "DIEM": 3 * COST + Decimal("0.000004")},
    ]
    priced, other = shown["byModel"]
    assert (priced["modelName"], priced["modelType"], priced["unitType"]) == (
        "priced",
        "text",
        "tokens",
    )
    assert (priced["totalUsd"], priced["totalDiem"], priced["totalUnits"]) == (
        2 * COST,
        3 * COST,
        5 * 28,
    )
    assert [line["type"] for line in priced["breakdown"]] == ["input", "output"]
    assert other["totalDiem"] == Decimal("0.000004")
    assert shown["topModels"] == ["priced", "other"]
    assert shown["byModelDaily"] == [
        {"priced": 0, "other": 0},
        {"priced": 2 * COST, "other": 0},
        {"priced": 3 * COST, "other": Decimal("0.000004")},
    ]
    (worker,) = shown["byKey"]
    assert worker["description"] == "the worker"
    assert shown["topKeyNames"] == ["the worker"]
    assert shown["byKeyDaily"][1] == {"the worker": 2 * COST}


def test_refunds_reduce_analytics(scene: Scene) -> None:
    """What was given back was not spent."""
    (answer,) = scene.spend()
    scene.gateway.perform("ledger.refund", request=answer.request_id, reason="test")
    scene.gateway.differences()
    shown = scene.billing("usage-analytics").json
    assert shown["byModel"][0]["totalUsd"] == 0


def test_keys_of_one_name_are_told_apart(scene: Scene) -> None:
    """Two keys without a description are two members of a day."""
    for _ in range(2):
        scene.key = scene.gateway.perform("keys.create", account="owner")["secret"]
        scene.spend()
    names = scene.billing("usage-analytics").json["topKeyNames"]
    assert len(set(names)) == 2
    assert names[0].startswith("...")


def test_analytics_are_kept_for_ten_minutes(scene: Scene) -> None:
    """Asking again does not read the books again."""
    scene.spend()
    first = scene.billing("usage-analytics").body
    scene.spend()
    assert scene.billing("usage-analytics").body == first
    scene.clock.advance(601)
    assert scene.billing("usage-analytics").body != first


@pytest.mark.parametrize(
    ("query", "days", "last"),
    [
        ("", 7, "2026-01-01"),
        ("lookback=1d", 1, "2026-01-01"),
        ("lookback=365d", 90, "2026-01-01"),
        ("lookback=" + "9" * 40 + "d", 90, "2026-01-01"),
        ("startDate=2024-02-28&endDate=2024-03-01", 3, "2024-03-01"),
        ("startDate=2026-01-01&endDate=2026-03-31", 90, "2026-03-31"),
        ("startDate=0001-01-01&endDate=0001-01-02", 2, "0001-01-02"),
        ("lookback=2d&startDate=2025-01-01&endDate=2025-01-01", 1, "2025-01-01"),
    ],
)
def test_ranges_of_analytics(scene: Scene, query: str, days: int, last: str) -> None:
    """So many UTC days, the last of which is today or the one that was named."""
    answer = scene.billing("usage-analytics?" + query)
    assert answer.status == 200, answer
    dates = answer.json["byDate"]
    assert (len(dates), dates[-1]["date"]) == (days, last)


@pytest.mark.parametrize(
    "query",
    [
        "lookback=7",
        "lookback=0d",
        "lookback=-7d",
        "lookback=1w",
        "startDate=2026-01-01",
        "endDate=2026-01-01",
        "startDate=2026-01-02&endDate=2026-01-01",
        "startDate=2026-01-01&endDate=2026-04-01",
        "startDate=2026-02-30&endDate=2026-03-01",
        "startDate=yesterday&endDate=today",
        "startDate=9999-12-31&endDate=9999-12-31",
    ],
)
def test_bad_ranges_are_refused(scene: Scene, query: str) -> None:
    """What is no range of at most 90 days is a 400."""
    refused = scene.billing("usage-analytics?" + query)
    assert refused.status == 400, refused
    assert refused.json["issues"]


def test_analytics_that_take_too_long_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline, an answer of its own, and one record at the level of its row."""
    monkeypatch.setattr(reports, "STEPS_BETWEEN_LOOKS", 1)
    with running_gateway(tmp_path, PRICED_MODEL, report_seconds_max=1e-9) as gateway:
        admin = gateway.new_key(admin=True)
        refused = get(gateway, f"{BILLING}/usage-analytics", admin)
        records = gateway.records()
    assert refused.status == 504
    assert refused.json == {"error": "Query timed out - try reducing the lookback period"}
    assert refused.headers["x-error-code"] == "ANALYTICS_TIMEOUT"
    (record,) = [row for row in records if row.get("request_id") == refused.request_id]
    assert (record["level"], record["code"]) == ("error", "ANALYTICS_TIMEOUT")


@pytest.mark.parametrize("key", ["none", "wrong", "inference", "admin"])
def test_the_old_usage_route_is_gone_for_everybody(scene: Scene, key: str) -> None:
    """410 with the headers that say since when and what takes its place, at most 60 a minute."""
    keys = {"none": None, "wrong": "x", "inference": scene.key, "admin": scene.admin}
    gone = get(scene.gateway, f"{BILLING}/usage?limit=5", keys[key])
    assert gone.status == 410
    assert gone.headers["x-error-code"] == "ENDPOINT_RETIRED"
    assert gone.headers["deprecation"] == "@1783555200"
    assert gone.headers["sunset"] == "Wed, 16 Sep 2026 00:00:00 GMT"
    assert gone.headers["link"] == '</api/v1/billing/usage-history>; rel="successor-version"'
    for _ in range(59):
        assert get(scene.gateway, f"{BILLING}/usage").status == 410
    limited = get(scene.gateway, f"{BILLING}/usage")
    assert limited.status == 429
    assert limited.headers["retry-after"] == "60"


@pytest.mark.parametrize("path", ["balance", "usage-history", "usage-analytics"])
def test_billing_needs_an_admin_key(scene: Scene, path: str) -> None:
    """An inference key sees no bills."""
    refused = scene.billing(path, scene.key)
    assert (refused.status, refused.body) == (401, b'{"error":"Admin API key required"}')
    assert get(scene.gateway, f"{BILLING}/{path}").status == 401


def test_one_account_never_sees_another(scene: Scene) -> None:
    """Histories and sums are those of the caller's account."""
    scene.spend(3)
    stranger = scene.gateway.new_key(admin=True)
    assert scene.billing("usage-history", stranger).json["data"] == []
    assert scene.billing("usage-analytics", stranger).json["byModel"] == []


def test_reports_do_not_hold_up_requests(scene: Scene) -> None:
    """While reports wait for their turn, chat goes on."""
    scene.spend(5)
    threads = [threading.Thread(target=scene.billing, args=("usage-history",)) for _ in range(16)]
    for thread in threads:
        thread.start()
    scene.spend(5)
    for thread in threads:
        thread.join()


def test_every_line_of_a_charge_has_a_name_on_the_bill() -> None:
    """The table of lines is total over what is charged."""
    price = UnitPrice(1_000_000_000)
    usage = BackendUsage(prompt_tokens=9, completion_tokens=9, cached_tokens=3, reasoning_tokens=0)
    lines = charge_lines(TextPricing(price, price, price, price), usage)
    assert {line.kind for line in lines} | set(get_args(UnitKind)) == LINE_KINDS.keys()


def test_every_authenticated_answer_names_the_balances(scene: Scene) -> None:
    """Whatever is asked with a good key, and however it ends, except where nobody is looked up."""
    scene.gateway.perform("accounts.credit", account="owner", bundled="2.5")
    scene.gateway.perform("accounts.set", account="owner", diem="1")
    answers = [
        *(scene.billing(path) for path in ("balance", "usage-history", "usage-analytics")),
        *(
            get(scene.gateway, f"/api/v1/{path}", scene.admin)
            for path in (
                "models",
                "models/traits",
                "api_keys",
                "api_keys/x",
                "api_keys/rate_limits",
                "api_keys/rate_limits/log",
            )
        ),
        chat(scene.gateway, scene.admin, "nobody"),
        chat(scene.gateway, scene.key),
    ]
    for answer in answers:
        assert answer.headers["x-venice-balance-usd"] == "12.5"
        assert answer.headers["x-venice-balance-diem"] == "1"
