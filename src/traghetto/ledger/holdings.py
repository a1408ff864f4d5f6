"""What every account owns and every key has spent, in memory, by window.

Invariant: a DIEM window opens with exactly one grant entry; which day it is comes from the caller,
who reads the calendar once per decision.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from traghetto.clock import Clock
from traghetto.ledger.funds import Fund, KeyTallies
from traghetto.ledger.journal import diem_grant
from traghetto.ledger.windows import NO_WINDOW
from traghetto.money import Currency
from traghetto.storage.connector import Store
from traghetto.storage.facts import GRANT_LINE, StoredState


class AccountFunds:
    """The funds of one account: USD, bundled credits if it ever had any, DIEM on days with any."""

    __slots__ = ("allocation", "bundled", "day", "diem", "in_order", "usd")

    def __init__(self) -> None:
        self.allocation = 0
        """DIEM granted per UTC day, in nano_usd."""
        self.usd = Fund(Currency.USD, NO_WINDOW, 0)
        self.bundled: Fund | None = None
        self.diem: Fund | None = None
        self.day = ""
        """The day window that `diem` was last looked up for."""
        self.in_order: tuple[Fund, ...] = (self.usd,)
        """In the order in which currencies are consumed (contract C.5)."""

    def lasting(self, currency: Currency) -> Fund:
        """The fund of a currency that does not lapse; bundled credits begin with the first use."""
        if currency is Currency.USD:
            return self.usd
        assert currency is Currency.BUNDLED_CREDITS, "DIEM belongs to a day"
        if self.bundled is None:
            self.bundled = Fund(currency, NO_WINDOW, 0)
            self.put_in_order()
        return self.bundled

    def find(self, currency: Currency) -> Fund | None:
        """The fund of `currency` on the day last looked up; None if there is none."""
        return next((fund for fund in self.in_order if fund.currency is currency), None)

    def put_in_order(self) -> None:
        """Note which funds there are."""
        funds = (self.diem, self.bundled, self.usd)
        self.in_order = tuple(fund for fund in funds if fund is not None)


class Holdings:
    """Funds by account and tallies by key."""

    def __init__(self, store: Store, clock: Clock, state: StoredState) -> None:
        self._store = store
        self._clock = clock
        self._accounts: dict[str, AccountFunds] = {}
        self._tallies: dict[tuple[str, Currency], KeyTallies] = {}
        self._stored_diem: dict[tuple[str, str], int] = {}
        for allocation in state.allocations:
            self.own(allocation.account_id).allocation = allocation.amount
        for row in state.balances:
            if row.currency is Currency.DIEM:
                self._stored_diem[row.account_id, row.window] = row.amount
            else:
                self.own(row.account_id).lasting(row.currency).balance = row.amount
        self._stored_grants: Final = {
            (row.account_id, row.window): row.amount for row in state.grants
        }
        self._stored_days: Final[defaultdict[tuple[str, Currency], dict[str, int]]] = defaultdict(
            dict
        )
        for spend in state.key_spends:
            self._stored_days[spend.key_id, spend.currency][spend.window] = spend.spent
        self._stored_lifetimes: Final = {
            (spend.key_id, spend.currency): spend.spent for spend in state.key_lifetimes
        }

    def own(self, account_id: str) -> AccountFunds:
        """The funds of an account, without a look at the day; new accounts own 0 USD."""
        funds = self._accounts.get(account_id)
        if funds is None:
            funds = self._accounts[account_id] = AccountFunds()
        return funds

    def of_account(self, account_id: str, day: str) -> AccountFunds:
        """The funds of an account on `day`; grants the day's DIEM on first use."""
        funds = self._accounts.get(account_id) or self.own(account_id)
        if funds.day != day:
            funds.day = day
            funds.diem = self._diem_of(account_id, funds.allocation, day)
            funds.put_in_order()
        return funds

    def of_key(self, key_id: str, currency: Currency, day: str) -> KeyTallies:
        """The tallies of a key on `day`, of spending that counts as `currency` does."""
        identity = (key_id, currency.counted_as)
        tallies = self._tallies.get(identity)
        if tallies is None:
            tallies = KeyTallies(
                day,
                self._stored_days.pop(identity, {}),
                self._stored_lifetimes.get(identity, 0),
            )
            self._tallies[identity] = tallies
        elif tallies.day_window != day:
            tallies.turn_to(day)
        return tallies

    def _diem_of(self, account_id: str, allocation: int, day: str) -> Fund | None:
        stored = self._stored_diem.pop((account_id, day), None)
        if stored is not None:
            granted = self._stored_grants.pop((account_id, day), 0)
            return Fund(Currency.DIEM, day, stored, granted)
        if allocation == 0:
            return None
        grant = diem_grant(account_id, day, allocation, GRANT_LINE, self._clock.utc_ns())
        self._store.submit((grant,))
        return Fund(Currency.DIEM, day, allocation, allocation)
