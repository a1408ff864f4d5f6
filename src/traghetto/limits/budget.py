"""The failed-request budget: whoever fails too often is refused for a while.

A bucket is an API key, or the address of a caller without one. The failure after the last one
allowed within the window starts a block; while it lasts, nothing is counted and nothing extends
it; afterwards the bucket is empty. Refusals for unsupported features have a budget of their own.
What counts is the catalogue's business (`ApiError.counts_as_failed`; contract A.3 and C.3.3).

Invariant: memory is bounded in buckets and in failures per bucket.
"""

from __future__ import annotations

import enum
import ipaddress
import math
from collections import OrderedDict, deque
from typing import Final

from traghetto.clock import Clock
from traghetto.errors import Adjunct, ApiError, LimitReached
from traghetto.limits.rates import Header, ResetStyle

BUCKETS_MAX: Final = 20_000
"""Above it the bucket that failed longest ago is forgotten."""


class BudgetKind(enum.Enum):
    """Which failures a budget is about; values are the names of the rate limit log."""

    FAILED = "FAILED_REQUESTS"
    UNSUPPORTED = "UNSUPPORTED_FEATURE_REQUESTS"


def key_bucket(key_id: str) -> str:
    """The bucket of an API key."""
    return f"key:{key_id}"


def address_bucket(address: str) -> str:
    """The bucket of a caller without credentials: its address, for IPv6 its /64 network.

    An address that cannot be read (a Unix socket has none) shares one bucket.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address:"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"address:{parsed.ipv4_mapped}"
        return f"address:{parsed.packed[:8].hex()}"
    return f"address:{parsed}"


class _Budget:
    """One kind of failures of all buckets; times are monotonic seconds."""

    __slots__ = ("_block_seconds", "_buckets_max", "_window_seconds", "blocks", "failures", "max")

    def __init__(
        self, failures_max: int, window_seconds: float, block_seconds: float, buckets_max: int
    ) -> None:
        self.max = failures_max
        self._window_seconds = window_seconds
        self._block_seconds = block_seconds
        self._buckets_max = buckets_max
        # Ordered by the latest failure, and by the end of the block.
        self.failures: OrderedDict[str, deque[float]] = OrderedDict()
        self.blocks: OrderedDict[str, float] = OrderedDict()

    def blocked_until(self, bucket: str, now: float) -> float | None:
        """When the block of `bucket` ends, or None."""
        end = self.blocks.get(bucket)
        if end is None or now < end:
            return end
        del self.blocks[bucket]
        return None

    def count(self, bucket: str, now: float) -> None:
        """One more failure; the one above the maximum within the window starts a block."""
        if self.blocked_until(bucket, now) is not None:
            return
        times = self.failures.pop(bucket, None) or deque()
        times.append(now)
        self._drop_old(times, now)
        if len(times) > self.max:
            self.blocks[bucket] = now + self._block_seconds
            self._bound_blocks(now)
            return
        self.failures[bucket] = times
        self._bound_failures(now)

    def recent(self, bucket: str, now: float) -> deque[float]:
        """The failures of `bucket` that still count, oldest first."""
        times = self.failures.get(bucket)
        if times is None:
            return deque()
        self._drop_old(times, now)
        if not times:
            del self.failures[bucket]
        return times

    def leaves_window(self, failed_at: float) -> float:
        """When a failure stops counting."""
        return failed_at + self._window_seconds

    def _drop_old(self, times: deque[float], now: float) -> None:
        while times and now - times[0] >= self._window_seconds:
            times.popleft()

    def _bound_failures(self, now: float) -> None:
        for _ in range(2):
            oldest, times = next(iter(self.failures.items()))
            is_over = not times or now - times[-1] >= self._window_seconds
            if not is_over and len(self.failures) <= self._buckets_max:
                return
            del self.failures[oldest]

    def _bound_blocks(self, now: float) -> None:
        for _ in range(2):
            oldest = next(iter(self.blocks))
            if now < self.blocks[oldest] and len(self.blocks) <= self._buckets_max:
                return
            del self.blocks[oldest]


class FailedRequestBudget:
    """Both budgets of all callers of one gateway."""

    def __init__(
        self,
        clock: Clock,
        *,
        failed_requests_max: int = 20,
        unsupported_requests_max: int = 200,
        window_seconds: int = 30,
        block_seconds: int = 30,
        reset_style: ResetStyle = "docs",
        buckets_max: int = BUCKETS_MAX,
    ) -> None:
        self._clock = clock
        self._block_seconds = block_seconds
        self._live_resets = reset_style == "live"
        self._budgets = {
            kind: _Budget(failures_max, window_seconds, block_seconds, buckets_max)
            for kind, failures_max in (
                (BudgetKind.FAILED, failed_requests_max),
                (BudgetKind.UNSUPPORTED, unsupported_requests_max),
            )
        }
        self._failed = self._budgets[BudgetKind.FAILED]

    def check(self, bucket: str) -> None:
        """Raise FAILED_REQUEST_BUDGET while `bucket` is blocked."""
        for kind, budget in self._budgets.items():
            if not budget.blocks:
                continue
            now = self._clock.monotonic()
            end = budget.blocked_until(bucket, now)
            if end is not None:
                raise LimitReached(
                    Adjunct.FAILED_REQUEST_BUDGET,
                    details={
                        "failed_requests_max": budget.max,
                        "block_seconds": self._block_seconds,
                    },
                    retry_after_seconds=max(1, math.ceil(end - now)),
                    headers=self._headers(0, end, now),
                    limit_type=kind.value,
                )

    def count(self, bucket: str, error: ApiError) -> None:
        """Count `error` against `bucket`, if it is one that counts."""
        if not error.counts_as_failed:
            return
        kind = BudgetKind.UNSUPPORTED if error.unsupported_feature else BudgetKind.FAILED
        self._budgets[kind].count(bucket, self._clock.monotonic())

    def headers(self, bucket: str) -> tuple[Header, ...]:
        """What is left of the failed-request budget, and when its oldest failure is forgotten."""
        now = self._clock.monotonic()
        end = self._failed.blocked_until(bucket, now)
        if end is not None:
            return self._headers(0, end, now)
        times = self._failed.recent(bucket, now)
        reset = self._failed.leaves_window(times[0]) if times else now
        return self._headers(self._failed.max - len(times), reset, now)

    def _headers(self, remaining: int, reset: float, now: float) -> tuple[Header, ...]:
        reset_ns = self._clock.utc_ns() + int((reset - now) * 1e9)
        resets = reset_ns // 1_000_000 if self._live_resets else -(-reset_ns // 1_000_000_000)
        return (
            (b"x-ratelimit-remaining", b"%d" % remaining),
            (b"x-ratelimit-resets", b"%d" % resets),
        )
