"""`overdraft = "never"`: no charge exceeds its hold, and a hold is used up before an answer ends."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from support.client import SECONDS_MAX, assert_published, chat, chat_body, raw_chat
from support.configuration import model_toml
from support.gateway import RunningGateway, running_gateway
from support.waiting import wait_until

PROMPT = Decimal("0.012")
"""The price of a sound request's 12 tokens at 1000 USD per million."""
TOKEN = Decimal("0.005")
"""And of one token of output at 5000."""
PRICES = '{ input = "1000", output = "5000" }'
TOML = (
    model_toml("dear", pricing=PRICES)
    + model_toml("stalled", pricing=PRICES, fault='"stall-after"')
    + model_toml("long", pricing='{ input = "20000", output = "5000" }')
    + model_toml("gratis", pricing='{ input = "0", output = "0" }')
)
POOR = "INSUFFICIENT_BALANCE"
USD_LIMIT = "API_KEY_USD_SPEND_LIMIT_EXCEEDED"
DIEM_LIMIT = "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    path = tmp_path_factory.mktemp("never")
    with running_gateway(path, TOML, overdraft="never", rate_limits="off") as running:
        yield running
        assert running.gateway.book.open_holds == 0
        assert running.differences() == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("usd", "max_tokens", "output", "reason"),
    [
        ("0.1", 16, 16, "length"),
        ("0.1", 17, 17, "length"),
        ("0.1", 18, 17, "length"),
        ("0.1", None, 17, "length"),
        ("10", 16, 16, "length"),
        ("10", None, None, "stop"),
    ],
)
def test_an_answer_is_as_long_as_was_asked_and_can_be_paid(
    gateway: RunningGateway,
    usd: str,
    max_tokens: int | None,
    output: int | None,
    reason: str,
    stream: bool,
) -> None:
    """An answer ended before its funds did, or went on after them."""
    key = gateway.new_key(account={"usd": usd})
    answer = chat(gateway, key, "dear", max_tokens=max_tokens, stream=stream)
    assert answer.status == 200
    last = answer.chunks[-1] if stream else answer.json
    choices = [choice for chunk in answer.chunks for choice in chunk["choices"]] if stream else ()
    assert (choices[-1] if stream else last["choices"][0])["finish_reason"] == reason
    told = last["usage"]["completion_tokens"]
    assert told > 20 if output is None else told == output
    assert Decimal(str(last["cost"]["usd"])) == PROMPT + told * TOKEN


@pytest.mark.parametrize(("max_tokens", "output"), [(16, 16), (None, 512)])
def test_a_stream_holds_no_more_than_it_can_cost(
    gateway: RunningGateway, max_tokens: int | None, output: int
) -> None:
    """A stream kept funds from others that it could never use, or more than a slice ahead."""
    key = gateway.new_key(account={"usd": "5"})
    with contextlib.closing(socket.create_connection(gateway.address, SECONDS_MAX)) as client:
        client.sendall(raw_chat(chat_body("stalled", max_tokens=max_tokens, stream=True), key))
        received = b""
        while b'"content":"' not in received.replace(b'"content":""', b""):
            received += client.recv(4096)
        answer = chat(gateway, key, "gratis")
        left = Decimal(answer.headers["x-venice-balance-usd"])
        assert left == 5 - PROMPT - output * TOKEN
    wait_until(lambda: gateway.gateway.book.open_holds == 0)


@dataclass(frozen=True)
class Row:
    """What account and key have, and what becomes of a prompt that costs 0.24."""

    account: dict[str, str]
    limits: dict[str, str] = field(default_factory=dict)
    paid_in: str | None = None
    refusal: str = ""


ROWS = (
    Row({"usd": "0.24"}, refusal=POOR),
    Row({"usd": "0.245"}, paid_in="usd"),
    Row({"usd": "5"}, {"limit_usd": "0.24"}, refusal=USD_LIMIT),
    Row({"usd": "0.2"}, {"limit_usd": "0.15"}, refusal=POOR),
    Row({"diem": "5"}, {"limit_diem": "0.24"}, refusal=DIEM_LIMIT),
    Row({"usd": "5", "diem": "0.24"}, paid_in="usd"),
    Row({"usd": "5", "diem": "0.245"}, paid_in="diem"),
    Row({"usd": "5", "diem": "5"}, {"limit_diem": "0.2"}, paid_in="usd"),
    Row({"usd": "5", "diem": "0.2"}, {"limit_usd": "0.2"}, refusal=USD_LIMIT),
    Row({"usd": "5", "diem": "0.2"}, {"limit_usd": "0.2", "limit_diem": "0.1"}, refusal=USD_LIMIT),
    Row({"usd": "0.2", "diem": "5"}, {"limit_diem": "0.2"}, refusal=DIEM_LIMIT),
    Row({"usd": "0.2", "diem": "0.2"}, refusal=POOR),
    Row({"usd": "5", "diem": "5"}, {"limit_usd": "0.2", "limit_diem": "0.2"}, refusal=DIEM_LIMIT),
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_currency_that_cannot_pay_is_passed_over(
    gateway: RunningGateway, row: Row, stream: bool
) -> None:
    """What was left of one currency kept a request from the next one, or the code was wrong."""
    key = gateway.new_key(account=row.account, **row.limits)
    answer = chat(gateway, key, "long", max_tokens=1, stream=stream)
    if row.paid_in is None:
        assert_published(answer, row.refusal)
        return
    assert answer.status == 200
    cost = (answer.chunks[-1] if stream else answer.json)["cost"]
    assert cost == {"usd": 0, "diem": 0} | {row.paid_in: 0.245}
