"""Proof of the books: every derived number, recomputed from the journal.

It reads one snapshot, trusts nothing but the entries, and mends nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from traghetto.ledger.charges import price_of
from traghetto.storage.connector import Snapshot
from traghetto.storage.facts import DIEM_GRANT, GRANT_LINE, Entry, EntryKind


@dataclass(frozen=True, slots=True)
class Difference:
    """A number that the journal does not explain; amounts in nano_usd."""

    where: str
    stored: int
    recomputed: int

    def __str__(self) -> str:
        return f"{self.where}: the books say {self.stored}, the entries {self.recomputed}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read, and every difference found."""

    entries: int
    refunds: int
    usages: int
    balances: int
    key_spends: int
    open_holds: int
    differences: tuple[Difference, ...]


def verify(snapshot: Snapshot) -> Verification:
    """Recompute every balance, key counter, charge and hold of `snapshot`.

    A charge is its units at the price that stands beside it; less only where a hold bounded it.
    """
    funds: defaultdict[str, int] = defaultdict(int)
    spends: defaultdict[str, int] = defaultdict(int)
    charged: defaultdict[str, int] = defaultdict(int)
    grants: defaultdict[str, int] = defaultdict(int)
    refunds: dict[tuple[str, str], Entry] = {}
    refunded: dict[tuple[str, str], Entry] = {}
    off_price: list[tuple[Entry, int]] = []
    """Charges of another amount than their units cost by the prices beside them."""
    entries = 0
    for entry in snapshot.entries():
        entries += 1
        funds[_balance(entry.account_id, entry.currency, entry.window)] += entry.into_funds
        if entry.key_id is not None:
            spent = _spend(entry.key_id, entry.currency.counted_as, entry.key_window)
            spends[spent] += entry.key_spending
        if entry.kind is EntryKind.CHARGE:
            charged[entry.request_id] += entry.amount
            price = price_of(entry.price_version, entry.line)
            if price is not None and entry.amount != (worth := price.times(entry.units)):
                off_price.append((entry, worth))
        elif entry.kind is EntryKind.REFUND:
            refunds[entry.request_id, entry.line] = entry
        elif entry.debit == DIEM_GRANT and entry.line == GRANT_LINE:
            grants[f"grants of {entry.account_id} in {entry.window}"] += 1
    if refunds:  # a second reading, so that the charges of all time need not fit into memory
        refunded = {
            (entry.request_id, entry.line): entry
            for entry in snapshot.entries()
            if entry.kind is EntryKind.CHARGE and (entry.request_id, entry.line) in refunds
        }
    balances = {
        _balance(row.account_id, row.currency, row.window): row.amount
        for row in snapshot.balances()
    }
    counters = {
        _spend(row.key_id, row.currency, row.window): row.spent for row in snapshot.key_spends()
    }
    usages, bounded = {}, set()
    for row in snapshot.usages():
        usages[row.request_id] = row.charged
        if row.charged < row.priced:
            bounded.add(row.request_id)
    holds = [hold.request_id for hold in snapshot.holds()]
    differences = [
        *_compare(balances, funds),
        *_compare(counters, spends),
        *_compare(
            {f"charge of request {request}": amount for request, amount in usages.items()},
            {f"charge of request {request}": amount for request, amount in charged.items()},
        ),
        *_compare(
            {_refund(row): row.amount for row in refunds.values()},
            {
                _refund(row): row.amount
                for identity, row in refunds.items()
                if identity in refunded and _mirrors(row, refunded[identity])
            },
        ),
        *(
            Difference(
                f"charge of request {entry.request_id}, line {entry.line}", entry.amount, worth
            )
            for entry, worth in off_price
            if entry.amount > worth or entry.request_id not in bounded
        ),
        *(Difference(name, count, 1) for name, count in grants.items() if count != 1),
        *(
            Difference(f"hold of request {request}, which has ended", 1, 0)
            for request in holds
            if request in usages
        ),
    ]
    return Verification(
        entries,
        len(refunds),
        len(usages),
        len(balances),
        len(counters),
        len(holds),
        tuple(differences),
    )


def _mirrors(refund: Entry, charge: Entry) -> bool:
    """Whether a refund gives back what its charge took, to those it was taken from."""
    return (refund.amount, refund.account_id, refund.currency, refund.window, refund.key_id) == (
        charge.amount,
        charge.account_id,
        charge.currency,
        charge.window,
        charge.key_id,
    ) and refund.key_window == charge.key_window


def _refund(entry: Entry) -> str:
    return f"refund of request {entry.request_id}, line {entry.line}"


def _balance(account_id: str, currency: str, window: str) -> str:
    return f"balance of account {account_id} in {currency} {window}".rstrip()


def _spend(key_id: str, currency: str, window: str) -> str:
    return f"spending of key {key_id} in {currency} {window}"


def _compare(stored: dict[str, int], recomputed: dict[str, int]) -> Iterator[Difference]:
    """Differences between the two, whichever of them lacks a number (which then counts as 0)."""
    for where in sorted(stored.keys() | recomputed.keys()):
        kept, expected = stored.get(where, 0), recomputed.get(where, 0)
        if kept != expected:
            yield Difference(where, kept, expected)
