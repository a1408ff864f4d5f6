"""Rate limits of models: requests and tokens per minute, for each account and model.

A key (account, model) has fixed windows of 60 seconds that begin with its first request, so what
the headers say is exact: so much remains, and at the reset everything does. Tokens are taken as an
upper bound at admission and corrected when the true number is known.

Invariants: a refused request counts for nothing; memory is bounded; deciding is synchronous and
takes constant time. The numbers are those of contract C.3.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

from traghetto.clock import Clock
from traghetto.errors import ErrorCode, LimitReached
from traghetto.limits.windows import WINDOWS_MAX, Window, Windows
from traghetto.settings import RateNumbers, SizeClass

Tier = Literal["standard", "partner"]
ResetStyle = Literal["docs", "live"]
Header = tuple[bytes, bytes]

_STANDARD: Final[Mapping[SizeClass, RateNumbers]] = {
    "xs": RateNumbers(500, 1_000_000),
    "s": RateNumbers(75, 750_000),
    "m": RateNumbers(50, 750_000),
    "l": RateNumbers(20, 500_000),
    "image": RateNumbers(20),
    "audio": RateNumbers(60),
    "embedding": RateNumbers(500),
    "none": RateNumbers(),
}
_PARTNER: Final[Mapping[SizeClass, RateNumbers]] = {
    "xs": RateNumbers(500, 2_000_000),
    "s": RateNumbers(150, 1_500_000),
    "m": RateNumbers(100, 1_500_000),
    "l": RateNumbers(60, 1_000_000),
    "image": RateNumbers(60),
    "audio": RateNumbers(120),
    "embedding": RateNumbers(500),
    "none": RateNumbers(),
}
TIERS: Final[Mapping[Tier, Mapping[SizeClass, RateNumbers]]] = {
    "standard": _STANDARD,
    "partner": _PARTNER,
}

_TYPE: Final[Header] = (b"x-ratelimit-type", b"user")


class _Limits:
    """Limits in force for a tier and size class, with the headers that never change."""

    __slots__ = ("headers", "requests_max", "tokens_max")

    def __init__(self, numbers: RateNumbers) -> None:
        self.requests_max = numbers.requests_per_minute
        self.tokens_max = numbers.tokens_per_minute
        self.headers: list[Header] = [
            (name, b"%d" % limit)
            for name, limit in (
                (b"x-ratelimit-limit-requests", self.requests_max),
                (b"x-ratelimit-limit-tokens", self.tokens_max),
            )
            if limit is not None
        ]


class Admission:
    """A request that was let in: it knows its headers, and corrects its tokens."""

    __slots__ = ("_is_corrected", "_limiter", "_limits", "_requests", "_tokens", "_window")

    def __init__(
        self, limiter: RateLimiter, limits: _Limits, window: Window, requests: int, tokens: int
    ) -> None:
        self._limiter = limiter
        self._limits = limits
        self._window = window
        self._requests = requests
        self._tokens = tokens
        self._is_corrected = False

    def correct(self, actual_tokens: int) -> None:
        """Replace the bound by what was used; in a window that has passed it changes nothing."""
        self._window.tokens += actual_tokens - self._tokens
        self._tokens = actual_tokens
        self._is_corrected = True

    def release(self) -> None:
        """Take the admission back, unless it was corrected: the request never reached a model."""
        if not self._is_corrected:
            self.correct(0)
            self._window.requests -= self._requests

    def headers(self) -> list[Header]:
        """The `x-ratelimit-*` headers of an answer; empty where nothing is limited."""
        return self._limiter.headers(self._limits, self._window)


class RateLimiter:
    """The limits of all accounts and models of one gateway."""

    def __init__(
        self,
        clock: Clock,
        *,
        enabled: bool = True,
        own_numbers: Mapping[SizeClass, RateNumbers] | None = None,
        reset_style: ResetStyle = "docs",
        windows_max: int = WINDOWS_MAX,
    ) -> None:
        """`own_numbers` replace those of a size class for every tier."""
        self._clock = clock
        self._enabled = enabled
        self._live_resets = reset_style == "live"
        self._windows = Windows(clock, windows_max=windows_max)
        self._numbers = {
            tier: {**classes, **(own_numbers or {})} for tier, classes in TIERS.items()
        }
        self._limits = {
            (tier, size_class): _Limits(numbers)
            for tier, classes in self._numbers.items()
            for size_class, numbers in classes.items()
        }
        self._unlimited = Admission(self, _Limits(RateNumbers()), Window(0.0), 1, 0)

    def __len__(self) -> int:
        """How many windows are remembered."""
        return len(self._windows)

    def numbers(self, tier: Tier, size_class: SizeClass) -> RateNumbers:
        """The limits in force; all None when limits are off."""
        return self._numbers[tier][size_class] if self._enabled else RateNumbers()

    def admit(
        self,
        account_id: str,
        model_id: str,
        *,
        tier: Tier,
        size_class: SizeClass,
        tokens_bound: int = 0,
        requests: int = 1,
    ) -> Admission:
        """Count a request and its token bound, or raise RATE_LIMIT_EXCEEDED.

        `requests` is how many it counts as: every image of one request does (contract C.3.1).
        A bound above the whole limit counts as the whole limit: such a request is let in when the
        window is unused, because otherwise no wait would ever help.
        """
        if not self._enabled:
            return self._unlimited
        limits = self._limits[tier, size_class]
        requests_max, tokens_max = limits.requests_max, limits.tokens_max
        if requests_max is None and tokens_max is None:
            return self._unlimited
        window = self._windows.of(account_id, model_id)
        if requests_max is not None:
            requests = min(requests, requests_max)
            if window.requests + requests > requests_max:
                raise self._refusal(limits, window, "RPM")
        tokens = 0
        if tokens_max is not None:
            tokens = min(tokens_bound, tokens_max)
            if window.tokens + tokens > tokens_max:
                raise self._refusal(limits, window, "TPM")
        window.requests += requests
        window.tokens += tokens
        return Admission(self, limits, window, requests, tokens)

    def headers(self, limits: _Limits, window: Window) -> list[Header]:
        """The state of `window`: integers, in the units of the configured style."""
        if not limits.headers:
            return []
        seconds = max(0.0, window.end - self._clock.monotonic())
        reset_ns = self._clock.utc_ns() + int(seconds * 1e9)
        if self._live_resets:
            requests_reset = tokens_reset = reset_ns // 1_000_000
        else:
            requests_reset = -(-reset_ns // 1_000_000_000)
            tokens_reset = math.ceil(seconds)
        answer = [*limits.headers]
        if limits.requests_max is not None:
            remaining = max(0, limits.requests_max - window.requests)
            answer += (
                (b"x-ratelimit-remaining-requests", b"%d" % remaining),
                (b"x-ratelimit-reset-requests", b"%d" % requests_reset),
            )
        if limits.tokens_max is not None:
            remaining = max(0, limits.tokens_max - window.tokens)
            answer += (
                (b"x-ratelimit-remaining-tokens", b"%d" % remaining),
                (b"x-ratelimit-reset-tokens", b"%d" % tokens_reset),
            )
        return answer

    def _refusal(self, limits: _Limits, window: Window, limit_type: str) -> LimitReached:
        seconds = math.ceil(window.end - self._clock.monotonic())
        return LimitReached(
            ErrorCode.RATE_LIMIT_EXCEEDED,
            retry_after_seconds=max(1, seconds),
            headers=(*self.headers(limits, window), _TYPE),
            limit_type=limit_type,
        )
