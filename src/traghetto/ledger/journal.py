"""How decisions are written down: entries, usage records and hold rows."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from traghetto.ids import new_request_id
from traghetto.ledger.charges import ChargeLine, Usage
from traghetto.ledger.funds import Fund
from traghetto.ledger.hold import Hold
from traghetto.money import Currency
from traghetto.storage.facts import (
    DIEM_GRANT,
    FUNDS,
    REVENUE,
    Entry,
    EntryKind,
    HoldOpened,
    UsageRecorded,
)


def hold_row(hold: Hold, hold_seconds: int) -> HoldOpened:
    """An open hold, as it is now."""
    return HoldOpened(
        hold.request_id,
        hold.account_id,
        hold.key_id,
        hold.fund.currency,
        hold.fund.window,
        hold.key_window,
        hold.amount_nano_usd,
        hold.created_ns,
        hold.created_ns + hold_seconds * 1_000_000_000,
    )


def charge_entries(
    hold: Hold, lines: Iterable[ChargeLine], price_version: str, created_ns: int
) -> list[Entry]:
    """One entry per line that costs anything, from the customer's funds to revenue."""
    fund = hold.fund
    return [
        Entry(
            hold.request_id,
            EntryKind.CHARGE,
            line.kind,
            hold.account_id,
            FUNDS,
            REVENUE,
            fund.currency,
            fund.window,
            line.amount_nano_usd,
            line.units,
            hold.key_id,
            hold.key_window,
            price_version,
            created_ns,
            "",
        )
        for line in lines
        if line.amount_nano_usd
    ]


def refund_entry(charge: Entry, created_ns: int, reason: str) -> Entry:
    """The entry that gives `charge` back: its mirror, unique by the request and line it names."""
    return msgspec.structs.replace(
        charge,
        kind=EntryKind.REFUND,
        debit=charge.credit,
        credit=charge.debit,
        created_ns=created_ns,
        reason=reason,
    )


def usage_row(usage: Usage, currency: Currency | None, priced: int, charged: int) -> UsageRecorded:
    """What a request used and cost; `currency` is None for one that has no price."""
    return UsageRecorded(
        usage.request_id,
        usage.account_id,
        usage.key_id,
        usage.model,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        usage.basis,
        usage.streamed,
        currency,
        priced,
        charged,
        usage.created_ns,
        usage.duration_ms,
    )


def movement(
    account_id: str,
    fund: Fund,
    nano_usd: int,
    kind: EntryKind,
    other: str,
    reason: str,
    created_ns: int,
) -> Entry:
    """An operator's entry between funds and `other`; positive amounts go to the customer."""
    debit, credit = (other, FUNDS) if nano_usd > 0 else (FUNDS, other)
    return Entry(
        request_id=new_request_id(),
        kind=kind,
        line="",
        account_id=account_id,
        debit=debit,
        credit=credit,
        currency=fund.currency,
        window=fund.window,
        amount=abs(nano_usd),
        units=0,
        key_id=None,
        key_window="",
        price_version="",
        created_ns=created_ns,
        reason=reason,
    )


def diem_grant(account_id: str, day: str, amount: int, line: str, created_ns: int) -> Entry:
    """The entry that puts DIEM into a day's window; `line` makes it unique within that day."""
    return Entry(
        request_id=f"grant:{account_id}:{day}",
        kind=EntryKind.DIEM_GRANT,
        line=line,
        account_id=account_id,
        debit=DIEM_GRANT,
        credit=FUNDS,
        currency=Currency.DIEM,
        window=day,
        amount=amount,
        units=0,
        key_id=None,
        key_window="",
        price_version="",
        created_ns=created_ns,
        reason="",
    )
