"""The book: decides who may spend what, at once and in memory, and writes down what it decided.

Every public method is synchronous: nothing can happen between a check and what depends on it.
Invariants: see README.md beside this file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from traghetto.clock import Clock
from traghetto.errors import ApiError, ErrorCode
from traghetto.ids import new_request_id
from traghetto.ledger.charges import Basis, Charge, ChargeLine, Usage, bounded, price_version
from traghetto.ledger.funds import Fund
from traghetto.ledger.hold import (
    Beside,
    Durability,
    Hold,
    HoldEnded,
    Receipt,
    nothing_beside,
)
from traghetto.ledger.holdings import Holdings
from traghetto.ledger.journal import (
    charge_entries,
    diem_grant,
    hold_row,
    movement,
    refund_entry,
    usage_row,
)
from traghetto.ledger.spendable import FLOOR_NANO_USD, Spendable, admits, refusal
from traghetto.ledger.windows import Calendar, day_window
from traghetto.money import (
    COUNTED_CURRENCIES,
    NANO_PER_USD,
    NANO_USD_MAX,
    Currency,
    LimitPeriod,
    SpendLimits,
)
from traghetto.settings.fields import HOLD_SECONDS_MAX
from traghetto.storage.connector import Store
from traghetto.storage.facts import (
    ADJUSTMENT,
    FUNDING,
    AllocationSet,
    Entry,
    EntryKind,
    Fact,
    HoldClosed,
    HoldExtended,
    StoredState,
)

__all__ = [
    "Basis",
    "Beside",
    "Book",
    "Charge",
    "ChargeLine",
    "Hold",
    "HoldEnded",
    "Overdraft",
    "Receipt",
    "Recovery",
    "Spendable",
    "Usage",
    "day_window",
    "nothing_beside",
    "price_version",
]

DIEM_NANO_USD_MIN: Final = NANO_PER_USD // 10
"""The smallest allocation that may be spent (contract C.5)."""

Overdraft = Literal["last", "never"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a start found of the run before."""

    holds_voided: int
    durable: Durability | None
    """Wait for it before the first request; None if there was nothing to do."""


class Book:
    """The decisions of the ledger; one per process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        state: StoredState,
        *,
        overdraft: Overdraft = "last",
        hold_seconds: int = HOLD_SECONDS_MAX,
    ) -> None:
        """`state` is what the store loaded for the current UTC day (`day_window`).

        Every request must end, by its deadlines, before its hold is `hold_seconds` old.
        """
        self._store = store
        self._clock = clock
        self._calendar = Calendar(clock, state.day)
        self._holdings = Holdings(store, clock, state)
        self._orphans = state.holds
        self._may_overdraw = overdraft == "last"
        self._hold_seconds = hold_seconds
        self._open: OrderedDict[str, Hold] = OrderedDict()
        self._refunding: set[str] = set()
        """Requests whose refund is decided and not on disk yet: nobody can read there of it."""

    # What may be spent

    @property
    def healthy(self) -> bool:
        """Whether decisions can still be made durable."""
        return self._store.healthy

    def spendable(self, account_id: str, key_id: str, limits: SpendLimits) -> Spendable:
        """What the key could spend now, per currency."""
        day = self._calendar.today()
        clamped, unclamped = {}, {}
        bundled = 0
        for fund in self._holdings.of_account(account_id, day).in_order:
            spare = fund.spare()
            unclamped[fund.currency] = spare
            room = self._room(key_id, fund, limits, day)
            if fund.currency is Currency.BUNDLED_CREDITS:
                bundled = spare = min(spare, room)
            elif fund.currency is Currency.USD:
                room -= bundled  # they share a limit
            clamped[fund.currency] = min(spare, room)
        return Spendable(clamped, unclamped)

    def check_funds(
        self,
        account_id: str,
        key_id: str,
        limits: SpendLimits,
        *,
        least_nano_usd: int = 1,
        floor_nano_usd: int = FLOOR_NANO_USD,
    ) -> None:
        """Refuse a request that could not be admitted now.

        `least_nano_usd` must be spendable in one currency, `floor_nano_usd` in all together: work
        whose price is known beforehand needs its price in one, and no floor (contract A.2, C.5).
        Raises ApiError: INSUFFICIENT_BALANCE, API_KEY_DIEM_SPEND_LIMIT_EXCEEDED or
        API_KEY_USD_SPEND_LIMIT_EXCEEDED (contract A.2, codes 5 to 7).
        """
        spendable = self.spendable(account_id, key_id, limits)
        if not admits(spendable.clamped, least_nano_usd, floor_nano_usd):
            raise ApiError(refusal(spendable, least_nano_usd, floor_nano_usd))

    def reserve(
        self,
        *,
        request_id: str,
        account_id: str,
        key_id: str,
        limits: SpendLimits,
        upper_bound_nano_usd: int,
        least_nano_usd: int = 1,
        floor_nano_usd: int = FLOOR_NANO_USD,
    ) -> Hold:
        """Check funds and take a hold of at most `upper_bound_nano_usd` (> 0), in one step.

        The hold covers the bound, or all that is spendable in its currency: the first one of which
        `least_nano_usd` is spendable, for a smaller hold is of no use. Floor and refusals are those
        of `check_funds`. Raises ApiError also with UNKNOWN_ERROR if the store is broken: nothing
        may be dispatched that cannot be charged.
        """
        if upper_bound_nano_usd <= 0:
            raise ValueError("a request that costs nothing takes no hold")
        if not self._store.healthy:
            raise ApiError(ErrorCode.UNKNOWN_ERROR, reason="the store is broken")
        spendable = self.spendable(account_id, key_id, limits)
        if not admits(spendable.clamped, least_nano_usd, floor_nano_usd):
            raise ApiError(refusal(spendable, least_nano_usd, floor_nano_usd))
        return self._take(
            spendable,
            request_id=request_id,
            account_id=account_id,
            key_id=key_id,
            limits=limits,
            bound=upper_bound_nano_usd,
            least_nano_usd=least_nano_usd,
        )

    def balances(self, account_id: str) -> dict[Currency, int]:
        """What the account owns now, held funds included; for display, never for decisions."""
        funds = self._holdings.of_account(account_id, self._calendar.today())
        return {fund.currency: fund.balance for fund in funds.in_order}

    def allocation(self, account_id: str) -> int:
        """The account's DIEM per UTC day, in nano_usd."""
        return self._holdings.own(account_id).allocation

    def spent(self, key_id: str, period: LimitPeriod) -> dict[Currency, int]:
        """What a key has spent in the current window of `period`, as limits count it."""
        day = self._calendar.today()
        return {
            currency: self._holdings.of_key(key_id, currency, day).of(period).spent
            for currency in COUNTED_CURRENCIES
        }

    def today(self) -> str:
        """The current day window, such as `E:2026-11-23`."""
        return self._calendar.today()

    @property
    def open_holds(self) -> int:
        """How many requests hold funds now."""
        return len(self._open)

    # The end of requests

    def record_free(self, usage: Usage, beside: Beside = nothing_beside) -> Durability:
        """Meter a request whose price is 0, with what belongs to it."""
        return self._store.submit((usage_row(usage, None, 0, 0), *beside(0)))

    def sweep(self) -> int:
        """Void every hold that has outlived its time; returns how many. Call it now and then.

        Such a hold is a defect elsewhere (every request ends its own), so it frees the funds.
        """
        now = self._clock.monotonic()
        expired = []
        for hold in self._open.values():  # ordered by expiry: all holds live equally long
            if hold.expires_at > now:
                break
            expired.append(hold)
        for hold in expired:
            hold.void()
        return len(expired)

    def recover(self) -> Recovery:
        """Void the holds that a crashed process left: what it promised, it had charged before."""
        orphans, self._orphans = self._orphans, ()
        if not orphans:
            return Recovery(0, None)
        durable = self._store.submit([HoldClosed(hold.request_id) for hold in orphans])
        return Recovery(len(orphans), durable)

    # What operators do

    def credit(
        self, account_id: str, nano_usd: int, *, reason: str, currency: Currency = Currency.USD
    ) -> Durability:
        """Add USD or bundled credits to an account.

        Raises ValueError for an amount that is not positive, or that makes the balance too large.
        """
        if nano_usd <= 0:
            raise ValueError("a credit is more than 0; `traghetto ledger adjust` takes money away")
        fund = self._holdings.own(account_id).lasting(currency)
        return self._move(account_id, fund, nano_usd, EntryKind.CREDIT, FUNDING, reason)

    def adjust(
        self, account_id: str, currency: Currency, nano_usd: int, *, reason: str
    ) -> Durability:
        """Correct a balance, up or down. Raises ValueError: zero, or no such currency today."""
        if nano_usd == 0 or not reason:
            raise ValueError("an adjustment has an amount and a reason")
        funds = self._holdings.of_account(account_id, self._calendar.today())
        fund = funds.diem if currency is Currency.DIEM else funds.lasting(currency)
        if fund is None:
            raise ValueError("the account has no DIEM today")
        return self._move(account_id, fund, nano_usd, EntryKind.ADJUST, ADJUSTMENT, reason)

    def refund(self, charges: Sequence[Entry], *, reason: str) -> Durability:
        """Give back the charges of one request, to the funds and to the limit that paid them.

        The caller has made sure that `charges` are all of the request and were not refunded
        before; the journal refuses a second refund of a line. Raises ValueError if DIEM of a day
        that is over would be given back: they have lapsed (contract A.4).
        """
        day = self._calendar.today()
        for charge in charges:
            if charge.currency is Currency.DIEM and charge.window != day:
                raise ValueError("it was paid with the DIEM of a day that is over: they lapsed")
            _check_range(self._paid_from(charge, day).balance + sum(row.amount for row in charges))
        requests = {charge.request_id for charge in charges}
        if requests & self._refunding:
            raise ValueError("it is being refunded")
        now = self._calendar.now_ns()
        for charge in charges:
            self._paid_from(charge, day).balance += charge.amount
            if charge.key_id is not None:
                tallies = self._holdings.of_key(charge.key_id, charge.currency, day)
                tallies.give_back(charge.key_window, charge.amount)
        durable = self._store.submit([refund_entry(charge, now, reason) for charge in charges])
        self._refunding |= requests
        durable.add_done_callback(lambda _: self._refunding.difference_update(requests))
        return durable

    def check_allocation(self, nano_usd_per_day: int) -> None:
        """Raise ValueError unless it is 0, which ends an allocation, or at least 0.1 DIEM."""
        if nano_usd_per_day != 0 and nano_usd_per_day < DIEM_NANO_USD_MIN:
            raise ValueError("a DIEM allocation is 0 or at least 0.1")
        _check_range(nano_usd_per_day)

    def grant_diem(self, account_id: str, nano_usd_per_day: int) -> Durability:
        """Set the account's DIEM per UTC day. A rise applies today, a cut from the next day.

        Today's window is topped up to the new allocation: what it was granted before counts, so
        that cutting and restoring grants nothing twice. Raises ValueError as `check_allocation`
        does, and if the balance would be too large.
        """
        self.check_allocation(nano_usd_per_day)
        day = self._calendar.today()
        funds = self._holdings.of_account(account_id, day)
        diem = funds.diem
        rise = 0 if diem is None else max(0, nano_usd_per_day - diem.granted)
        if diem is not None:
            _check_range(diem.balance + rise)
        facts: list[Fact] = [AllocationSet(account_id, nano_usd_per_day)]
        funds.allocation = nano_usd_per_day
        if diem is None:
            funds.day = ""  # looked up anew on first use, which grants it
        elif rise:
            diem.balance += rise
            diem.granted += rise
            line = f"rise:{new_request_id()}"
            facts.append(diem_grant(account_id, day, rise, line, self._calendar.now_ns()))
        return self._store.submit(facts)

    # What a hold asks for (`HoldKeeper`)

    def write_hold(self, hold: Hold) -> Durability:
        """Submit the hold's row; once."""
        if hold.written is not None:
            return hold.written
        if hold.ended:
            raise HoldEnded(hold.request_id)
        opened = hold_row(hold, self._hold_seconds)
        hold.written = self._store.submit((opened,))
        return hold.written

    def extend_hold(self, hold: Hold, nano_usd: int) -> bool:
        """Grow an open hold, or refuse."""
        if hold.ended:
            raise HoldEnded(hold.request_id)
        if hold.exclusive_fund or hold.exclusive_limit:
            return True  # it may exceed its amount anyway
        if nano_usd > self._spare_beside(hold):
            return False
        self._change_held(hold, nano_usd)
        if hold.written is not None:
            self._store.submit((HoldExtended(hold.request_id, hold.amount_nano_usd),))
        return True

    def settle_hold(self, hold: Hold, charge: Charge, beside: Beside) -> Receipt:
        """Release the hold and charge what its request used, within the hold's bounds."""
        self._end(hold)
        priced = charge.total_nano_usd
        charged = min(priced, hold.amount_nano_usd)
        if priced > charged:
            charged += self._excess(hold, priced - charged)
        try:
            kept = list(beside(charged))
        except BaseException:  # nothing is charged that what belongs to it cannot be written with
            if hold.written is not None:
                self._store.submit((HoldClosed(hold.request_id),))
            raise
        hold.fund.balance -= charged
        for tally in hold.tallies:
            tally.spent += charged
        facts: list[Fact] = []
        if charged:
            lines = charge.lines if charged == priced else bounded(charge.lines, charged)
            now = self._calendar.now_ns()
            facts += charge_entries(hold, lines, charge.price_version, now)
        facts.append(usage_row(charge.usage, hold.fund.currency, priced, charged))
        if hold.written is not None:
            facts.append(HoldClosed(hold.request_id))
        return Receipt(charged, self._store.submit([*facts, *kept]))

    def void_hold(self, hold: Hold) -> Durability | None:
        """Release the hold without a charge."""
        self._end(hold)
        if hold.written is None:
            return None
        return self._store.submit((HoldClosed(hold.request_id),))

    # Leaves

    def _room(self, key_id: str, fund: Fund, limits: SpendLimits, day: str) -> int:
        """What the key's limit leaves of a currency; a very large number without a limit."""
        limit = limits.of(fund.currency)
        if limit is None:
            return NANO_USD_MAX
        return self._holdings.of_key(key_id, fund.currency, day).of(limits.period).spare(limit)

    def _take(
        self,
        spendable: Spendable,
        *,
        request_id: str,
        account_id: str,
        key_id: str,
        limits: SpendLimits,
        bound: int,
        least_nano_usd: int,
    ) -> Hold:
        """A hold on the first currency of which enough is spendable."""
        if request_id in self._open:
            raise ValueError("the request already holds funds")
        day = self._calendar.today()
        funds = self._holdings.of_account(account_id, day).in_order
        fund = next(f for f in funds if spendable.clamped[f.currency] >= least_nano_usd)
        currency = fund.currency
        tallies = self._holdings.of_key(key_id, currency, day)
        hold = Hold(
            self,
            request_id,
            account_id,
            key_id,
            fund,
            tallies,
            tallies.of(limits.period),
            limits.of(currency),
        )
        clamped = spendable.clamped[currency]
        if bound > clamped and self._may_overdraw:
            # The last funds: the request may exceed them, so nobody else is admitted to them.
            limit = hold.key_limit
            hold.exclusive_fund = clamped == fund.spare()
            hold.exclusive_limit = limit is not None and clamped == hold.limit_tally.spare(limit)
            fund.exclusive = hold.exclusive_fund
            hold.limit_tally.exclusive = hold.exclusive_limit
        hold.created_ns = self._calendar.now_ns()
        hold.expires_at = self._clock.monotonic() + self._hold_seconds
        self._change_held(hold, min(bound, clamped))
        self._open[request_id] = hold
        return hold

    def _change_held(self, hold: Hold, nano_usd: int) -> None:
        hold.amount_nano_usd += nano_usd
        hold.fund.held += nano_usd
        for tally in hold.tallies:
            tally.held += nano_usd

    def _end(self, hold: Hold) -> None:
        """The one transition of a hold; from here on its funds are free again."""
        if hold.ended:
            raise HoldEnded(hold.request_id)
        hold.ended = True
        del self._open[hold.request_id]
        hold.fund.held -= hold.amount_nano_usd
        for tally in hold.tallies:
            tally.held -= hold.amount_nano_usd
        if hold.exclusive_fund:
            hold.fund.exclusive = False
        if hold.exclusive_limit:
            hold.limit_tally.exclusive = False

    def _excess(self, hold: Hold, wanted: int) -> int:
        """How much of what was used above the hold may be charged."""
        if not (hold.exclusive_fund or hold.exclusive_limit):
            return 0
        # What did not bound the hold may still have room, beside what others hold of it.
        if not hold.exclusive_fund:
            wanted = min(wanted, hold.fund.spare() - hold.amount_nano_usd)
        if not hold.exclusive_limit and hold.key_limit is not None:
            spare = hold.limit_tally.spare(hold.key_limit)
            wanted = min(wanted, spare - hold.amount_nano_usd)
        return max(0, wanted)

    def _spare_beside(self, hold: Hold) -> int:
        """What an open hold could still take."""
        spare = hold.fund.spare()
        if hold.key_limit is not None:
            spare = min(spare, hold.limit_tally.spare(hold.key_limit))
        return spare

    def _paid_from(self, charge: Entry, day: str) -> Fund:
        """The fund that a charge of this day, or in a currency that does not lapse, came from."""
        fund = self._holdings.of_account(charge.account_id, day).find(charge.currency)
        assert fund is not None, "a charge was paid from a fund"
        return fund

    def _move(
        self, account_id: str, fund: Fund, nano_usd: int, kind: EntryKind, other: str, reason: str
    ) -> Durability:
        """One entry between funds and `other`; positive amounts go to the customer."""
        _check_range(fund.balance + nano_usd)
        fund.balance += nano_usd
        now = self._calendar.now_ns()
        entry = movement(account_id, fund, nano_usd, kind, other, reason, now)
        return self._store.submit((entry,))


def _check_range(balance: int) -> None:
    if abs(balance) > NANO_USD_MAX:
        raise ValueError(f"a balance is at most {NANO_USD_MAX // NANO_PER_USD} USD")
