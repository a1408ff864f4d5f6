"""Balances and counters in memory: what is owned, spent and held, per window.

Invariant: `held` is the sum of the open holds that refer to the object, and at most one of them is
`exclusive` (it took everything that was left and may be exceeded).
"""

from __future__ import annotations

from traghetto.ledger.windows import month_of
from traghetto.money import Currency, LimitPeriod


class Fund:
    """What an account owns in one currency and window, in nano_usd."""

    __slots__ = ("balance", "currency", "exclusive", "granted", "held", "window")

    def __init__(self, currency: Currency, window: str, balance: int, granted: int = 0) -> None:
        self.currency = currency
        self.window = window
        self.balance = balance
        self.granted = granted
        """What allocations have put into a DIEM window so far; 0 for other currencies."""
        self.held = 0
        self.exclusive = False

    def spare(self) -> int:
        """What a new hold may take; never negative."""
        return 0 if self.exclusive else max(0, self.balance - self.held)


class Tally:
    """What a key spent and holds in one currency and period, in nano_usd."""

    __slots__ = ("exclusive", "held", "spent")

    def __init__(self, spent: int = 0) -> None:
        self.spent = spent
        self.held = 0
        self.exclusive = False

    def spare(self, limit: int) -> int:
        """What the limit still allows a new hold to take; never negative."""
        return 0 if self.exclusive else max(0, limit - self.spent - self.held)


class KeyTallies:
    """One key's tallies in one currency, for the three periods a limit can have.

    All three are kept, so that a limit can change its period at any time. A hold keeps the
    tallies of the day it was taken in.
    """

    __slots__ = ("_stored", "day", "day_window", "lifetime", "month")

    def __init__(self, day: str, stored: dict[str, int], lifetime: int) -> None:
        """`stored` is what the books hold per day window, from this month on."""
        self._stored = stored
        self.day_window = day
        self.day = Tally(stored.get(day, 0))
        self.month = Tally(self._stored_in_month(day))
        self.lifetime = Tally(lifetime)

    def turn_to(self, day: str) -> None:
        """A new day: fresh tallies, except what the books already hold for it.

        They hold something if the wall clock ran ahead before a restart.
        """
        if month_of(day) != month_of(self.day_window):
            self.month = Tally(self._stored_in_month(day))
        self.day = Tally(self._stored.get(day, 0))
        self.day_window = day

    def give_back(self, day: str, nano_usd: int) -> None:
        """Take a refunded charge of the window `day` out of every tally that counts it."""
        self.lifetime.spent -= nano_usd
        if month_of(day) == month_of(self.day_window):
            self.month.spent -= nano_usd
        if day == self.day_window:
            self.day.spent -= nano_usd
        if day in self._stored:  # a later turn to that window starts from what is stored
            self._stored[day] = max(0, self._stored[day] - nano_usd)

    def of(self, period: LimitPeriod) -> Tally:
        """The tally that a limit of `period` is compared with."""
        if period is LimitPeriod.EPOCH:
            return self.day
        return self.month if period is LimitPeriod.MONTH else self.lifetime

    def _stored_in_month(self, day: str) -> int:
        month = month_of(day)
        return sum(spent for window, spent in self._stored.items() if month_of(window) == month)
