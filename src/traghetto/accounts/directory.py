"""The directory: every account and key, in memory, written down on every change.

Invariants: a presented key reaches a look-up only if it is well formed, and only as a digest; a
change takes effect at once, before it is durable, so that a revoked key is dead immediately.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from traghetto.accounts.values import (
    Account,
    ApiKey,
    KeyKind,
    ModelPrivacy,
    account_of,
    account_row,
    key_of,
    key_row,
)
from traghetto.clock import Clock
from traghetto.ids import (
    ADMIN_KEY_PREFIX,
    INFERENCE_KEY_PREFIX,
    is_well_formed_key,
    key_digester,
    new_api_key,
    new_record_id,
)
from traghetto.money import SpendLimits
from traghetto.storage.connector import Store
from traghetto.storage.facts import KeyUsed, StoredState

_PREFIXES = {KeyKind.INFERENCE: INFERENCE_KEY_PREFIX, KeyKind.ADMIN: ADMIN_KEY_PREFIX}
_NO_LIMITS = SpendLimits()
USE_WRITTEN_NS: Final = 60 * 1_000_000_000
"""How often the use of a key is written down at most; memory knows it exactly."""


class DirectoryRefusal(ValueError):
    """A change that makes no sense; the message is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A fresh key. `secret` is shown once and exists nowhere else."""

    key: ApiKey
    secret: str
    durable: asyncio.Future[None]


class Directory:
    """Accounts and keys; one per process."""

    def __init__(self, store: Store, clock: Clock, pepper: bytes, state: StoredState) -> None:
        self._store = store
        self._clock = clock
        self._digest = key_digester(pepper)
        self._accounts = {row.id: account_of(row) for row in state.accounts}
        self._by_name = {account.name: account.id for account in self._accounts.values()}
        self._keys = {row.id: key_of(row) for row in state.keys}
        self._by_digest = {key.digest: key.id for key in self._keys.values() if not key.revoked}
        self._of_account: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for key in self._keys.values():
            if not key.revoked:
                self._of_account[key.account_id][key.id] = None
        self._used = {row.key_id: row.used_ns for row in state.key_uses}
        self._use_written = dict(self._used)

    def authenticate(self, presented: str) -> tuple[ApiKey, Account] | None:
        """The key and account that `presented` belongs to; None if it is not valid now."""
        if not is_well_formed_key(presented):
            return None
        digest = self._digest(presented)
        key_id = self._by_digest.get(digest)
        if key_id is None:
            return None
        key = self._keys[key_id]
        now = self._clock.utc_ns()
        if not hmac.compare_digest(key.digest, digest) or _is_over(key, now):
            return None
        self._used[key_id] = now
        if now - self._use_written.get(key_id, 0) >= USE_WRITTEN_NS:
            self._use_written[key_id] = now
            self._store.submit((KeyUsed(key_id, now),))
        return key, self._accounts[key.account_id]

    def is_expired(self, key: ApiKey) -> bool:
        """Whether the key's time is over."""
        return _is_over(key, self._clock.utc_ns())

    def sign(self, text: str) -> bytes:
        """A signature (32 bytes) that only whoever has the pepper can make or check.

        `text` must not be well formed as a key, whose digest it would be.
        """
        return self._digest(text)

    def last_used_ns(self, key_id: str) -> int | None:
        """When a key was last presented, in UTC nanoseconds; None if it never was."""
        return self._used.get(key_id)

    def account_count(self) -> int:
        """How many accounts there are."""
        return len(self._accounts)

    @property
    def has_had_admin_key(self) -> bool:
        """Whether an ADMIN key was ever made, revoked ones included."""
        return any(key.kind is KeyKind.ADMIN for key in self._keys.values())

    def accounts(self) -> Iterable[Account]:
        """Every account, oldest first."""
        return self._accounts.values()

    def keys(self, account_id: str | None = None) -> list[ApiKey]:
        """Keys that were not revoked, oldest first; of one account, or of all."""
        if account_id is not None:
            return [self._keys[key_id] for key_id in self._of_account.get(account_id, ())]
        return [key for key in self._keys.values() if not key.revoked]

    def active_keys(self, account_id: str) -> list[ApiKey]:
        """The keys of an account that work now, oldest first."""
        now = self._clock.utc_ns()
        return [key for key in self.keys(account_id) if not _is_over(key, now)]

    def key_label(self, key_id: str) -> tuple[str, str]:
        """The description and the last six characters of a key, revoked or not."""
        key = self._keys[key_id]
        return key.description, key.last_six

    def find_active_key(self, account_id: str, key_id: str) -> ApiKey | None:
        """A key of this account that works now; somebody else's is as good as none."""
        key = self._keys.get(key_id)
        if key is None or key.account_id != account_id or key.revoked or self.is_expired(key):
            return None
        return key

    def find_account(self, name_or_id: str) -> Account | None:
        """An account by its name or id; None if there is none."""
        return self._accounts.get(self._by_name.get(name_or_id, name_or_id))

    def account(self, name_or_id: str) -> Account:
        """An account by its name or id. Raises DirectoryRefusal."""
        account = self.find_account(name_or_id)
        if account is None:
            raise DirectoryRefusal(
                f"there is no account {name_or_id!r}: `traghetto accounts list` shows them all"
            )
        return account

    def key(self, key_id: str) -> ApiKey:
        """A key that was not revoked, by its id. Raises DirectoryRefusal."""
        key = self._keys.get(key_id)
        if key is None or key.revoked:
            raise DirectoryRefusal(
                f"there is no key {key_id!r}, or it was revoked: `traghetto keys list` shows those "
                "that there are"
            )
        return key

    def create_account(self, name: str) -> tuple[Account, asyncio.Future[None]]:
        """A new account, without entitlements. Raises DirectoryRefusal if the name is taken."""
        if not name:
            raise DirectoryRefusal("an account needs a name")
        if name in self._by_name or name in self._accounts:
            raise DirectoryRefusal(
                f"there is an account {name!r}: choose another name, or add to it with "
                "`traghetto accounts credit`"
            )
        account = Account(
            id=new_record_id(),
            name=name,
            is_pro=False,
            subscription_required=False,
            subscription_active=False,
            disabled=False,
            tier="standard",
            features=frozenset(),
            created_ns=self._clock.utc_ns(),
        )
        self._by_name[name] = account.id
        return account, self.save_account(account)

    def save_account(self, account: Account) -> asyncio.Future[None]:
        """Replace what is known of an account (its name and id stay)."""
        self._accounts[account.id] = account
        return self._store.submit((account_row(account),))

    def create_key(
        self,
        account_id: str,
        kind: KeyKind,
        *,
        description: str = "",
        limits: SpendLimits = _NO_LIMITS,
        model_privacy: ModelPrivacy = ModelPrivacy.ALL,
        expires_at_ns: int | None = None,
        openai_errors: bool = False,
    ) -> NewKey:
        """A new key of an existing account. Raises DirectoryRefusal if it has expired already."""
        if expires_at_ns is not None and expires_at_ns <= self._clock.utc_ns():
            raise DirectoryRefusal("a key expires in the future: choose a later time (UTC)")
        secret = new_api_key(_PREFIXES[kind])
        key = ApiKey(
            id=new_record_id(),
            account_id=self._accounts[account_id].id,
            kind=kind,
            description=description,
            last_six=secret[-6:],
            limits=limits,
            model_privacy=model_privacy,
            expires_at_ns=expires_at_ns,
            openai_errors=openai_errors,
            digest=self._digest(secret),
            created_ns=self._clock.utc_ns(),
            revoked=False,
        )
        self._by_digest[key.digest] = key.id
        self._of_account[account_id][key.id] = None
        return NewKey(key, secret, self.save_key(key))

    def save_key(self, key: ApiKey) -> asyncio.Future[None]:
        """Replace what is known of a key (its secret stays)."""
        self._keys[key.id] = key
        return self._store.submit((key_row(key),))

    def revoke_key(self, key_id: str) -> asyncio.Future[None]:
        """End a key for good, from this moment. Raises DirectoryRefusal."""
        key = self.key(key_id)
        self._by_digest.pop(key.digest, None)
        self._of_account[key.account_id].pop(key.id, None)
        return self.save_key(replace(key, revoked=True))


def _is_over(key: ApiKey, now_ns: int) -> bool:
    return key.expires_at_ns is not None and key.expires_at_ns <= now_ns
