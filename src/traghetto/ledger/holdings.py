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
from traghetto.ledger.windows import USD_WINDOW
from traghetto.money import Currency
from traghetto.storage.connector import Store
from traghetto.storage.facts import GRANT_LINE, StoredState


class AccountFunds:
    """The funds of one account: USD, and DIEM on days that have any."""

    __slots__ = ("allocation", "day", "diem", "in_order", "usd")

    def __init__(self, usd_balance: int, allocation: int) -> None:
        self.allocation = allocation
        """DIEM granted per UTC day, in nano_usd."""
        self.usd = Fund(Currency.USD, USD_WINDOW, usd_balance)
        self.diem: Fund | None = None
        self.day = ""
        """The day window that `diem` was last looked up for."""
        self.in_order: tuple[Fund, ...] = (self.usd,)
        """In the order in which currencies are consumed (contract C.5)."""


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
            if row.currency is Currency.USD:
                self.own(row.account_id).usd.balance = row.amount
            else:
                self._stored_diem[row.account_id, row.window] = row.amount
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
            funds = self._accounts[account_id] = AccountFunds(0, 0)
        return funds

    def of_account(self, account_id: str, day: str) -> AccountFunds:
        """The funds of an account on `day`; grants the day's DIEM on first use."""
        funds = self._accounts.get(account_id) or self.own(account_id)
        if funds.day != day:
            funds.day = day
            funds.diem = self._diem_of(account_id, funds.allocation, day)
            funds.in_order = (funds.usd,) if funds.diem is None else (funds.diem, funds.usd)
        return funds

    def of_key(self, key_id: str, currency: Currency, day: str) -> KeyTallies:
        """The tallies of a key on `day`."""
        tallies = self._tallies.get((key_id, currency))
        if tallies is None:
            identity = (key_id, currency)
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
