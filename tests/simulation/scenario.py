"""What a seed stands for: accounts, keys, models, requests, and what goes wrong when.

Amounts are small and prices high, so that a few requests exhaust an account; the day is about to
end in some scenarios. Everything is a value; nothing here runs.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Literal

from traghetto.accounts.values import KeyKind
from traghetto.catalog.model import FREE_TEXT, Model, TextPricing
from traghetto.ids import INFERENCE_KEY_PREFIX, key_digester, new_api_key
from traghetto.money import NANO_PER_USD, Currency, LimitPeriod, UnitPrice
from traghetto.storage.facts import (
    FUNDING,
    FUNDS,
    AccountSaved,
    AllocationSet,
    Entry,
    EntryKind,
    Fact,
    KeySaved,
)

CENT = NANO_PER_USD // 100
CONTEXT_TOKENS = 4096
COMPLETION_TOKENS_MAX = 40
MIDNIGHT_NS = 1_798_761_600_000_000_000
"""The beginning of 2027, UTC: of a day, a month and a year."""

MODELS = (
    Model(
        id="plain",
        pricing=TextPricing(
            input=UnitPrice(90 * NANO_PER_USD),
            output=UnitPrice(2_500 * NANO_PER_USD),
            cache_input=UnitPrice(30 * NANO_PER_USD),
            cache_write=UnitPrice(90 * NANO_PER_USD),
        ),
        context_tokens=CONTEXT_TOKENS,
        max_completion_tokens=COMPLETION_TOKENS_MAX,
    ),
    Model(
        id="odd",
        pricing=TextPricing(
            input=UnitPrice(33_333_333_335),
            output=UnitPrice(1_999_999_999_995),
            cache_input=UnitPrice(11_111_111_115),
            cache_write=UnitPrice(44_444_444_445),
        ),
        context_tokens=CONTEXT_TOKENS,
        max_completion_tokens=COMPLETION_TOKENS_MAX,
    ),
    Model(
        id="free",
        pricing=FREE_TEXT,
        context_tokens=CONTEXT_TOKENS,
        max_completion_tokens=COMPLETION_TOKENS_MAX,
    ),
)

PEPPER = b"the same in every run"
SECRETS = tuple(new_api_key(INFERENCE_KEY_PREFIX) for _ in range(4))
"""Fresh in every process; nothing that happens depends on them."""

Defect = Literal["json", "schema", "model", "key", "type"]


@dataclass(frozen=True, slots=True)
class AccountPlan:
    """An account with what it owns at the beginning, in nano_usd."""

    id: str
    usd: int
    diem: int
    bundled: int = 0


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """A key with its limits, in nano_usd; `number` says which of the secrets is its own."""

    id: str
    number: int
    account: str
    usd_limit: int | None
    diem_limit: int | None
    period: LimitPeriod


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """A client: what it asks, and how it behaves. Times are seconds."""

    at: float
    key: int
    model: str
    stream: bool
    n: int
    max_tokens: int | None
    words: int
    defect: Defect | None
    body_pause: float
    """Between the two halves of the body; 0 sends it at once."""
    leaves_after: float | None
    leaves_at_byte: int | None
    """Of the body of the answer."""
    reads_every: float | None
    """A slow reader empties its buffer so often; None reads at once."""
    idempotency_key: str | None = None
    turned: bool = False
    """Sends the members of its body in the other order, which makes no difference."""

    @property
    def max_output(self) -> int:
        """The most output tokens it can be given, of all choices together."""
        return self.n * (self.max_tokens or COMPLETION_TOKENS_MAX)

    def body(self) -> bytes:
        """The body as sent."""
        if self.defect == "json":
            return b'{"model": "plain", '
        members = self._members()
        return json.dumps(dict(reversed(members.items())) if self.turned else members).encode()

    def asked(self) -> str:
        """What is asked: the same for two bodies that are the same JSON value."""
        return json.dumps(self._members(), sort_keys=True)

    def _members(self) -> dict[str, object]:
        body: dict[str, object] = {
            "model": "unknown" if self.defect == "model" else self.model,
            "messages": [{"role": "user", "content": "word " * self.words}],
            "stream": self.stream,
            "n": self.n,
        }
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.defect == "schema":
            body["temperature"] = "hot"
        return body


@dataclass(frozen=True, slots=True)
class Outage:
    """The end of a run of the gateway, and for how long nothing serves."""

    at: float
    kind: Literal["crash", "stop"]
    commit_survives: bool
    """A commit under way is on the disk, although nobody was told."""
    down_seconds: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is decided before a run."""

    utc_ns: int
    overdraft: Literal["last", "never"]
    accounts: tuple[AccountPlan, ...]
    keys: tuple[KeyPlan, ...]
    requests: tuple[RequestPlan, ...]
    top_ups: tuple[tuple[float, str, int], ...]
    """Time, account, nano_usd."""
    clock_steps: tuple[tuple[float, float], ...]
    """Time, and by how many seconds the wall clock is set forward or back then."""
    outages: tuple[Outage, ...]
    commit_seconds_max: float
    commit_failure: float
    """The probability that a commit fails."""
    fault_share: float
    """How many attempts at a backend go wrong."""
    exact_counts: bool
    """Whether backends count prompts."""
    replicas: int
    concurrency_max: int | None
    queue_max: int
    requests_per_minute: int | None
    refunds: tuple[tuple[float, float], ...] = ()
    """Time, and the lot that picks one of the charges that are in the books then."""
    upkeeps: tuple[float, ...] = ()
    """When answers that have expired are forgotten."""
    kept_bytes_max: int = 1 << 20
    """Of all answers that are kept to be given again."""

    def initial_facts(self) -> list[Fact]:
        """The books before the first run."""
        facts: list[Fact] = []
        for account in self.accounts:
            facts.append(
                AccountSaved(account.id, account.id, True, False, False, False, "standard", (), 1)
            )
            if account.usd:
                facts.append(_opening(account.id, Currency.USD, account.usd))
            if account.bundled:
                facts.append(_opening(account.id, Currency.BUNDLED_CREDITS, account.bundled))
            if account.diem:
                facts.append(AllocationSet(account.id, account.diem))
        for key in self.keys:
            secret = SECRETS[key.number]
            facts.append(
                KeySaved(
                    key.id, key.account, KeyKind.INFERENCE.value, "", secret[-6:], key.usd_limit,
                    key.diem_limit, key.period, "ALL", None, False, key_digester(PEPPER)(secret), 1,
                    False,
                )
            )  # fmt: skip
        return facts


def draw_scenario(rng: random.Random) -> Scenario:
    """A scenario by lot; in many of them several requests come at once."""
    busy_seconds = rng.choice((0.05, 0.5, 4.0))
    moments = [rng.random() * busy_seconds for _ in range(rng.choice((1, 2, 20)))]
    accounts = tuple(
        AccountPlan(
            f"a{number}",
            usd=rng.choice((0, 12, 20, 45, 90, 1000)) * CENT,
            diem=rng.choice((0, 0, 11, 30)) * CENT,
        )
        for number in range(rng.choice((1, 1, 2)))
    )
    keys = tuple(
        KeyPlan(
            f"k{number}",
            number,
            rng.choice(accounts).id,
            usd_limit=rng.choice((None, None, 10 * CENT, 14 * CENT, 35 * CENT)),
            diem_limit=rng.choice((None, None, 0, 12 * CENT)),
            period=rng.choice((LimitPeriod.EPOCH, LimitPeriod.MONTH, LimitPeriod.LIFETIME)),
        )
        for number in range(rng.choice((1, 2, 3)))
    )
    before_midnight = rng.random() * busy_seconds if rng.random() < 0.3 else 40_000.0
    return Scenario(
        utc_ns=MIDNIGHT_NS - int(before_midnight * 1e9),
        overdraft=rng.choice(("last", "never")),
        accounts=accounts,
        keys=keys,
        requests=tuple(
            _draw_request(rng, rng.choice(moments), len(keys)) for _ in range(rng.randint(3, 11))
        ),
        top_ups=tuple(
            (rng.random() * busy_seconds * 2, rng.choice(accounts).id, rng.randint(1, 40) * CENT)
            for _ in range(rng.choice((0, 0, 0, 1, 2)))
        ),
        clock_steps=tuple(
            (rng.random() * busy_seconds, rng.choice((-2.0, 2.0, -90_000.0, 90_000.0)))
            for _ in range(rng.choice((0, 0, 0, 1, 2)))
        ),
        outages=_draw_outages(rng, busy_seconds),
        commit_seconds_max=rng.choice((0.0, 0.004, 0.05, 1.0)),
        commit_failure=rng.choice((0.0,) * 7 + (0.06,)),
        fault_share=rng.choice((0.0, 0.2, 0.6)),
        exact_counts=rng.random() < 0.5,
        replicas=rng.choice((1, 1, 2)),
        concurrency_max=rng.choice((None, 1, 2, 4)),
        queue_max=rng.choice((0, 2, 8)),
        requests_per_minute=rng.choice((None, None, None, 4)),
    )


def _draw_request(rng: random.Random, at: float, keys: int) -> RequestPlan:
    leaves = rng.random()
    return RequestPlan(
        at=at,
        key=rng.randrange(keys),
        model=rng.choice(("plain", "plain", "odd", "odd", "free")),
        stream=rng.random() < 0.7,
        n=rng.choice((1, 1, 1, 2)),
        max_tokens=rng.choice((None, 5, 12, 30)),
        words=rng.choice((1, 20, 100)),
        defect=rng.choice(("json", "schema", "model", "key", "type"))
        if rng.random() < 0.08
        else None,
        body_pause=rng.choice((0.0, 0.0, 0.0, 0.01, 0.4)),
        leaves_after=rng.random() * rng.choice((0.01, 0.3, 3.0)) if leaves < 0.25 else None,
        leaves_at_byte=rng.randint(0, 2500) if 0.25 <= leaves < 0.45 else None,
        reads_every=rng.choice((0.02, 0.3, 2.0)) if rng.random() < 0.25 else None,
    )


def _draw_outages(rng: random.Random, busy_seconds: float) -> tuple[Outage, ...]:
    return tuple(
        Outage(
            at=rng.random() * busy_seconds * 1.5,
            kind=rng.choice(("crash", "crash", "stop")),
            commit_survives=rng.random() < 0.5,
            down_seconds=rng.choice((0.001, 0.2)),
        )
        for _ in range(rng.choice((0, 0, 1, 1, 2)))
    )


def with_repetitions(scenario: Scenario, rng: random.Random) -> Scenario:
    """The same scenario with clients that name idempotency keys and repeat themselves, with
    accounts that own bundled credits, and with an operator who refunds."""
    last = max(plan.at for plan in scenario.requests)
    restarts = [outage.at + outage.down_seconds for outage in scenario.outages]
    requests: list[RequestPlan] = []
    for number, unnamed in enumerate(scenario.requests):
        if rng.random() < 0.4:
            requests.append(unnamed)
            continue
        name = f"i{number}" if rng.random() < 0.85 else "shared"
        first = replace(unnamed, idempotency_key=name)
        requests.append(first)
        requests += (
            _draw_repetition(rng, first, len(scenario.keys), last, restarts)
            for _ in range(rng.choice((0, 1, 1, 2, 4)))
        )
    accounts = [
        replace(account, bundled=rng.choice((0, 0, 12, 25, 60)) * CENT)
        for account in scenario.accounts
    ]
    moments = [plan.at for plan in requests]
    return replace(
        scenario,
        accounts=tuple(accounts),
        requests=tuple(requests),
        refunds=tuple(
            (rng.choice(moments) + rng.random(), rng.random())
            for _ in range(rng.choice((0, 0, 1, 3)))
        ),
        upkeeps=tuple(rng.choice(moments) + rng.random() for _ in range(rng.choice((0, 1, 3)))),
        kept_bytes_max=rng.choice((1 << 20, 1 << 20, 1 << 20, 3000)),
    )


def _draw_repetition(
    rng: random.Random, first: RequestPlan, keys: int, last: float, restarts: list[float]
) -> RequestPlan:
    """The same request again: at once, while it is answered, later, or after a restart; now and
    then with another body or with another API key."""
    later = [
        first.at,
        first.at + rng.random() * 0.01,
        first.at + rng.random() * 0.5,
        first.at + rng.random() * 4.0,
        last + rng.random(),
        *(restart + 0.002 + rng.random() * 0.3 for restart in restarts),
    ]
    again = replace(
        first,
        at=rng.choice(later),
        body_pause=rng.choice((0.0, 0.0, 0.01)),
        leaves_after=rng.random() if rng.random() < 0.15 else None,
        leaves_at_byte=rng.randint(0, 2500) if rng.random() < 0.1 else None,
        reads_every=rng.choice((0.02, 0.3)) if rng.random() < 0.15 else None,
        turned=rng.random() < 0.3,
    )
    what = rng.random()
    if what < 0.1:
        again = replace(again, words=first.words + 1)
    elif what < 0.15:
        again = replace(again, stream=not first.stream)
    elif what < 0.3:
        again = replace(again, key=rng.randrange(keys))
    return again


def _opening(account_id: str, currency: Currency, amount: int) -> Entry:
    return Entry(
        request_id=f"opening of {account_id} in {currency}",
        kind=EntryKind.CREDIT,
        line="",
        account_id=account_id,
        debit=FUNDING,
        credit=FUNDS,
        currency=currency,
        window="",
        amount=amount,
        units=0,
        key_id=None,
        key_window="",
        price_version="",
        created_ns=1,
        reason="opening",
    )
