"""The facts that are written: what the ledger and the directory decided, one value per row.

They are encoded as JSON arrays, so the order of fields is the order of the columns in
`queries/write.sql`. Amounts are nano_usd, times are UTC nanoseconds. A `window` is `E:2026-11-23`
for a DIEM allocation and empty for other currencies; a `key_window` is the UTC day in which a
key's spending counts, from which its month and its lifetime are summed.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from traghetto.money import Currency, LimitPeriod

FUNDS: Final = "funds"
"""What a customer account owns; every entry has it on exactly one side."""
REVENUE: Final = "revenue"
FUNDING: Final = "funding"
DIEM_GRANT: Final = "diem_grant"
ADJUSTMENT: Final = "adjustment"

GRANT_LINE: Final = "allocation"
"""The line of the one entry that opens a DIEM window."""


class EntryKind(enum.StrEnum):
    """Why money moved."""

    CHARGE = "charge"
    REFUND = "refund"
    """Gives a charge back: it has the request id and the line of the charge, so it is unique."""
    CREDIT = "credit"
    DIEM_GRANT = "diem_grant"
    ADJUST = "adjust"


class Basis(enum.StrEnum):
    """Where the token counts of a charge come from."""

    BACKEND = "backend"
    COUNTED = "counted"
    NONE = "none"


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One movement of money, from `debit` to `credit`; never changed and never deleted."""

    @property
    def into_funds(self) -> int:
        """What the customer's funds gain by it; negative for what they lose."""
        return self.amount if self.credit == FUNDS else -self.amount

    @property
    def key_spending(self) -> int:
        """What it adds to the spending of its key: charges do, and refunds take it away."""
        if self.key_id is None:
            return 0
        return self.amount if self.kind is EntryKind.CHARGE else -self.amount

    request_id: str
    kind: EntryKind
    line: str
    account_id: str
    debit: str
    credit: str
    currency: Currency
    window: str
    amount: int
    units: int
    key_id: str | None
    key_window: str
    price_version: str
    created_ns: int
    reason: str


class UsageRecorded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one request used; `charged` is the sum of its charge entries.

    `priced` is what the price list asked for; it is higher when a hold bounded the charge.
    `duration_ms` is the time from its admission to its charge; None in records of older versions.
    """

    request_id: str
    account_id: str
    key_id: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    basis: Basis
    streamed: bool
    currency: Currency | None
    priced: int
    charged: int
    created_ns: int
    duration_ms: int | None


class HoldOpened(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Funds set aside for a request whose answer may start before it is charged."""

    request_id: str
    account_id: str
    key_id: str
    currency: Currency
    window: str
    key_window: str
    amount: int
    created_ns: int
    expires_ns: int


class HoldExtended(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An open hold now covers `amount`."""

    request_id: str
    amount: int


class HoldClosed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A hold ended, by a charge or without one."""

    request_id: str


class AllocationSet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How much DIEM an account is granted per UTC day; 0 ends it."""

    account_id: str
    amount: int


class AccountSaved(msgspec.Struct, frozen=True, array_like=True):
    """An account as it is from now on."""

    id: str
    name: str
    is_pro: bool
    subscription_required: bool
    subscription_active: bool
    disabled: bool
    tier: str
    features: tuple[str, ...]
    created_ns: int


class KeySaved(msgspec.Struct, frozen=True, array_like=True):
    """An API key as it is from now on; the key itself is never stored, only its digest.

    What a limit has above the largest amount of a column is in its `rest`.
    """

    id: str
    account_id: str
    kind: str
    description: str
    last_six: str
    usd_limit: int | None
    diem_limit: int | None
    period: LimitPeriod
    model_privacy: str
    expires_ns: int | None
    openai_errors: bool
    digest: bytes
    created_ns: int
    revoked: bool
    usd_limit_rest: int = 0
    diem_limit_rest: int = 0


class KeyUsed(msgspec.Struct, frozen=True, array_like=True):
    """When a key was last presented."""

    key_id: str
    used_ns: int


class AnswerKept(msgspec.Struct, frozen=True, array_like=True):
    """An answer that the same request is given again, until it expires.

    `handle` and `fingerprint` (of the request) are 32 bytes each, `sealed` is the encrypted answer;
    None stands for an answer that was too large to keep.
    """

    handle: bytes
    key_id: str
    fingerprint: bytes
    sealed: bytes | None
    expires_ns: int


class AnswersExpired(msgspec.Struct, frozen=True, array_like=True):
    """Of the kept answers that expire at `now_ns` or before, `rows_max` are forgotten."""

    now_ns: int
    rows_max: int


class PepperProved(msgspec.Struct, frozen=True, array_like=True):
    """What tells from now on whether a pepper is the one that the key digests were made with."""

    proof: bytes


Fact = (
    Entry
    | UsageRecorded
    | HoldOpened
    | HoldExtended
    | HoldClosed
    | AllocationSet
    | AccountSaved
    | KeySaved
    | KeyUsed
    | AnswerKept
    | AnswersExpired
    | PepperProved
)


class BalanceRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an account owns in one currency and window; may be slightly negative."""

    account_id: str
    currency: Currency
    window: str
    amount: int


class GrantedRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an account's DIEM window was granted so far: the sum of its grant entries."""

    account_id: str
    window: str
    amount: int


class KeySpendRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a key spent in one currency on one UTC day (`window`), or, summed, for ever (empty).

    It counts as limits do (`Currency.counted_as`), so there is no row of bundled credits.
    """

    key_id: str
    currency: Currency
    window: str
    spent: int


class KeptBytes(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The kept answers of an account that expire within one hour (since 1970, UTC)."""

    hour: int
    account_id: str
    bytes: int
    rows: int


class StoredState(msgspec.Struct, frozen=True):
    """What a gateway needs to start deciding, read once at boot.

    `balances` holds the DIEM windows from the requested day on and every other currency, `grants`
    the same windows;
    `key_spends` the days from the first of its month on; `key_lifetimes` the sums over all days.
    """

    day: str
    """The day window it was requested for: what came before it is not here."""
    accounts: tuple[AccountSaved, ...] = ()
    keys: tuple[KeySaved, ...] = ()
    allocations: tuple[AllocationSet, ...] = ()
    balances: tuple[BalanceRow, ...] = ()
    grants: tuple[GrantedRow, ...] = ()
    key_spends: tuple[KeySpendRow, ...] = ()
    key_lifetimes: tuple[KeySpendRow, ...] = ()
    holds: tuple[HoldOpened, ...] = ()
    key_uses: tuple[KeyUsed, ...] = ()
    kept_bytes: tuple[KeptBytes, ...] = ()
    pepper_proof: bytes | None = None
    """None until the first pepper was used."""
