"""Who is calling: payment headers, credentials, failed-request budget, state of the account.

Contract A.3, steps 5 to 9. Failures before an account is known are charged to the address.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from traghetto.accounts.values import Account, ApiKey, KeyKind, ModelPrivacy
from traghetto.errors import Adjunct, ApiError, ErrorCode, LimitReached
from traghetto.limits.budget import address_bucket, key_bucket
from traghetto.limits.refusals import Refusal
from traghetto.money import Currency, format_usd
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.services import Services

PAYMENT_HEADERS: Final = frozenset({b"payment-signature", b"x-402-payment", b"x-payment"})
NO_KEY: Final = ""
"""What is not well formed as a key, so that nobody has it."""
_BUCKET_PART_CHARACTERS_MAX: Final = 64


class Caller(msgspec.Struct, frozen=True):
    """An authenticated caller whose account may use the API."""

    key: ApiKey
    account: Account
    bucket: str
    """The failed-request budget this request counts in."""
    secret: str
    """The API key itself, which was checked; never to be logged or kept."""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Caller({self.key.id})"


def authenticate(services: Services, exchange: Exchange, body: dict[str, Any]) -> Caller:
    """The caller, with its balance and budget headers put on the answer.

    Raises ApiError: PAYMENT_HEADER_NOT_ACCEPTED, AUTHENTICATION_FAILED, FAILED_REQUEST_BUDGET,
    API_ACCESS_DISABLED, AUTHENTICATION_FAILED_INACTIVE_KEY.
    """
    for name, _ in exchange.headers:
        if name in PAYMENT_HEADERS:
            raise _counted(services, _anonymous(exchange), Adjunct.PAYMENT_HEADER_NOT_ACCEPTED)
    secret = _presented_key(exchange)
    if secret is None:
        raise ApiError(Adjunct.NO_CREDENTIALS)
    found = services.directory.authenticate(secret)
    if found is None:
        raise _counted(services, _anonymous(exchange), ErrorCode.AUTHENTICATION_FAILED)
    key, account = found
    exchange.openai_errors = key.openai_errors
    bucket = _request_bucket(key.id, body)
    exchange.answer_headers += balance_headers(services, key, account)
    try:
        services.budget.check(bucket)
    except LimitReached as blocked:
        note_refusal(services, key, account, _short_text(body.get("model")), blocked)
        raise
    exchange.answer_headers += services.budget.headers(bucket)
    if account.disabled:
        raise _counted(services, bucket, ErrorCode.API_ACCESS_DISABLED)
    if account.subscription_required and not account.subscription_active:
        raise _counted(services, bucket, ErrorCode.AUTHENTICATION_FAILED_INACTIVE_KEY)
    return Caller(key, account, bucket, secret)


def require_known(services: Services, exchange: Exchange) -> None:
    """Raises NO_CREDENTIALS, AUTHENTICATION_FAILED or FAILED_REQUEST_BUDGET unless the exchange
    carries a key that somebody has."""
    secret = _presented_key(exchange)
    if secret is None:
        raise ApiError(Adjunct.NO_CREDENTIALS)
    if services.directory.authenticate(secret) is None:
        raise _counted(services, _anonymous(exchange), ErrorCode.AUTHENTICATION_FAILED)


def note_refusal(
    services: Services, key: ApiKey, account: Account, model: str, error: ApiError
) -> None:
    """Remember for the account's owner that a limit of its refused a request, if that was it."""
    if isinstance(error, LimitReached):
        now = services.clock.utc_ns()
        refusal = Refusal(key.id, model, account.tier, error.limit_type, now)
        services.refusals.note(account.id, refusal)


def require_admin(services: Services, exchange: Exchange) -> None:
    """Raises ApiError unless the exchange carries a valid admin key."""
    secret = _presented_key(exchange)
    if secret is None:
        raise ApiError(Adjunct.NO_CREDENTIALS)
    found = services.directory.authenticate(secret)
    if found is None:
        raise _counted(services, _anonymous(exchange), ErrorCode.AUTHENTICATION_FAILED)
    if found[0].kind is not KeyKind.ADMIN:
        raise _counted(services, _anonymous(exchange), Adjunct.ADMIN_KEY_REQUIRED)


def visible_privacy(services: Services, exchange: Exchange) -> str:
    """The model privacy that a public view is narrowed to; a bad key is as good as none.

    An answer to a good key names its balances, as every authenticated answer does.
    """
    secret = _presented_key(exchange)
    found = None if secret is None else services.directory.authenticate(secret)
    if found is None:
        return ModelPrivacy.ALL.value
    key, account = found
    exchange.answer_headers += balance_headers(services, key, account)
    return key.model_privacy.value


def _presented_key(exchange: Exchange) -> str | None:
    """The API key that a request carries, unchecked; None without credentials.

    The only reader of the header. Another scheme, and credentials that are repeated, are no key of
    anybody: which of two would count must not depend on who reads them.
    """
    values = [value for name, value in exchange.headers if name == b"authorization"]
    if not values:
        return None
    scheme, _, secret = values[0].decode("latin-1").partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer":
        return NO_KEY
    return secret.strip()


def balance_headers(services: Services, key: ApiKey, account: Account) -> list[tuple[bytes, bytes]]:
    """What the key could spend before this request, per currency that there is some of (contract
    C.1: a zero is never sent)."""
    spendable = services.book.spendable(account.id, key.id, key.limits).counted()
    return [
        (name, format_usd(amount).encode())
        for name, currency in _BALANCE_HEADERS
        if (amount := spendable.get(currency))
    ]


_BALANCE_HEADERS: Final = (
    (b"x-venice-balance-usd", Currency.USD),
    (b"x-venice-balance-diem", Currency.DIEM),
)


def _counted(services: Services, bucket: str, code: Adjunct | ErrorCode) -> ApiError:
    """The refusal for `code`, or the block if this bucket has had too many; counts it."""
    services.budget.check(bucket)
    error = ApiError(code)
    services.budget.count(bucket, error)
    return error


def _anonymous(exchange: Exchange) -> str:
    """The budget of whoever calls from there without a valid key."""
    return address_bucket(exchange.client_address)


def _request_bucket(key_id: str, body: dict[str, Any]) -> str:
    """A key's budget is split by `model` and `user`, so that one bad caller of an application
    does not block the others (contract C.3.3)."""
    parts = [key_bucket(key_id)]
    parts += (_short_text(body.get(member)) for member in ("model", "user"))
    return "\n".join(parts)


def _short_text(value: object) -> str:
    return value[:_BUCKET_PART_CHARACTERS_MAX] if isinstance(value, str) else ""
