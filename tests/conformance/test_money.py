"""Who may spend what, and what a request costs: 402 and exact charges (contract A.2, A.4, C.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.client import (
    PUBLISHED,
    QUESTION_TOKENS,
    Answer,
    ask,
    chat,
    chat_body,
    pending_chat,
)
from support.configuration import PRICED_MODEL, model_toml, relayed_toml
from support.gateway import RunningGateway, running_gateway
from support.upstream import (
    DONE,
    FaultUpstream,
    answer_json,
    completion,
    delta,
    stream,
    usage_chunk,
)
from support.waiting import wait_until
from traghetto.clock import ManualClock
from traghetto.money import Currency
from traghetto.storage.facts import EntryKind
from traghetto.storage.sqlite import open_read_only

COST = Decimal("0.000044")
"""Of a sound request: 12 tokens at 1 USD and 16 at 2 USD per million."""
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Funds:
    """One row of the matrix: what account and key have, and what becomes of a request."""

    name: str
    account: dict[str, str]
    key: dict[str, str] = field(default_factory=dict)
    refusal: str | None = None
    """The code, or None if it is served."""
    paid_in: str = "usd"
    balances: tuple[str | None, str | None] = (None, None)
    """What the headers name before the request: USD and DIEM; None for no header."""


POOR = "INSUFFICIENT_BALANCE"
USD_LIMIT = "API_KEY_USD_SPEND_LIMIT_EXCEEDED"
DIEM_LIMIT = "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED"

MATRIX = (
    Funds("nothing", {}, refusal=POOR, balances=(None, None)),
    Funds("just below the floor", {"usd": "0.099999999"}, refusal=POOR, balances=("0.099999999", None)),
    Funds("the floor", {"usd": "0.1"}, balances=("0.1", None)),
    Funds("DIEM at the floor", {"diem": "0.1"}, paid_in="diem", balances=(None, "0.1")),
    Funds("DIEM before USD", {"usd": "5", "diem": "1"}, paid_in="diem", balances=("5", "1")),
    Funds("no limit is null", {"usd": "1"}, {}, balances=("1", None)),
    Funds("a zero USD limit", {"usd": "5"}, {"limit_usd": "0"}, USD_LIMIT, balances=(None, None)),
    Funds("a USD limit below the floor", {"usd": "5"}, {"limit_usd": "0.05"}, USD_LIMIT, balances=("0.05", None)),
    Funds("a USD limit above it", {"usd": "5"}, {"limit_usd": "0.2"}, balances=("0.2", None)),
    Funds("a limit above the balance", {"usd": "0.05"}, {"limit_usd": "1"}, POOR, balances=("0.05", None)),
    Funds("a limit and too little anyway", {"usd": "0.05"}, {"limit_usd": "0"}, POOR, balances=(None, None)),
    Funds("a zero DIEM limit, no USD", {"diem": "1"}, {"limit_diem": "0"}, DIEM_LIMIT, balances=(None, None)),
    Funds("a zero DIEM limit, but USD", {"usd": "5", "diem": "1"}, {"limit_diem": "0"}, balances=("5", None)),
    Funds("a zero USD limit, but DIEM", {"usd": "5", "diem": "1"}, {"limit_usd": "0"}, paid_in="diem", balances=(None, "1")),
    Funds("both limits at zero", {"usd": "5", "diem": "1"}, {"limit_usd": "0", "limit_diem": "0"}, DIEM_LIMIT, balances=(None, None)),
    Funds("the floor only together", {"usd": "0.06", "diem": "0.1"}, {"limit_diem": "0.05"}, paid_in="diem", balances=("0.06", "0.05")),
)  # fmt: skip


@pytest.fixture
def gateway(tmp_path: Path, clock: ManualClock) -> Iterator[RunningGateway]:
    toml = (
        PRICED_MODEL
        + model_toml("gratis", pricing='{ input = "0", output = "0" }')
        + model_toml("dear", pricing='{ input = "1", output = "100" }', fault='"hang"')
    )
    with running_gateway(tmp_path, toml, clock=clock, rate_limits="off") as running:
        yield running
        assert running.gateway.book.open_holds == 0
        assert running.differences() == []


def new_key(gateway: RunningGateway, account: dict[str, str], **key: Any) -> str:
    gateway.perform("accounts.create", name="payer", **account)
    secret: str = gateway.perform("keys.create", account="payer", **key)["secret"]
    return secret


def owned(gateway: RunningGateway) -> tuple[Decimal, Decimal | None]:
    """What the account has, in USD and DIEM."""
    shown = gateway.perform("accounts.show", account="payer")
    return Decimal(shown["usd"]), None if shown["diem"] is None else Decimal(shown["diem"])


def balances(answer: Answer) -> tuple[str | None, str | None]:
    return (
        answer.headers.get("x-venice-balance-usd"),
        answer.headers.get("x-venice-balance-diem"),
    )


@pytest.mark.parametrize("stream_wanted", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("row", MATRIX, ids=lambda row: row.name)
def test_who_may_spend(gateway: RunningGateway, row: Funds, stream_wanted: bool) -> None:
    """DIEM, USD, the floor and the key's limits decide; a refusal costs nothing."""
    key = new_key(gateway, row.account, **row.key)
    usd, diem = owned(gateway)
    answer = chat(gateway, key, stream=stream_wanted)
    assert balances(answer) == row.balances
    if row.refusal is not None:
        assert answer.status == 402
        assert answer.reason == "Payment Required"
        assert answer.headers["x-error-code"] == row.refusal
        assert answer.json == {"error": PUBLISHED[row.refusal].message}
        assert answer.headers["x-should-retry"] == "false"
        assert "payment-required" not in answer.headers
        assert owned(gateway) == (usd, diem)
        return
    assert answer.status == 200
    cost = (answer.chunks[-1] if stream_wanted else answer.json)["cost"]
    if row.paid_in == "diem":
        assert cost == {"usd": 0, "diem": float(COST)}
        assert diem is not None
        assert owned(gateway) == (usd, diem - COST)
    else:
        assert cost == {"usd": float(COST), "diem": 0}
        assert owned(gateway) == (usd - COST, diem)


def test_used_up_diem_gives_way_to_usd_until_the_next_day(
    gateway: RunningGateway, clock: ManualClock
) -> None:
    """DIEM is spent first; once it is gone USD pays; at 00:00 UTC the allocation is back."""
    key = new_key(gateway, {"usd": "1", "diem": "0.1"})
    spent = json.loads('{"usd": 0, "diem": 0.000044}')
    assert chat(gateway, key).json["cost"] == spent
    book = gateway.gateway.book
    account_id = gateway.perform("accounts.show", account="payer")["id"]
    gateway.call(
        lambda: book.adjust(
            account_id, Currency.DIEM, -(10**8 - 44_000), reason="used up elsewhere"
        )
    )
    answer = chat(gateway, key)
    assert balances(answer) == ("1", None)
    assert answer.json["cost"] == {"usd": 0.000044, "diem": 0}
    clock.advance(DAY_SECONDS)
    answer = chat(gateway, key)
    assert balances(answer) == ("0.999956", "0.1")
    assert answer.json["cost"] == spent


@pytest.mark.parametrize(("period", "days"), [("EPOCH", 1), ("MONTH", 31), ("LIFETIME", None)])
def test_a_key_limit_starts_anew_with_its_period(
    gateway: RunningGateway, clock: ManualClock, period: str, days: int | None
) -> None:
    """A limit counts what the key spent in its window: a UTC day, a month, or for ever."""
    key = new_key(gateway, {"usd": "5"}, limit_usd="0.1", period=period)
    first = chat(gateway, key)
    assert (first.status, balances(first)) == (200, ("0.1", None))
    refused = chat(gateway, key)
    assert (refused.status, refused.headers["x-error-code"]) == (402, USD_LIMIT)
    assert balances(refused) == ("0.099956", None)
    clock.advance((days or 400) * DAY_SECONDS - 1)
    assert chat(gateway, key).status == 402
    clock.advance(1)
    assert chat(gateway, key).status == (402 if days is None else 200)


def test_a_limit_is_of_one_key(gateway: RunningGateway) -> None:
    """Another key of the account spends on."""
    key = new_key(gateway, {"usd": "5"}, limit_usd="0")
    other = gateway.perform("keys.create", account="payer")["secret"]
    assert chat(gateway, key).status == 402
    assert chat(gateway, other).status == 200


def test_a_credit_helps_at_once(gateway: RunningGateway) -> None:
    """The next request after a top-up is served."""
    key = new_key(gateway, {})
    assert chat(gateway, key).status == 402
    gateway.perform("accounts.credit", account="payer", usd="0.1")
    assert chat(gateway, key).status == 200


@pytest.mark.parametrize("stream_wanted", [False, True], ids=["whole", "stream"])
def test_a_free_model_needs_no_money(gateway: RunningGateway, stream_wanted: bool) -> None:
    """A price of 0 takes no hold and looks at no balance or limit; it is metered all the same."""
    key = new_key(gateway, {}, limit_usd="0", limit_diem="0")
    answer = chat(gateway, key, "gratis", stream=stream_wanted)
    assert answer.status == 200
    last = answer.chunks[-1] if stream_wanted else answer.json
    assert last["cost"] == {"usd": 0, "diem": 0}
    assert last["usage"]["total_tokens"] == QUESTION_TOKENS + 16
    assert gateway.differences() == []
    with open_read_only(gateway.data_dir) as snapshot:
        (usage,) = snapshot.usages()
        assert (usage.charged, usage.request_id) == (0, answer.request_id)
        assert [entry for entry in snapshot.entries() if entry.kind is EntryKind.CHARGE] == []


def test_an_entry_keeps_the_prices_it_was_made_by(gateway: RunningGateway) -> None:
    """The journal explains its amounts by itself, also after the price was changed."""
    answer = chat(gateway, new_key(gateway, {"usd": "1"}))
    with open_read_only(gateway.data_dir) as snapshot:
        made = [entry for entry in snapshot.entries() if entry.request_id == answer.request_id]
    prices = "prompt=1000000000/1000000 cached_prompt=1000000000/1000000"
    assert {entry.price_version for entry in made} == {f"{prices} completion=2000000000/1000000"}


def test_the_request_that_takes_the_last_funds_has_them_alone(gateway: RunningGateway) -> None:
    """A request that could cost more than is left is served; meanwhile nobody else is."""
    key = new_key(gateway, {"usd": "0.1"})
    book = gateway.gateway.book
    with pending_chat(gateway, key, "dear", max_tokens=4000):
        wait_until(lambda: book.open_holds == 1)
        refused = chat(gateway, key)
        assert (refused.status, refused.headers["x-error-code"]) == (402, POOR)
        assert balances(refused) == (None, None)
    wait_until(lambda: book.open_holds == 0)
    assert chat(gateway, key).status == 200


# --- what a request costs -----------------------------------------------------------------------

CACHE_PRICES = '{ input = "1", output = "2", cache_input = "0.25" }'


@dataclass(frozen=True)
class Charge:
    """Usage as a backend reports it, and what the request then costs in nano-USD."""

    name: str
    usage: dict[str, Any] | None
    nano_usd: int
    pricing: str = '{ input = "1", output = "2" }'
    content: str = "Hello."


def tokens(prompt: int, output: int, cached: int | None = None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


CHARGES = (
    Charge("prompt and output", tokens(40, 7), 40_000 + 14_000),
    Charge("cached tokens", tokens(40, 7, 32), 8_000 + 8_000 + 14_000, CACHE_PRICES),
    Charge("cached tokens without a price", tokens(40, 7, 32), 40_000 + 14_000),
    Charge("everything cached", tokens(40, 7, 40), 10_000 + 14_000, CACHE_PRICES),
    Charge("more cached than sent", tokens(40, 7, 99), 10_000 + 14_000, CACHE_PRICES),
    Charge("no output", tokens(40, 0), 0, content=""),
    Charge("output that is not reported", tokens(40, 0), -1),
    Charge("a prompt that is not reported", tokens(0, 7), -1),
    Charge("half even, down", tokens(1, 1), 2, '{ input = "0.0005", output = "0.0015" }'),
    Charge("half even, up", tokens(3, 1), 4, '{ input = "0.0005", output = "0.0015" }'),
    Charge("more output than was allowed", tokens(40, 99), 40_000 + 32_000),
    Charge("unbelievable prompt", tokens(10**9, 7), -1),
    Charge("no usage", None, -1),
)
"""A cost of -1 stands for what the gateway counts itself."""


@pytest.mark.parametrize("stream_wanted", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("row", CHARGES, ids=lambda row: row.name)
def test_what_a_request_costs(
    tmp_path: Path, upstream: FaultUpstream, row: Charge, stream_wanted: bool
) -> None:
    """Each line is priced from the reported tokens and rounded once, half to even."""
    if stream_wanted:
        last = [] if row.usage is None else [usage_chunk(row.usage)]
        events = [
            delta("", role="assistant"),
            delta(row.content),
            delta(finish="stop"),
            *last,
            DONE,
        ]
        upstream.then(stream(events))
    else:
        upstream.then(answer_json(completion(row.content, usage=row.usage)))
    with running_gateway(tmp_path, relayed_toml(upstream, pricing=row.pricing)) as gateway:
        key = new_key(gateway, {"usd": "1"})
        answer = chat(gateway, key, "relayed", stream=stream_wanted)
        assert answer.status == 200
        told = answer.chunks[-1] if stream_wanted else answer.json
        charged = round((1 - owned(gateway)[0]) * 10**9)
        assert round(Decimal(str(told["cost"]["usd"])) * 10**9) == charged
        if row.nano_usd >= 0:
            assert charged == row.nano_usd
        else:
            counted = told["usage"]
            assert 0 < counted["prompt_tokens"] < 4096
            assert counted["completion_tokens"] in {1, 2}
            expected = counted["prompt_tokens"] * 1000 + counted["completion_tokens"] * 2000
            assert charged == expected
        assert gateway.gateway.book.open_holds == 0
        assert gateway.differences() == []


def test_reported_usage_is_what_clients_are_told(tmp_path: Path, upstream: FaultUpstream) -> None:
    """Cached and reasoning tokens of the backend stand in the answer's usage."""
    usage = {**tokens(40, 7, 32), "completion_tokens_details": {"reasoning_tokens": 5}}
    upstream.then(answer_json(completion(usage=usage)))
    with running_gateway(tmp_path, relayed_toml(upstream)) as gateway:
        answer = chat(gateway, gateway.new_key(), "relayed")
        assert answer.json["usage"] == {
            "prompt_tokens": 40,
            "completion_tokens": 7,
            "total_tokens": 47,
            "prompt_tokens_details": {"cached_tokens": 32, "cache_creation_input_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 5},
        }


def test_all_choices_are_paid(gateway: RunningGateway) -> None:
    """`n` choices cost the prompt once and the output of all of them."""
    key = new_key(gateway, {"usd": "1"})
    answer = ask(gateway, key, chat_body(n=3))
    assert answer.json["usage"]["completion_tokens"] == 48
    assert owned(gateway)[0] == 1 - Decimal("0.000108")


def test_without_overdraft_a_whole_answer_is_no_longer_than_its_hold_pays_for(
    tmp_path: Path,
) -> None:
    """Ten tokens' worth of funds buy ten tokens; less than one token's worth buys a refusal."""
    toml = model_toml("dear", pricing='{ input = "0", output = "10000" }') + model_toml(
        "dearer", pricing='{ input = "0", output = "200000" }'
    )
    with running_gateway(tmp_path, toml, overdraft="never") as gateway:
        key = new_key(gateway, {"usd": "0.1"})
        refused = chat(gateway, key, "dearer", max_tokens=None)
        assert (refused.status, refused.headers["x-error-code"]) == (402, "INSUFFICIENT_BALANCE")
        answer = chat(gateway, key, "dear", max_tokens=None)
        assert answer.status == 200
        assert answer.json["choices"][0]["finish_reason"] == "length"
        assert answer.json["usage"]["completion_tokens"] == 10
        assert owned(gateway)[0] == 0
        assert gateway.gateway.book.open_holds == 0
        assert gateway.differences() == []


def test_people_are_sent_where_the_operator_wants(tmp_path: Path) -> None:
    """The URL in INSUFFICIENT_BALANCE is a setting; the rest of the text stays as published."""
    with running_gateway(tmp_path, PRICED_MODEL, credits_url="https://pay.example/") as gateway:
        refused = chat(gateway, gateway.new_key(account={}))
        other = chat(gateway, gateway.new_key(account={}, openai_errors=True))
    assert refused.json == {
        "error": "Insufficient USD or Diem balance to complete request. Visit https://pay.example/ "
        "to add credits."
    }
    assert "Visit https://pay.example/ to" in other.json["error"]["message"]
