"""Limits of endpoints, for one caller and a minute (contract C.3.2)."""

from __future__ import annotations

import math

from traghetto.clock import Clock
from traghetto.errors import ApiError, ErrorCode
from traghetto.limits.windows import WINDOWS_MAX, Windows


class EndpointLimiter:
    """So many calls of one endpoint in 60 seconds, for an account or an address."""

    def __init__(self, clock: Clock, *, windows_max: int = WINDOWS_MAX) -> None:
        self._clock = clock
        self._windows = Windows(clock, windows_max=windows_max)

    def admit(self, who: str, endpoint: str, requests_max: int) -> None:
        """Count a call of `endpoint` by `who`; raises RATE_LIMIT_EXCEEDED, which does not count."""
        window = self._windows.of(who, endpoint)
        if window.requests >= requests_max:
            seconds = math.ceil(window.end - self._clock.monotonic())
            raise ApiError(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                retry_after_seconds=max(1, seconds),
                reason=f"calls of {endpoint} per minute",
            )
        window.requests += 1
