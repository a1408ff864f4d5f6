"""What a seed means: who has which funds and keys, what is for sale, and what clients ask for.

Every client asks with prompts of lengths of its own, taken in turn, and the books keep lengths. So
a charge whose request id nobody was told can still be traced to the request that it is for.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from support.client import CHAT
from support.configuration import model_toml
from traghetto.money import LimitPeriod

USD = 10**9
"""In nano_usd, as every amount here."""
FLOOR = USD // 10
"""What an account or key must be able to spend to be admitted."""
CLIENTS = 64
HASTY_CLIENTS = 16
"""Those that ask for what is answered at once, and ask again, so that a commit is always under way."""
PROMPTS = 3
"""How many lengths a client has: it may ask again before what it left was settled."""
PROBE_WORDS = PROMPTS * CLIENTS + 1
TEMPLATE_TOKENS = 7
"""What the simulator counts for a prompt besides its words."""
SHORTEST_ANSWER_TOKENS = 36
"""Of a simulator that is not bounded by what was asked for."""
HOLD_SECONDS = 900
READY_SECONDS_MAX = 20.0
"""Far more than a start takes, because others may have the machine."""
SILENT_PATIENCE_SECONDS_MAX = 1.0
REPEATING_CLIENTS = 8
"""They name an idempotency key, are never impatient, and repeat what they sent after a restart."""
REPEATED_MAX = 4
"""How many requests of an earlier life each of them repeats."""

Policy = Literal["last", "never"]


@dataclass(frozen=True, slots=True)
class Model:
    """A simulated model; prices are USD per million tokens."""

    id: str
    input_usd: str
    output_usd: str
    first_token_seconds: float = 0.0
    token_seconds: float = 0.0

    def price(self, prompt_tokens: int, completion_tokens: int) -> int:
        """By the price list: each line rounded once, half to even; nothing without output."""
        if not completion_tokens:
            return 0
        lines = ((prompt_tokens, self.input_usd), (completion_tokens, self.output_usd))
        return sum(round(Fraction(usd) * 1000 * tokens) for tokens, usd in lines)

    def toml(self) -> str:
        """Its table in the configuration."""
        return model_toml(
            self.id,
            pricing=f'{{ input = "{self.input_usd}", output = "{self.output_usd}" }}',
            first_token_seconds=str(self.first_token_seconds),
            token_seconds=str(self.token_seconds),
        )


BRISK = Model("brisk", "100", "2000")
ODD = Model("odd", "33.333333", "1777.777777", first_token_seconds=0.03)
"""Its prices have to be rounded."""
PACED = Model("paced", "50", "1500", first_token_seconds=0.02, token_seconds=0.02)
SILENT = Model("silent", "100", "2000", first_token_seconds=60.0)
"""Nobody ever waits for its first token, so nobody ever pays for it."""
MODELS = {model.id: model for model in (BRISK, ODD, PACED, SILENT)}


@dataclass(frozen=True, slots=True)
class Account:
    """What an operator opens: `diem` is granted per UTC day."""

    name: str
    usd: int
    diem: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as its owner knows it."""

    id: str
    secret: str
    account_id: str
    limit_usd: int | None
    period: LimitPeriod
    pays_in_full: bool
    """Neither its funds nor its limit can come to an end, so no charge is bounded by a hold."""


PLENTY = Account("plenty", 100_000 * USD)
SCARCE = Account("scarce", 2 * USD)
"""Lives from one credit to the next."""
DAILY = Account("daily", 20 * USD, diem=60 * USD)
ACCOUNTS = (PLENTY, SCARCE, DAILY)

LIMITS = (USD // 2, USD, 3 * USD, 2 * USD)
"""Of the limited keys, in turn: some are reached within a life, some in the next one."""
CREDIT = USD // 4
PERIODS = (LimitPeriod.EPOCH, LimitPeriod.MONTH, LimitPeriod.LIFETIME)


IDEMPOTENCY = "idempotency-key"


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that is sent; sending it again is sending the same bytes."""

    key: Key
    model: Model
    stream: bool
    words: int
    max_tokens: int
    headers: tuple[tuple[str, str], ...] = ()
    """Besides those that every request has."""

    @property
    def idempotency_key(self) -> str | None:
        """What makes two sendings one request."""
        return dict(self.headers).get(IDEMPOTENCY)

    @property
    def prompt_tokens(self) -> int:
        """What the simulator counts."""
        return TEMPLATE_TOKENS + self.words

    @property
    def is_bounded(self) -> bool:
        """Whether its answer has exactly `max_tokens`, if funds suffice."""
        return self.max_tokens <= SHORTEST_ANSWER_TOKENS

    @property
    def bound(self) -> int:
        """The most that it can cost."""
        return self.model.price(self.prompt_tokens, self.max_tokens)

    def payload(self) -> bytes:
        """The request on the wire."""
        body = json.dumps(
            {
                "model": self.model.id,
                "stream": self.stream,
                "max_tokens": self.max_tokens,
                "messages": [{"role": "user", "content": " ".join(["ferry"] * self.words)}],
            }
        )
        headers = (
            ("host", "gateway"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("authorization", f"Bearer {self.key.secret}"),
            *self.headers,
        )
        lines = [f"POST {CHAT} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client does next."""

    request: Request
    patience_seconds: float | None
    """After so long it hangs up, wherever the answer is then."""
    pause_seconds: float
    """Afterwards; it asks less often for what was refused."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a run; each life has limited ones of its own, which the life after it shares."""

    open: tuple[Key, ...]
    """One per account, without a limit."""
    limited: tuple[Key, ...]

    def of_life(self, life: int) -> tuple[Key, ...]:
        """What is asked with then."""
        count = len(self.limited)
        return (*self.open, self.limited[life % count], self.limited[(life + 1) % count])


def policy_of(seed: int) -> Policy:
    """Seeds take turns."""
    return "never" if seed % 2 else "last"


def configuration(policy: Policy) -> str:
    """The TOML file of the gateway."""
    settings = {
        "rate_limits": '"off"',
        "failed_requests_max": "1_000_000",
        "durability": '"full"',
        "overdraft": f'"{policy}"',
        "hold_seconds_max": str(HOLD_SECONDS),
    }
    lines = [f"{name} = {value}\n" for name, value in settings.items()]
    return "".join(lines) + "".join(model.toml() for model in MODELS.values())


def draw_wish(rng: random.Random, client: int, count: int, keys: tuple[Key, ...]) -> Wish:
    """What `client` (a number below `CLIENTS`) does after `count` other things."""
    is_hasty = client < HASTY_CLIENTS
    model = BRISK if is_hasty else rng.choices((ODD, PACED, SILENT), (25, 65, 10))[0]
    request = Request(
        # The account with plenty, which comes first, is asked with most.
        key=rng.choice((*keys, keys[0], keys[0])),
        model=model,
        stream=rng.random() < 0.6,
        words=1 + client + CLIENTS * (count % PROMPTS),
        max_tokens=rng.choice((4, 8, 12, 16, 24, 24, 300)),
    )
    patience = None
    if model is SILENT:
        patience = rng.uniform(0.0, SILENT_PATIENCE_SECONDS_MAX)
    elif rng.random() < 0.25:
        patience = rng.uniform(0.0, 0.4)
    pause = rng.uniform(0.0, 0.01 if is_hasty else 0.1)
    return Wish(request, patience, pause)


def probe(key: Key) -> Request:
    """What is asked first after a start, to see whether anything is served and can be spent."""
    return Request(key, BRISK, stream=False, words=PROBE_WORDS, max_tokens=1)


def draw_keyed(rng: random.Random, client: int, life: int, count: int, key: Key) -> Request:
    """What a repeating client asks for: a prompt length of its own and of its life."""
    return Request(
        key=key,
        model=rng.choice((BRISK, ODD, PACED)),
        stream=rng.random() < 0.5,
        words=PROBE_WORDS + 1 + client + REPEATING_CLIENTS * life,
        max_tokens=rng.choice((4, 8, 16, 24)),
        headers=((IDEMPOTENCY, f"client-{client}-life-{life}-{count}"),),
    )
