"""Whether to ask again, and when: a pure function of what happened.

Invariants: nothing is repeated that may already have been paid for, unless the repetition is safe;
nothing is repeated that only a person can mend; and no wait is begun that the budget cannot bear.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from traghetto.client.exceptions import TraghettoError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is."""

    retries_max: int = 2
    """Attempts after the first."""
    budget_seconds: float = 60.0
    """No retry begins later than this after the first attempt began."""
    backoff_seconds: float = 0.5
    """The bound of the first wait, where the server asks for none; it doubles each time."""
    backoff_seconds_max: float = 8.0

    def wait_seconds(
        self,
        error: TraghettoError,
        *,
        retries: int,
        elapsed_seconds: float,
        repeatable: bool,
        random: Random,
    ) -> float | None:
        """How long to wait before the next attempt; None if there shall be none.

        `retries` were made already, in `elapsed_seconds`. `repeatable` says that the server would
        execute the request once however often it comes. A wait is drawn between nothing and its
        bound (full jitter), and comes on top of what the server asked for: whoever was turned away
        together does not come back together.
        """
        if retries >= self.retries_max or not error.retryable:
            return None
        if not repeatable and error.charged is not False:
            return None
        bound = min(self.backoff_seconds * 2**retries, self.backoff_seconds_max)
        wait = (error.retry_after or 0.0) + random.uniform(0.0, bound)
        return wait if elapsed_seconds + wait <= self.budget_seconds else None
