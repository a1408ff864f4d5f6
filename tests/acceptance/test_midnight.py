"""Midnight over the wire: who is charged where, and what clients are told is left of a day."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from support.client import Answer, ask, chat_body
from support.configuration import model_toml, relayed_toml
from support.gateway import RunningGateway, running_gateway
from support.spenders import NANO, Crowd, Told, crowd
from support.upstream import Act, Exchange, FaultUpstream, answer_completion, upstream_in_thread
from support.waiting import wait_until
from traghetto.clock import ManualClock
from traghetto.storage.facts import EntryKind
from traghetto.storage.sqlite import open_read_only

PRICES = '{ input = "100.123456789", output = "432.109876543" }'
ACCOUNT = {"usd": "100", "diem": "5"}
KEYS: dict[str, dict[str, str]] = {
    "DIEM": {"limit_usd": "0"},
    "EPOCH": {"limit_diem": "0", "limit_usd": "5", "period": "EPOCH"},
    "MONTH": {"limit_diem": "0", "limit_usd": "5", "period": "MONTH"},
    "LIFETIME": {"limit_diem": "0", "limit_usd": "5", "period": "LIFETIME"},
}
"""One key spends the account's DIEM, the others USD, each with 5 USD in its window."""
ASKS = 25
"""Of each key, on each side of midnight."""


@dataclass(frozen=True)
class Midnight:
    """Two days, and whether a month ends between them."""

    before: str
    after: str
    ends_month: bool

    @property
    def utc_ns(self) -> int:
        begins = datetime.fromisoformat(self.after).replace(tzinfo=UTC)
        return int(begins.timestamp()) * NANO


MIDNIGHTS = (
    Midnight("2026-10-15", "2026-10-16", ends_month=False),
    Midnight("2026-02-28", "2026-03-01", ends_month=True),
    Midnight("2028-02-28", "2028-02-29", ends_month=False),
    Midnight("2028-02-29", "2028-03-01", ends_month=True),
    Midnight("2027-12-31", "2028-01-01", ends_month=True),
)


def balance(gateway: RunningGateway, key: str, currency: str) -> int:
    """What the headers of a free request say that the key could spend."""
    answer = ask(gateway, key, chat_body("gratis"))
    assert answer.status == 200
    return int(Decimal(answer.headers[f"x-venice-balance-{currency}"]) * NANO)


def held_back(gate: asyncio.Event) -> Act:
    """A backend that answers nobody until the gate is open."""

    async def act(exchange: Exchange) -> None:
        await gate.wait()
        await answer_completion()(exchange)

    return act


async def straddle(
    gateway: RunningGateway, clock: ManualClock, upstream: FaultUpstream, keys: Iterable[str]
) -> tuple[list[Told], list[Told]]:
    """All keys ask in the last nanosecond of a day and in the first of the next; then the backend
    answers everybody. What the former and the latter were told.
    """
    gate = asyncio.Event()
    upstream.default = held_back(gate)
    book = gateway.gateway.book
    async with crowd(gateway) as early, crowd(gateway) as late:
        pending = asks(early, keys)
        await asyncio.to_thread(wait_until, lambda: book.open_holds == len(pending))
        await asyncio.to_thread(gateway.call, clock.step_utc, 1e-9)
        pending += asks(late, keys)
        await asyncio.to_thread(wait_until, lambda: book.open_holds == len(pending))
        upstream.loop.call_soon_threadsafe(gate.set)
        assert {answer.status for answer in await asyncio.gather(*pending)} == {200}
        return early.told, late.told


def asks(clients: Crowd, keys: Iterable[str]) -> list[asyncio.Future[Answer]]:
    """Whole answers and streams for each key, on their way."""
    return [
        asyncio.ensure_future(clients.ask(key, chat_body("relayed", stream=number % 2 > 0)))
        for key in keys
        for number in range(ASKS)
    ]


def windows(gateway: RunningGateway) -> dict[str, set[tuple[str, str]]]:
    """The fund's window and the key's window of every charged request."""
    found: dict[str, set[tuple[str, str]]] = {}
    with open_read_only(gateway.data_dir) as books:
        for entry in books.entries():
            if entry.kind is EntryKind.CHARGE:
                found.setdefault(entry.request_id, set()).add((entry.window, entry.key_window))
    return found


def grants(gateway: RunningGateway) -> list[str]:
    with open_read_only(gateway.data_dir) as books:
        return sorted(e.window for e in books.entries() if e.kind is EntryKind.DIEM_GRANT)


@pytest.fixture
def upstream() -> Iterator[FaultUpstream]:
    with upstream_in_thread() as running:
        yield running


@pytest.mark.parametrize("midnight", MIDNIGHTS, ids=lambda m: m.after)
def test_requests_that_outlive_their_day(
    tmp_path: Path, upstream: FaultUpstream, midnight: Midnight
) -> None:
    """A request was charged on another day than it began, or midnight renewed the wrong limits;
    or a restart on a clock that was set back gave a day twice."""
    clock = ManualClock(midnight.utc_ns - 1)
    toml = relayed_toml(upstream, pricing=PRICES)
    toml += model_toml("gratis", pricing='{ input = "0", output = "0" }')
    old, new = f"E:{midnight.before}", f"E:{midnight.after}"
    with running_gateway(tmp_path, toml, clock=clock, rate_limits="off") as gateway:
        gateway.perform("accounts.create", name="payer", **ACCOUNT)
        keys = {
            name: gateway.perform("keys.create", account="payer", **limits)["secret"]
            for name, limits in KEYS.items()
        }
        first, later = asyncio.run(straddle(gateway, clock, upstream, keys.values()))
        spent = {
            (day, name): sum(t.nano_usd for t in told if t.key == key)
            for day, told in ((old, first), (new, later))
            for name, key in keys.items()
        }
        assert len(first) == len(later) == ASKS * len(KEYS)
        found = windows(gateway)
        for day, told in ((old, first), (new, later)):
            for each in told:
                fund = day if each.currency == "DIEM" else ""
                assert found.pop(each.request_id) == {(fund, day)}
        assert found == {}

        for name, key in keys.items():
            counted = spent[new, name]
            if name == "LIFETIME" or (name == "MONTH" and not midnight.ends_month):
                counted += spent[old, name]
            currency = "diem" if name == "DIEM" else "usd"
            assert balance(gateway, key, currency) == 5 * NANO - counted
        assert grants(gateway) == [old, new]
        assert gateway.differences() == []

    # The clock is set back over midnight while nothing runs.
    clock = ManualClock(midnight.utc_ns - 2 * NANO)
    with running_gateway(tmp_path, toml, clock=clock, rate_limits="off") as gateway:
        for day in (old, new):
            assert balance(gateway, keys["DIEM"], "diem") == 5 * NANO - spent[day, "DIEM"]
            assert balance(gateway, keys["EPOCH"], "usd") == 5 * NANO - spent[day, "EPOCH"]
            gateway.call(clock.step_utc, 2)
        # And again, while it runs: the later day stays.
        gateway.call(clock.step_utc, -4)
        assert balance(gateway, keys["DIEM"], "diem") == 5 * NANO - spent[new, "DIEM"]
        assert grants(gateway) == [old, new]
        assert gateway.gateway.book.open_holds == 0
        assert gateway.differences() == []
