"""The last refusals of every account by a limit: what `GET /api_keys/rate_limits/log` tells.

They are for finding out why something is refused now, so they live in memory and not in the books.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, NamedTuple

REFUSALS_MAX: Final = 50
"""How many are told of one account (contract B.12)."""
ACCOUNTS_MAX: Final = 10_000
"""Above it the account that was refused longest ago is forgotten."""


class Refusal(NamedTuple):
    """One refused request; `limit_type` is `RPM`, `TPM` or the name of a budget of failures."""

    key_id: str
    model: str
    tier: str
    limit_type: str
    utc_ns: int


class RefusalLog:
    """The refusals of all accounts."""

    def __init__(self) -> None:
        self._by_account: OrderedDict[str, deque[Refusal]] = OrderedDict()

    def note(self, account_id: str, refusal: Refusal) -> None:
        """Remember a refusal, instead of the oldest one if there are many."""
        refusals = self._by_account.setdefault(account_id, deque(maxlen=REFUSALS_MAX))
        refusals.append(refusal)
        self._by_account.move_to_end(account_id)
        if len(self._by_account) > ACCOUNTS_MAX:
            self._by_account.popitem(last=False)

    def of(self, account_id: str) -> Iterable[Refusal]:
        """The refusals of an account, newest first."""
        return reversed(self._by_account.get(account_id, ()))
