"""Failure kinds: the vocabulary in which engines report what went wrong.

An engine translates its backend's conditions to a kind once, at its boundary. The row of a kind
says what the pool may do about it; each endpoint family maps kinds to codes in one total map.
Source of the treatments: the upstream fault matrix (docs/explanation/upstream-faults.md).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Retry(enum.Enum):
    """Whether another attempt may be made before the first byte reached the client."""

    NEVER = 0
    ONCE = 1
    TWICE = 2
    """The request did not reach a working backend: trying elsewhere repeats no work."""


class BreakerEffect(enum.Enum):
    """What a failure means for the circuit breaker of the backend it came from."""

    IGNORE = "the backend works"
    COUNT = "one failure"
    OPEN = "open at once: the operator must mend it"
    COOL = "leave the backend alone for a while; not a failure"


@dataclass(frozen=True, slots=True, eq=False)
class Treatment:
    """What the pool does with a kind of failure."""

    retry: Retry
    breaker: BreakerEffect


@enum.unique
class FailureKind(enum.Enum):
    """Every way in which a backend can fail a call."""

    UNREACHABLE = Treatment(Retry.TWICE, BreakerEffect.COUNT)
    """No connection: name, refusal, TLS, connect timeout."""
    BROKEN = Treatment(Retry.ONCE, BreakerEffect.COUNT)
    """Reset, early end, 5xx, junk, missing terminal marker."""
    UNUSABLE = Treatment(Retry.NEVER, BreakerEffect.COUNT)
    """An answer past our limits (header, line or body size) or compressed against our wish."""
    REDIRECTED = Treatment(Retry.NEVER, BreakerEffect.OPEN)
    """3xx: never followed, because the backend's key would go with it."""
    TIMED_OUT = Treatment(Retry.NEVER, BreakerEffect.COUNT)
    """A deadline passed, ours or the backend's; the work may still be running there."""
    CONTEXT_EXCEEDED = Treatment(Retry.NEVER, BreakerEffect.IGNORE)
    """More tokens than the model's context."""
    REJECTED_INPUT = Treatment(Retry.NEVER, BreakerEffect.IGNORE)
    """The backend refused a parameter that our schema let through."""
    TOO_LARGE = Treatment(Retry.NEVER, BreakerEffect.IGNORE)
    """The backend refused the size of the body."""
    FRUITLESS = Treatment(Retry.NEVER, BreakerEffect.IGNORE)
    """The backend works, and nothing can be made of this input: anybody may send such a one."""
    REJECTED_CONTENT = Treatment(Retry.NEVER, BreakerEffect.IGNORE)
    """A content policy of the model or its provider."""
    MISCONFIGURED = Treatment(Retry.TWICE, BreakerEffect.OPEN)
    """401, 402, 403 or 404 from the backend: our credentials or configuration, never the caller."""
    OVERLOADED = Treatment(Retry.TWICE, BreakerEffect.COOL)
    """429 or 529."""
    AT_CAPACITY = Treatment(Retry.TWICE, BreakerEffect.COOL)
    """503."""
    OFFLINE = Treatment(Retry.NEVER, BreakerEffect.IGNORE)
    """No backend may be tried: all breakers are open or the health check says down."""


class EngineFailure(Exception):
    """A call failed in a known way. `__cause__` keeps the foreign exception for the log."""

    def __init__(
        self,
        kind: FailureKind,
        reason: str,
        *,
        retry_after_seconds: int | None = None,
        fields: tuple[str, ...] = (),
        stale_connection: bool = False,
    ) -> None:
        """`reason` explains it to an operator and never holds user content or backend text;
        `fields` are parameter paths the backend named; `stale_connection` marks a kept-alive
        connection that was already closed, which may be retried on the same backend for free.
        """
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        self.fields = fields
        self.stale_connection = stale_connection
