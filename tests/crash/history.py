"""What is known of a run from outside: what clients were told, and what is on the disk.

The oracle reads nothing else. Clients write down what came over their sockets and when; times are
UTC nanoseconds of this machine, which the gateway reads as well.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from crash.scenario import Account, Key, Policy, Request
from traghetto.money import Currency
from traghetto.storage.facts import BalanceRow, Entry, HoldOpened, UsageRecorded


class End(enum.Enum):
    """How a request ended, as its client saw it."""

    OPEN = "never ended"
    COMPLETE = "was answered completely"
    REFUSED = "was refused"
    BROKEN = "was answered without a proper end"
    LEFT = "was left by its client"
    CUT = "lost its connection"


@dataclass(slots=True)
class Sent:
    """One sending of a request, and what its client got for it."""

    request: Request
    life: int
    sent_ns: int
    status: int = 0
    """0 while nothing was received."""
    request_id: str = ""
    spendable: dict[Currency, int] = field(default_factory=dict)
    """By the balance headers of the answer: before this request."""
    output: int = 0
    """Pieces of text received, each a token."""
    tokens: tuple[int, int] | None = None
    """Of the prompt and of the output, by the usage in the answer."""
    cost: dict[Currency, int] = field(default_factory=dict)
    end: End = End.OPEN
    ended_ns: int = 0
    replayed: bool = False
    """Whether it was said to be an answer given before."""
    content: bytes = b""
    """The whole body, of a request with an idempotency key."""

    def __str__(self) -> str:
        name = self.request_id or f"nameless request sent at {self.sent_ns}"
        kind = "stream" if self.request.stream else "whole"
        return f"{name} ({kind}, {self.request.model.id}, life {self.life}; it {self.end.value})"


@dataclass(slots=True)
class Credit:
    """Money that an operator added to an account."""

    account_id: str
    amount: int
    reason: str
    """Its name in the books."""
    acknowledged: bool = False


@dataclass(slots=True)
class Life:
    """One process on the books, from its start to its end."""

    number: int
    started_ns: int
    ready_seconds: float | None = None
    """From the start until it said that it answers; None if it never did."""
    kill_ns: int = 0
    """Just before it was killed; 0 if it was not."""
    ended_ns: int = 0


@dataclass(slots=True)
class ClientLog:
    """What everybody outside of the gateway wrote down."""

    policy: Policy
    accounts: dict[str, Account] = field(default_factory=dict)
    """By the id that the operator was told."""
    keys: list[Key] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    probes: list[Sent] = field(default_factory=list)
    """Those of `sent` that came first in their life, when nothing else was under way."""
    credits: list[Credit] = field(default_factory=list)


class Moment(enum.Enum):
    """When the books were read."""

    KILLED = "after a kill"
    STARTED = "after a start, before anybody asked anything"
    STOPPED = "after an orderly stop"


@dataclass(frozen=True, slots=True)
class Books:
    """One snapshot of what is on the disk."""

    moment: Moment
    read_ns: int
    entries: tuple[Entry, ...]
    usages: tuple[UsageRecorded, ...]
    balances: tuple[BalanceRow, ...]
    holds: tuple[HoldOpened, ...]
    differences: tuple[str, ...]
    """What `ledger verify` found."""
