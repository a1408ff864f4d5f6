"""Accounts and API keys as values. A change makes a new value; stages keep the one they read."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

from traghetto.money import NANO_USD_MAX, SpendLimits
from traghetto.storage.facts import AccountSaved, KeySaved

Tier = Literal["standard", "partner"]
"""Which table of rate limits applies (contract C.3)."""


class KeyKind(enum.StrEnum):
    """What a key may do: inference only, or everything (contract C.2)."""

    INFERENCE = "INFERENCE"
    ADMIN = "ADMIN"


class ModelPrivacy(enum.StrEnum):
    """Which models a key may use (contract C.2)."""

    ALL = "ALL"
    PRIVATE_TEXT = "PRIVATE_TEXT"
    PRIVATE_ONLY = "PRIVATE_ONLY"


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays. `features` are entitlements that models may ask for."""

    id: str
    name: str
    is_pro: bool
    subscription_required: bool
    subscription_active: bool
    disabled: bool
    tier: Tier
    features: frozenset[str]
    created_ns: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of an account; the key itself is known to its owner only."""

    id: str
    account_id: str
    kind: KeyKind
    description: str
    last_six: str
    limits: SpendLimits
    model_privacy: ModelPrivacy
    expires_at_ns: int | None
    openai_errors: bool
    digest: bytes
    created_ns: int
    revoked: bool


def account_row(account: Account) -> AccountSaved:
    """What the store keeps of an account."""
    return AccountSaved(
        account.id,
        account.name,
        account.is_pro,
        account.subscription_required,
        account.subscription_active,
        account.disabled,
        account.tier,
        tuple(sorted(account.features)),
        account.created_ns,
    )


def account_of(row: AccountSaved) -> Account:
    """The account that a row describes."""
    return Account(
        id=row.id,
        name=row.name,
        is_pro=row.is_pro,
        subscription_required=row.subscription_required,
        subscription_active=row.subscription_active,
        disabled=row.disabled,
        tier="partner" if row.tier == "partner" else "standard",
        features=frozenset(row.features),
        created_ns=row.created_ns,
    )


def key_row(key: ApiKey) -> KeySaved:
    """What the store keeps of a key."""
    usd, usd_rest = _split(key.limits.usd_nano_usd)
    diem, diem_rest = _split(key.limits.diem_nano_usd)
    return KeySaved(
        key.id,
        key.account_id,
        key.kind.value,
        key.description,
        key.last_six,
        usd,
        diem,
        key.limits.period,
        key.model_privacy.value,
        key.expires_at_ns,
        key.openai_errors,
        key.digest,
        key.created_ns,
        key.revoked,
        usd_rest,
        diem_rest,
    )


def key_of(row: KeySaved) -> ApiKey:
    """The key that a row describes."""
    return ApiKey(
        id=row.id,
        account_id=row.account_id,
        kind=KeyKind(row.kind),
        description=row.description,
        last_six=row.last_six,
        limits=SpendLimits(
            None if row.diem_limit is None else row.diem_limit + row.diem_limit_rest,
            None if row.usd_limit is None else row.usd_limit + row.usd_limit_rest,
            row.period,
        ),
        model_privacy=ModelPrivacy(row.model_privacy),
        expires_at_ns=row.expires_ns,
        openai_errors=row.openai_errors,
        digest=row.digest,
        created_ns=row.created_ns,
        revoked=row.revoked,
    )


def _split(limit: int | None) -> tuple[int | None, int]:
    """A limit as what a column holds of it, and the rest."""
    if limit is None:
        return None, 0
    return min(limit, NANO_USD_MAX), max(0, limit - NANO_USD_MAX)
