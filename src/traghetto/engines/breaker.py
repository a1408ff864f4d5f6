"""The circuit breaker of one backend that serves one model.

Closed, it counts failures; it opens after five in a row, or when half of at least twenty calls in
ten seconds failed, but only on evidence from two principals or three different requests, so that
one caller's poisonous request cannot take a model away from everybody. Open, the backend rests
for five seconds, doubled each time up to 300 and spread by a fifth; then one call at a time
probes it, and three successes in a row close the breaker. A backend that asks to be left alone
(429, 503 with a time) *cools*: it is not used meanwhile, and nothing is held against it.

Invariants: at most one probe is out; every admitted call ends in exactly one of `succeeded`,
`failed` and `abandoned`.
"""

from __future__ import annotations

import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from traghetto.clock import Clock
from traghetto.engines.failures import BreakerEffect, EngineFailure
from traghetto.engines.window import WINDOW_SECONDS, SlidingCounts

CONSECUTIVE_FAILURES: Final = 5
WINDOW_CALLS_MIN: Final = 20
REST_SECONDS: Final = 5.0
REST_SECONDS_MAX: Final = 300.0
REST_SPREAD: Final = 0.2
PROBE_SUCCESSES: Final = 3
COOL_SECONDS_MAX: Final = 60.0
SHUN_SECONDS: Final = 1.0
"""How long a backend that was busy without naming a time is the last choice."""
_EVIDENCE_MAX: Final = 64


class BreakerState(enum.Enum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Who saw a failure, and with which request."""

    principal: str
    request_hash: int


@dataclass(frozen=True, slots=True)
class Guard:
    """How varied the evidence must be; both at 1 where a server has a single user."""

    principals_min: int = 2
    requests_min: int = 3

    def accepts(self, evidence: deque[Evidence]) -> bool:
        """Whether `evidence` is not the work of one caller with one request."""
        return (
            len({item.principal for item in evidence}) >= self.principals_min
            or len({item.request_hash for item in evidence}) >= self.requests_min
        )


SINGLE_USER: Final = Guard(principals_min=1, requests_min=1)


NEVER: Final = Guard(principals_min=1 << 62, requests_min=1 << 62)
"""Nothing is held against anybody: for a lab, in which backends fail on purpose."""


class Breaker:
    """Decides whether a backend may be called, from how its calls ended."""

    def __init__(
        self, clock: Clock, rng: random.Random, guard: Callable[[], Guard] = Guard
    ) -> None:
        """`guard` is asked whenever failures may open the breaker: who uses a server changes."""
        self._clock = clock
        self._rng = rng
        self._guard = guard
        self._counts = SlidingCounts()
        self._evidence: deque[Evidence] = deque(maxlen=_EVIDENCE_MAX)
        """Of the failures since the last success."""
        self._window_evidence: deque[tuple[float, Evidence]] = deque(maxlen=_EVIDENCE_MAX)
        self._consecutive = 0
        self._openings = 0
        self._is_open = False
        self._rests_until = 0.0
        self._probe_successes = 0
        self._is_probing = False
        self._cools_until = 0.0
        self._shunned_until = 0.0

    @property
    def state(self) -> BreakerState:
        """Where the breaker stands now."""
        if not self._is_open:
            return BreakerState.CLOSED
        if self._clock.monotonic() < self._rests_until:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    @property
    def is_shunned(self) -> bool:
        """Whether the backend was busy a moment ago, so that any other is the better choice."""
        return self._shunned_until > 0.0 and self._clock.monotonic() < self._shunned_until

    @property
    def is_cooling(self) -> bool:
        """Whether the backend asked to be left alone and the time has not passed."""
        return self._cools_until > 0.0 and self._clock.monotonic() < self._cools_until

    def admits(self) -> bool:
        """Whether a call may be made now."""
        if not self._is_open:
            return not self.is_cooling
        return self.state is BreakerState.HALF_OPEN and not self._is_probing and not self.is_cooling

    def begin(self) -> bool:
        """A call is being made; whether it is a probe, which its end has to say again.

        `admits` must hold.
        """
        if self._is_open:
            self._is_probing = True
        return self._is_open

    def wait_seconds(self) -> float:
        """How long until the backend may be tried again; 0 if now."""
        now = self._clock.monotonic()
        rest = self._rests_until - now if self._is_open else 0.0
        return max(rest, self._cools_until - now, 0.0)

    def succeeded(self, *, is_probe: bool = False) -> None:
        """A call ended well."""
        self._consecutive = 0
        if self._evidence:
            self._evidence.clear()
        self._counts.add(self._clock.monotonic(), 1, 0)
        if is_probe:
            self._probe_succeeded()

    def failed(self, failure: EngineFailure, evidence: Evidence, *, is_probe: bool = False) -> None:
        """A call ended in `failure`; its kind says what that means.

        A call from before the opening that comes home late changes nothing.
        """
        if is_probe:
            self._is_probing = False
        if self._guard() is NEVER:
            return
        match failure.kind.value.breaker:
            case BreakerEffect.COOL:
                self._cool(failure.retry_after_seconds)
            case BreakerEffect.IGNORE if is_probe:
                # The backend answered for itself: that is what a probe asks.
                self._probe_succeeded()
            case BreakerEffect.OPEN | BreakerEffect.COUNT if is_probe:
                self._open()
            case BreakerEffect.OPEN if not self._is_open:
                self._open()
            case BreakerEffect.COUNT if not self._is_open:
                self._count(evidence)

    def abandoned(self, *, is_probe: bool = False) -> None:
        """A call was given up by its caller; it says nothing about the backend."""
        if is_probe:
            self._is_probing = False

    def _count(self, evidence: Evidence) -> None:
        now = self._clock.monotonic()
        self._consecutive += 1
        self._evidence.append(evidence)
        self._window_evidence.append((now, evidence))
        self._counts.add(now, 0, 1)
        if self._consecutive >= CONSECUTIVE_FAILURES and self._guard().accepts(self._evidence):
            self._open()
            return
        successes, failures = self._counts.totals(now)
        if successes + failures >= WINDOW_CALLS_MIN and failures >= successes:
            while self._window_evidence[0][0] < now - WINDOW_SECONDS:
                self._window_evidence.popleft()
            if self._guard().accepts(deque(item for _, item in self._window_evidence)):
                self._open()

    def _open(self) -> None:
        rest = min(REST_SECONDS * 2.0**self._openings, REST_SECONDS_MAX)
        spread = 1.0 + REST_SPREAD * (2.0 * self._rng.random() - 1.0)
        self._rests_until = self._clock.monotonic() + rest * spread
        self._openings = min(self._openings + 1, 16)
        self._is_open = True
        self._probe_successes = 0

    def _probe_succeeded(self) -> None:
        self._is_probing = False
        self._probe_successes += 1
        if self._probe_successes >= PROBE_SUCCESSES:
            self._is_open = False
            self._openings = 0
            self._consecutive = 0
            self._counts.clear()
            self._evidence.clear()
            self._window_evidence.clear()

    def _cool(self, seconds: int | None) -> None:
        now = self._clock.monotonic()
        if seconds is None:
            self._shunned_until = now + SHUN_SECONDS
        else:
            self._cools_until = max(self._cools_until, now + min(seconds, COOL_SECONDS_MAX))
