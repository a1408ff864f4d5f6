"""Two hundred spenders at once on one key, or on one account: no dollar is spent twice.

The clients keep their own log. What they were told must be what the books charged, never more than
what there was, and nearly all of it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.client import Answer, assert_published, chat_body
from support.configuration import model_toml
from support.gateway import RunningGateway, running_gateway
from support.spenders import NANO, Crowd, Told, crowd
from traghetto.clock import ManualClock
from traghetto.storage.facts import EntryKind
from traghetto.storage.sqlite import open_read_only

SPENDERS = 200
ASKS = 3
FLOOR = NANO // 10
"""What has to be spendable for a request to be admitted."""
PRICES = '{ input = "1003.123456789", output = "4321.098765433" }'
"""A sound request with 16 tokens of output costs 8 cents, and both its lines are rounded."""
TOML = model_toml("paced", pricing=PRICES, first_token_seconds="0.05", token_seconds="0.002")
TOML += model_toml("quick", pricing=PRICES)
LENGTHS = (4, 8, 16, 30, 90)
LAST_OF_APRIL = 1_777_550_400 * NANO
"""2026-04-30T12:00:00Z."""
DAY_SECONDS = 86_400
DAYS = ("month before", "day before", "today")
WINDOWS = {"EPOCH": DAYS[2:], "MONTH": DAYS[1:], "LIFETIME": DAYS}
"""The days whose spending counts today."""

POOR = "INSUFFICIENT_BALANCE"
USD_LIMIT = "API_KEY_USD_SPEND_LIMIT_EXCEEDED"
DIEM_LIMIT = "API_KEY_DIEM_SPEND_LIMIT_EXCEEDED"
LIMIT_CODES = {"DIEM": DIEM_LIMIT, "USD": USD_LIMIT}
"""In the order in which currencies are spent."""
COUNTED_AS = {"DIEM": "DIEM", "BUNDLED_CREDITS": "USD", "USD": "USD"}
"""What clients are told of a currency, and what limits count it as."""


@dataclass(frozen=True)
class Row:
    """What an account and each of its keys have, and the codes that refusals may have."""

    name: str
    account: dict[str, str]
    codes: set[str]
    limits: dict[str, str] = field(default_factory=dict)
    """Of each key, by currency."""
    keys: int = 1
    periods: tuple[str, ...] = ("EPOCH", "MONTH", "LIFETIME")


RICH = {"usd": "1000", "diem": "1000"}
ROWS = (
    Row("a USD limit", {"usd": "1000"}, {USD_LIMIT}, {"USD": "12"}),
    Row("a DIEM limit", {"diem": "1000"}, {DIEM_LIMIT}, {"DIEM": "12"}),
    Row("limits of both", RICH, {DIEM_LIMIT}, {"DIEM": "5", "USD": "7"}),
    Row("all DIEM, then a USD limit", RICH | {"diem": "5"}, {USD_LIMIT}, {"USD": "7"}),
    Row("a DIEM limit, then all USD", RICH | {"usd": "7"}, {DIEM_LIMIT}, {"DIEM": "5"}),
    Row(
        "all bundled credits, then a USD limit",
        {"bundled": "5", "usd": "1000"},
        {USD_LIMIT},
        {"USD": "8"},
        periods=("MONTH",),
    ),
    Row("an account's USD", {"usd": "12"}, {POOR}, keys=40, periods=("EPOCH",)),
    Row("an account's DIEM", {"diem": "12"}, {POOR}, keys=40, periods=("EPOCH",)),
    Row("an account's both", {"usd": "7", "diem": "5"}, {POOR}, keys=40, periods=("EPOCH",)),
    Row(
        "an account's three",
        {"usd": "4", "bundled": "4", "diem": "4"},
        {POOR},
        keys=40,
        periods=("EPOCH",),
    ),
    Row(
        "an account with less than its keys' limits",
        {"usd": "12"},
        {POOR, USD_LIMIT},
        {"USD": "1"},
        keys=40,
        periods=("EPOCH", "MONTH"),
    ),
)  # fmt: skip


@dataclass
class Purse:
    """What an account and its keys have left, by the clients' own log."""

    owned: dict[str, int]
    """What is left of the account's funds; only currencies that it has. Bundled credits are USD."""
    left: dict[tuple[str, str], int]
    """What is left of limits, by key and currency."""

    @classmethod
    def of(cls, row: Row, period: str, keys: list[str], told: dict[str, list[Told]]) -> Purse:
        """`told` is by day."""
        owned = {"USD": nano(row.account.get("usd", "0")) + nano(row.account.get("bundled", "0"))}
        if "diem" in row.account:
            owned["DIEM"] = nano(row.account["diem"])
        left = {(key, name): nano(limit) for key in keys for name, limit in row.limits.items()}
        for day, part in told.items():
            for each in part:
                # DIEM of an earlier day has lapsed, whether or not it was spent.
                if each.currency == "USD" or day == "today":
                    owned[each.currency] -= each.nano_usd
                if day in WINDOWS[period] and (each.key, each.currency) in left:
                    left[each.key, each.currency] -= each.nano_usd
        return cls(owned, left)

    def spendable(self, key: str) -> dict[str, tuple[int, int]]:
        """By currency: what account and limit allow together, and the account alone."""
        return {
            currency: (
                max(0, min(self.owned[currency], self.left.get((key, currency), 10**18))),
                max(0, self.owned[currency]),
            )
            for currency in LIMIT_CODES
            if currency in self.owned
        }

    def code(self, key: str) -> str:
        """The code of contract A.2 for a refusal in this state."""
        spendable = self.spendable(key)
        if sum(alone for _, alone in spendable.values()) >= FLOOR:
            for currency, (together, alone) in spendable.items():
                if together < alone:
                    return LIMIT_CODES[currency]
        return POOR


def nano(amount: str) -> int:
    return int(Decimal(amount) * NANO)


def body_of(rng: random.Random, model: str, max_tokens: int | None) -> dict[str, Any]:
    """For a whole answer or a stream; one without a bound holds all that is left."""
    seed = rng.randrange(1, 10**6)
    return chat_body(model, max_tokens=max_tokens, stream=rng.random() < 0.5, seed=seed)


async def spend(spenders: Crowd, keys: list[str]) -> list[Answer]:
    """All spenders ask at once, and again; then one key after the other, until it is refused.

    The refusals of all keys, when everything is spent.
    """

    async def spender(number: int) -> None:
        rng = random.Random(number)
        for ask in range(ASKS):
            unbounded = ask > 0 and number % 8 == 0
            length = None if unbounded else rng.choice(LENGTHS)
            await spenders.ask(keys[number % len(keys)], body_of(rng, "paced", length))
            await asyncio.sleep(rng.random() * 0.03)

    async with spenders.watching_holds():
        await asyncio.gather(*(spender(number) for number in range(SPENDERS)))
    rng = random.Random("the rest")
    for key in keys:
        # Long answers, so that the last one has usually less than it could use.
        while (await spenders.ask(key, body_of(rng, "quick", LENGTHS[-1]))).status == 200:
            pass
    return [await spenders.ask(key, body_of(rng, "quick", LENGTHS[-1])) for key in keys]


async def spend_on_three_days(
    gateway: RunningGateway, clock: ManualClock, keys: list[str]
) -> tuple[Crowd, dict[str, list[Told]], list[Answer]]:
    """One request in the month before, one on the day before, and then as much as can be.

    What was told on each of the days, and the last refusal of every key.
    """
    told: dict[str, list[Told]] = {}
    async with crowd(gateway) as spenders:
        for day in DAYS[:-1]:
            await spenders.ask(keys[0], chat_body("quick"))
            told[day], spenders.told = spenders.told, []
            await asyncio.to_thread(gateway.call, clock.advance, DAY_SECONDS)
        refusals = await spend(spenders, keys)
        told["today"] = spenders.told
    return spenders, told, refusals


def assert_the_books_agree(gateway: RunningGateway, told: list[Told]) -> list[tuple[str, int]]:
    """Every request was charged what its client was told, and nothing else was charged.

    What is left of every fund, with what its currency counts as.
    """
    assert gateway.gateway.book.open_holds == 0
    assert gateway.differences() == []
    charged: Counter[str] = Counter()
    with open_read_only(gateway.data_dir) as books:
        assert list(books.holds()) == []
        by_request = {u.request_id: (COUNTED_AS[u.currency], u.charged) for u in books.usages()}
        for entry in books.entries():
            if entry.kind is EntryKind.CHARGE:
                charged[COUNTED_AS[entry.currency]] += entry.amount
        funds = [(COUNTED_AS[row.currency], row.amount) for row in books.balances()]
    assert by_request == {each.request_id: (each.currency, each.nano_usd) for each in told}
    for currency in LIMIT_CODES:
        assert charged[currency] == sum(t.nano_usd for t in told if t.currency == currency)
    return funds


def assert_right_refusals(refusals: list[Answer], codes: set[str]) -> None:
    """To the byte, and none but those: nothing else may fail in a crowd."""
    for refusal in refusals:
        code = refusal.headers.get("x-error-code", "")
        assert code in codes, refusal
        assert_published(refusal, code)


def dearest(told: list[Told], currency: str) -> int:
    """The price of one request: what the last one may have used beyond what there was."""
    return max((each.nano_usd for each in told if each.currency == currency), default=0)


CASES = [(row, period) for row in ROWS for period in row.periods]


@pytest.mark.parametrize("overdraft", ["never", "last"])
@pytest.mark.parametrize(("row", "period"), CASES, ids=lambda v: getattr(v, "name", v))
def test_a_crowd_spends_what_there_is_and_no_more(
    tmp_path: Path, row: Row, period: str, overdraft: str
) -> None:
    """Concurrent requests spent the same money twice, left some, or were refused wrongly."""
    clock = ManualClock(LAST_OF_APRIL)
    settings = {"overdraft": overdraft, "rate_limits": "off", "failed_requests_max": 10**6}
    with running_gateway(tmp_path, TOML, clock=clock, **settings) as gateway:
        gateway.perform("accounts.create", name="payer", **row.account)
        limits = {f"limit_{name.lower()}": limit for name, limit in row.limits.items()}
        keys = [
            gateway.perform("keys.create", account="payer", period=period, **limits)["secret"]
            for _ in range(row.keys)
        ]
        spenders, told, refusals = asyncio.run(spend_on_three_days(gateway, clock, keys))
        assert_right_refusals(spenders.refusals, row.codes)

        purse = Purse.of(row, period, keys, told)
        for key, refusal in zip(keys, refusals, strict=True):
            assert refusal.headers["x-error-code"] == purse.code(key)
            assert sum(together for together, _ in purse.spendable(key).values()) < FLOOR
        funds = assert_the_books_agree(gateway, [each for day in told.values() for each in day])
        limited = [(currency, amount) for (_, currency), amount in purse.left.items()]
        for currency, amount in (*funds, *limited):
            # With "last", one request may have used more of a fund or limit than was left of it.
            assert amount >= (0 if overdraft == "never" else -dearest(told["today"], currency))
        assert spenders.holds_max >= 10, "the spenders did not meet"
