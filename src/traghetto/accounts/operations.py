"""Arguments and results of the operators' operations: what travels over the control socket.

Money is written as decimal text, as a person writes it (`"12.5"`), so that no float can touch it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from traghetto.accounts.values import KeyKind, ModelPrivacy, Tier
from traghetto.money import Currency, LimitPeriod

_PRINTABLE = r"\A[^\x00-\x1f\x7f\ud800-\udfff]*\Z"
"""Text that survives the books and a terminal."""
_NOT_BLANK = rf"(?=.*\S){_PRINTABLE}"

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=_PRINTABLE)]
NewName = Annotated[str, Meta(max_length=128, pattern=_NOT_BLANK)]
Text = Annotated[str, Meta(max_length=1024, pattern=_PRINTABLE)]
Reason = Annotated[str, Meta(max_length=1024, pattern=_NOT_BLANK)]
Instant = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""UTC nanoseconds, as far as a 64-bit column reaches (the year 2262)."""

Money = Annotated[str, Meta(max_length=32)]
Subscription = Literal["none", "inactive", "active"]
"""`none`: pays per use; `inactive`: needs a subscription and has none; `active`: has one."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all arguments: unknown ones are refused, never ignored."""


class CreateAccount(Arguments, frozen=True, kw_only=True):
    """Register an account."""

    name: NewName
    usd: Money | None = None
    bundled: Money | None = None
    diem: Money | None = None
    pro: bool = False
    subscription: Subscription = "none"
    disabled: bool = False
    tier: Tier = "standard"
    features: tuple[Name, ...] = ()


class CreditAccount(Arguments, frozen=True, kw_only=True):
    """Add to an account: exactly one of `usd` and `bundled`."""

    account: Name
    usd: Money | None = None
    bundled: Money | None = None
    reason: Text = "credit"

    @property
    def amount(self) -> tuple[Currency, str]:
        """What to add, and in which currency."""
        return _one_of({Currency.USD: self.usd, Currency.BUNDLED_CREDITS: self.bundled})

    def __post_init__(self) -> None:
        _ = self.amount


class AdjustBalance(Arguments, frozen=True, kw_only=True):
    """Correct a balance; exactly one of `usd`, `bundled` and `diem`, which may be negative."""

    account: Name
    usd: Money | None = None
    bundled: Money | None = None
    diem: Money | None = None
    reason: Reason

    @property
    def amount(self) -> tuple[Currency, str]:
        """What to move, and in which currency."""
        return _one_of(
            {
                Currency.USD: self.usd,
                Currency.BUNDLED_CREDITS: self.bundled,
                Currency.DIEM: self.diem,
            }
        )

    def __post_init__(self) -> None:
        _ = self.amount


class RefundRequest(Arguments, frozen=True, kw_only=True):
    """Give back what a request was charged."""

    request: Name
    reason: Reason


class SetAccount(Arguments, frozen=True, kw_only=True):
    """Change an account; what is absent stays. `diem` is the allocation per UTC day."""

    account: Name
    diem: Money | None = None
    pro: bool | None = None
    subscription: Subscription | None = None
    disabled: bool | None = None
    tier: Tier | None = None
    features: tuple[Name, ...] | None = None


class ShowAccount(Arguments, frozen=True, kw_only=True):
    """Name an account."""

    account: Name


class ListAccounts(Arguments, frozen=True, kw_only=True):
    """All of them."""


class CreateKey(Arguments, frozen=True, kw_only=True):
    """Make an API key; limits apply per `period`."""

    account: Name = "default"
    admin: bool = False
    description: Text = ""
    limit_usd: Money | None = None
    limit_diem: Money | None = None
    period: LimitPeriod = LimitPeriod.EPOCH
    privacy: ModelPrivacy = ModelPrivacy.ALL
    expires_at_ns: Instant | None = None
    openai_errors: bool = False


NO_LIMIT: Final = "none"
"""What lifts a limit, where leaving it out means that it stays."""


class LimitKey(Arguments, frozen=True, kw_only=True):
    """Change the limits of a key; what is absent stays, `NO_LIMIT` lifts."""

    key: Name
    limit_usd: Money | None = None
    limit_diem: Money | None = None
    period: LimitPeriod | None = None


class RevokeKey(Arguments, frozen=True, kw_only=True):
    """End a key."""

    key: Name


class ListKeys(Arguments, frozen=True, kw_only=True):
    """The keys of one account, or all."""

    account: Name | None = None


class AccountShown(msgspec.Struct, frozen=True, kw_only=True):
    """An account, as operators see it; amounts are decimal numbers in text."""

    id: str
    name: str
    usd: str
    bundled: str | None
    """None if it never had any."""
    diem: str | None
    """What is left of today; None without an allocation."""
    diem_per_day: str
    pro: bool
    subscription: Subscription
    disabled: bool
    tier: Tier
    features: tuple[str, ...]
    created_at: str


class AccountsShown(msgspec.Struct, frozen=True):
    """Accounts, oldest first."""

    accounts: tuple[AccountShown, ...]


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """A key, as operators see it; spending is that of the current period."""

    id: str
    account: str
    kind: KeyKind
    description: str
    last_six: str
    limit_usd: str | None
    limit_diem: str | None
    period: LimitPeriod
    spent_usd: str
    spent_diem: str
    privacy: ModelPrivacy
    openai_errors: bool
    expires_at: str | None
    expired: bool
    created_at: str


class KeyCreated(msgspec.Struct, frozen=True):
    """A new key and its secret, which is never shown again."""

    key: KeyShown
    secret: str


class KeysShown(msgspec.Struct, frozen=True):
    """Keys that were not revoked, oldest first."""

    keys: tuple[KeyShown, ...]


class Refunded(msgspec.Struct, frozen=True, kw_only=True):
    """What a refund gave back."""

    request: str
    account: str
    currency: Currency
    amount: str


class KeyRevoked(msgspec.Struct, frozen=True):
    """The key that ended."""

    id: str


def _one_of(amounts: Mapping[Currency, str | None]) -> tuple[Currency, str]:
    """The one amount that is given; raises ValueError if it is not one."""
    given = [(currency, amount) for currency, amount in amounts.items() if amount is not None]
    if len(given) != 1:
        raise ValueError("exactly one amount is given: in USD, bundled credits or DIEM")
    return given[0]
