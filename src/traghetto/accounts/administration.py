"""The operators' operations, as one table: the control socket and the command line both read it.

Invariants: an operation is answered after what it changed is durable; a refusal changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import msgspec

from traghetto.accounts.directory import Directory, NewKey
from traghetto.accounts.operations import (
    NO_LIMIT,
    AccountShown,
    AccountsShown,
    AdjustBalance,
    Arguments,
    CreateAccount,
    CreateKey,
    CreditAccount,
    KeyCreated,
    KeyRevoked,
    KeyShown,
    KeysShown,
    LimitKey,
    ListAccounts,
    ListKeys,
    Refunded,
    RefundRequest,
    RevokeKey,
    SetAccount,
    ShowAccount,
    Subscription,
)
from traghetto.accounts.values import Account, ApiKey, KeyKind
from traghetto.clock import iso8601
from traghetto.money import (
    LIMIT_NANO_USD_MAX,
    NANO_USD_MAX,
    Currency,
    LimitPeriod,
    SpendLimits,
    format_usd,
    parse_usd,
)
from traghetto.storage.facts import Entry, EntryKind
from traghetto.storage.reports import ReportTimeout

FIRST_ACCOUNT: Final = "default"
COMPLETION_PREFIX: Final = "chatcmpl-"
"""What stands before the id of a request where it is the id of its answer."""


class Books(Protocol):
    """What administration asks of the ledger; amounts are nano_usd.

    The first five raise ValueError, with a sentence, for a refused amount.
    """

    def credit(
        self, account_id: str, nano_usd: int, *, reason: str, currency: Currency = Currency.USD
    ) -> asyncio.Future[None]: ...
    def adjust(
        self, account_id: str, currency: Currency, nano_usd: int, *, reason: str
    ) -> asyncio.Future[None]: ...
    def refund(self, charges: Sequence[Entry], *, reason: str) -> asyncio.Future[None]: ...
    def check_allocation(self, nano_usd_per_day: int) -> None: ...
    def grant_diem(self, account_id: str, nano_usd_per_day: int) -> asyncio.Future[None]: ...
    def balances(self, account_id: str) -> dict[Currency, int]: ...
    def allocation(self, account_id: str) -> int: ...
    def spent(self, key_id: str, period: LimitPeriod) -> dict[Currency, int]: ...


class Journal(Protocol):
    """Where administration finds what a request was charged."""

    async def request_entries(self, request_id: str) -> list[Entry]: ...


class OperationRefused(Exception):
    """An operation was not carried out; the message is a sentence that says why."""


class Administration:
    """Carries out operations on the directory and the books."""

    def __init__(self, directory: Directory, books: Books, journal: Journal) -> None:
        self._directory = directory
        self._books = books
        self._journal = journal
        self._refunding = asyncio.Lock()
        """Held from looking for an earlier refund until the new one is on disk."""

    async def perform(self, operation: str, arguments: Any) -> msgspec.Struct:
        """Carry out `operation` (a name in `OPERATIONS`) with decoded JSON `arguments`.

        Raises OperationRefused; StoreBroken if the change could not be made durable.
        """
        entry = OPERATIONS.get(operation)
        if entry is None:
            raise OperationRefused(f"there is no operation {operation!r}")
        try:
            typed = msgspec.convert(arguments, entry.arguments)
        except msgspec.ValidationError as refusal:
            raise OperationRefused(_in_words(str(refusal))) from refusal
        try:
            return await entry.run(self, typed)
        except ReportTimeout as timeout:
            raise OperationRefused("the books are busy with reports: try again") from timeout
        except ValueError as refusal:  # includes msgspec.ValidationError and DirectoryRefusal
            raise OperationRefused(str(refusal)) from refusal

    async def first_start(self) -> str | None:
        """Make the first ADMIN key; its secret, or None if there has been one.

        It belongs to the account `default`, which is registered with 0 USD if it is not there.
        """
        if self._directory.has_had_admin_key:
            return None
        account = self._directory.find_account(FIRST_ACCOUNT)
        if account is None:
            account, _ = self._directory.create_account(FIRST_ACCOUNT)
        created = self._directory.create_key(
            account.id, KeyKind.ADMIN, description="created at the first start"
        )
        await created.durable
        return created.secret

    async def create_account(self, arguments: CreateAccount) -> AccountShown:
        """Register an account, with its first funds."""
        usd, diem = _amount(arguments.usd), _amount(arguments.diem)
        bundled = _amount(arguments.bundled)
        self._books.check_allocation(diem)
        account, durable = self._directory.create_account(arguments.name)
        account = replace(
            account,
            is_pro=arguments.pro,
            disabled=arguments.disabled,
            tier=arguments.tier,
            features=frozenset(arguments.features),
            **_subscription_members(arguments.subscription),
        )
        durable = self._directory.save_account(account)
        if usd:
            durable = self._books.credit(account.id, usd, reason="first credit")
        if bundled:
            durable = self._books.credit(
                account.id, bundled, reason="first credit", currency=Currency.BUNDLED_CREDITS
            )
        if diem:
            durable = self._books.grant_diem(account.id, diem)
        await durable
        return self._shown(account)

    async def credit_account(self, arguments: CreditAccount) -> AccountShown:
        """Add USD or bundled credits to an account."""
        account = self._directory.account(arguments.account)
        currency, amount = arguments.amount
        await self._books.credit(
            account.id, parse_usd(amount), reason=arguments.reason, currency=currency
        )
        return self._shown(account)

    async def set_account(self, arguments: SetAccount) -> AccountShown:
        """Change an account's allocation, entitlements or state."""
        account = self._directory.account(arguments.account)
        changes: dict[str, Any] = {
            "is_pro": arguments.pro,
            "disabled": arguments.disabled,
            "tier": arguments.tier,
            "features": None if arguments.features is None else frozenset(arguments.features),
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if arguments.subscription is not None:
            changes |= _subscription_members(arguments.subscription)
        if arguments.diem is not None:
            await self._books.grant_diem(account.id, parse_usd(arguments.diem))
        changed = replace(self._directory.account(account.id), **changes)
        await self._directory.save_account(changed)
        return self._shown(changed)

    async def show_account(self, arguments: ShowAccount) -> AccountShown:
        """One account."""
        return self._shown(self._directory.account(arguments.account))

    async def list_accounts(self, _arguments: ListAccounts) -> AccountsShown:
        """Every account."""
        return AccountsShown(tuple(map(self._shown, self._directory.accounts())))

    async def create_key(self, arguments: CreateKey) -> KeyCreated:
        """Make a key; the only moment at which its secret exists here."""
        account = self._directory.account(arguments.account)
        created: NewKey = self._directory.create_key(
            account.id,
            KeyKind.ADMIN if arguments.admin else KeyKind.INFERENCE,
            description=arguments.description,
            limits=SpendLimits(
                diem_nano_usd=_limit(arguments.limit_diem),
                usd_nano_usd=_limit(arguments.limit_usd),
                period=arguments.period,
            ),
            model_privacy=arguments.privacy,
            expires_at_ns=arguments.expires_at_ns,
            openai_errors=arguments.openai_errors,
        )
        await created.durable
        return KeyCreated(self._key_shown(created.key), created.secret)

    async def limit_key(self, arguments: LimitKey) -> KeyShown:
        """Change a key's limits from the next request on; what it spent stays counted."""
        key = self._directory.key(arguments.key)
        before = key.limits
        limits = SpendLimits(
            diem_nano_usd=_new_limit(arguments.limit_diem, before.diem_nano_usd),
            usd_nano_usd=_new_limit(arguments.limit_usd, before.usd_nano_usd),
            period=arguments.period or before.period,
        )
        changed = replace(key, limits=limits)
        await self._directory.save_key(changed)
        return self._key_shown(changed)

    async def revoke_key(self, arguments: RevokeKey) -> KeyRevoked:
        """End a key at once."""
        await self._directory.revoke_key(arguments.key)
        return KeyRevoked(arguments.key)

    async def list_keys(self, arguments: ListKeys) -> KeysShown:
        """Keys that were not revoked."""
        account_id = None
        if arguments.account is not None:
            account_id = self._directory.account(arguments.account).id
        return KeysShown(tuple(map(self._key_shown, self._directory.keys(account_id))))

    async def adjust_balance(self, arguments: AdjustBalance) -> AccountShown:
        """Correct what an account owns now."""
        account = self._directory.account(arguments.account)
        currency, amount = arguments.amount
        await self._books.adjust(account.id, currency, parse_usd(amount), reason=arguments.reason)
        return self._shown(account)

    async def refund_request(self, arguments: RefundRequest) -> Refunded:
        """Give back all that a request was charged, once."""
        request = arguments.request.removeprefix(COMPLETION_PREFIX)
        async with self._refunding:
            entries = await self._journal.request_entries(request)
            charges = [entry for entry in entries if entry.kind is EntryKind.CHARGE]
            if not charges:
                raise OperationRefused(
                    f"the books have no charge of a request {request!r}: its id is in the "
                    "x-request-id header of the answer, and in the usage history of its account"
                )
            if len(charges) < len(entries):
                raise OperationRefused(f"request {request!r} has been refunded already")
            await self._books.refund(charges, reason=arguments.reason)
        return Refunded(
            request=request,
            account=self._directory.account(charges[0].account_id).name,
            currency=charges[0].currency,
            amount=format_usd(sum(charge.amount for charge in charges)),
        )

    def _shown(self, account: Account) -> AccountShown:
        balances = self._books.balances(account.id)
        diem, bundled = balances.get(Currency.DIEM), balances.get(Currency.BUNDLED_CREDITS)
        return AccountShown(
            id=account.id,
            name=account.name,
            usd=format_usd(balances.get(Currency.USD, 0)),
            bundled=None if bundled is None else format_usd(bundled),
            diem=None if diem is None else format_usd(diem),
            diem_per_day=format_usd(self._books.allocation(account.id)),
            pro=account.is_pro,
            subscription=_subscription(account),
            disabled=account.disabled,
            tier=account.tier,
            features=tuple(sorted(account.features)),
            created_at=iso8601(account.created_ns),
        )

    def _key_shown(self, key: ApiKey) -> KeyShown:
        limits, spent = key.limits, self._books.spent(key.id, key.limits.period)
        return KeyShown(
            id=key.id,
            account=self._directory.account(key.account_id).name,
            kind=key.kind,
            description=key.description,
            last_six=key.last_six,
            limit_usd=None if limits.usd_nano_usd is None else format_usd(limits.usd_nano_usd),
            limit_diem=None if limits.diem_nano_usd is None else format_usd(limits.diem_nano_usd),
            period=limits.period,
            spent_usd=format_usd(spent[Currency.USD]),
            spent_diem=format_usd(spent[Currency.DIEM]),
            privacy=key.model_privacy,
            openai_errors=key.openai_errors,
            expires_at=None if key.expires_at_ns is None else iso8601(key.expires_at_ns),
            expired=self._directory.is_expired(key),
            created_at=iso8601(key.created_ns),
        )


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table: what an operation takes and does.

    `read_only` ones change nothing; those with `makes_secret` need the pepper.
    """

    arguments: type[Arguments]
    run: Callable[[Administration, Any], Awaitable[msgspec.Struct]]
    read_only: bool = False
    makes_secret: bool = False


OPERATIONS: Final[dict[str, Operation]] = {
    "accounts.create": Operation(CreateAccount, Administration.create_account),
    "accounts.credit": Operation(CreditAccount, Administration.credit_account),
    "accounts.set": Operation(SetAccount, Administration.set_account),
    "accounts.show": Operation(ShowAccount, Administration.show_account, read_only=True),
    "accounts.list": Operation(ListAccounts, Administration.list_accounts, read_only=True),
    "ledger.refund": Operation(RefundRequest, Administration.refund_request),
    "ledger.adjust": Operation(AdjustBalance, Administration.adjust_balance),
    "keys.create": Operation(CreateKey, Administration.create_key, makes_secret=True),
    "keys.limit": Operation(LimitKey, Administration.limit_key),
    "keys.revoke": Operation(RevokeKey, Administration.revoke_key),
    "keys.list": Operation(ListKeys, Administration.list_keys, read_only=True),
}


def _in_words(problem: str) -> str:
    """What is wrong with an argument, without the pattern that it should have matched."""
    if "matching regex" not in problem:
        return problem
    name = problem.rpartition("$.")[2].strip("`")
    return f"{name} is a line of text that can be read, and not blank"


def _amount(text: str | None, nano_usd_max: int = NANO_USD_MAX) -> int:
    """A first amount; raises ValueError unless it is at least 0."""
    amount = 0 if text is None else parse_usd(text, nano_usd_max=nano_usd_max)
    if amount < 0:
        raise ValueError("an amount is at least 0")
    return amount


def _limit(text: str | None) -> int | None:
    """A spend limit; None is no limit, 0 blocks. Raises ValueError if negative."""
    return None if text is None else _amount(text, LIMIT_NANO_USD_MAX)


def _new_limit(text: str | None, before: int | None) -> int | None:
    """A changed limit: none given leaves the one before."""
    if text is None:
        return before
    return None if text == NO_LIMIT else _limit(text)


def _subscription(account: Account) -> Subscription:
    if not account.subscription_required:
        return "none"
    return "active" if account.subscription_active else "inactive"


def _subscription_members(subscription: Subscription) -> dict[str, Any]:
    return {
        "subscription_required": subscription != "none",
        "subscription_active": subscription == "active",
    }
