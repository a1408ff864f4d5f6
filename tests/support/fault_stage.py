"""A priced gateway before two backends, and customers whose every request is checked in the books."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from support.client import PUBLISHED, Answer, chat
from support.fault_table import BROKEN, COOLING, OPEN, SHUNNED
from support.gateway import RunningGateway
from support.upstream import FaultUpstream
from support.waiting import wait_until
from traghetto.engines.breaker import BreakerState
from traghetto.engines.member import Member
from traghetto.engines.pool import ModelPool
from traghetto.storage.facts import UsageRecorded
from traghetto.storage.sqlite import open_read_only

PROMPT_NANO_USD, OUTPUT_NANO_USD = 1_000, 2_000
"""Prices of one token: 1 and 2 USD per million."""
USUAL_CHARGE = 11 * PROMPT_NANO_USD + 3 * OUTPUT_NANO_USD
FUNDS = 10_000_000_000


@dataclass
class Stage:
    """The gateway, its two backends, and what a test asks of them."""

    gateway: RunningGateway
    one: FaultUpstream
    two: FaultUpstream

    def pool(self, model: str) -> ModelPool:
        return self.gateway.gateway.services.fleet.pools[model]

    def member(self, model: str) -> Member:
        return self.pool(model).members[0]

    def requests(self, model: str, upstream: FaultUpstream | None = None) -> int:
        return sum(1 for r in (upstream or self.one).requests if r.model == model)

    def usages(self, account: str) -> list[UsageRecorded]:
        """The usage records of an account, once everything decided is on disk."""
        assert self.gateway.differences() == []
        shown = self.gateway.perform("accounts.show", account=account)
        with open_read_only(self.gateway.data_dir) as books:
            assert [h for h in books.holds() if h.account_id == shown["id"]] == [], "a hold is left"
            return [u for u in books.usages() if u.account_id == shown["id"]]


@dataclass
class Customer:
    """A fresh account with 10 USD; everything it asks is checked in the books."""

    stage: Stage
    name: str
    key: str
    log: io.StringIO

    def ask(self, model: str, *, stream: bool = False, **members: Any) -> Answer:
        with contextlib.redirect_stderr(self.log):
            members = {"max_tokens": None, "stream": stream, **members}
            reply = chat(self.stage.gateway, self.key, model, **members)
            # A stream's record is written when its exchange is over, just after its last byte.
            wait_until(lambda: not is_logged(reply) or self.levels(reply))
        return reply

    def levels(self, reply: Answer) -> list[str]:
        """The levels of the records that carry the request's id."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line["level"] for line in lines if line.get("request_id") == reply.request_id]

    def events(self, name: str) -> list[tuple[str, str]]:
        """Level and model of the records of a change of state; none of them names a request."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        found = [line for line in lines if line["event"] == name]
        assert not any("request_id" in line for line in found)
        return [(line["level"], line["model"]) for line in found]

    def spent(self) -> int:
        """Nano USD that left the account; the usage records must say the same."""
        usages = self.stage.usages(self.name)
        balance = self.stage.gateway.usd(self.name)
        whole, _, fraction = balance.partition(".")
        spent = FUNDS - int(whole) * 10**9 - int(fraction.ljust(9, "0") or 0)
        assert spent == sum(usage.charged for usage in usages)
        return spent


def is_logged(reply: Answer) -> bool:
    """Whether the error at the end of a stream is one that is logged."""
    return PUBLISHED[BROKEN].message.encode() in reply.body


def breaker_of(member: Member) -> int | str:
    breaker = member.breaker
    if breaker.state is not BreakerState.CLOSED:
        return OPEN
    if breaker.is_cooling:
        return COOLING
    return SHUNNED if breaker.is_shunned else breaker._consecutive
