"""`/api_keys`: an account's keys, made, changed and ended by itself (contract B.12).

Invariants: an account sees and changes its own keys only, and somebody else's key is answered like
one that does not exist; what is answered is durable; the secret of a key is in one answer only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any, Final

import msgspec

from traghetto.accounts.values import ApiKey, KeyKind, ModelPrivacy
from traghetto.clock import iso8601
from traghetto.endpoints.operations import operation_endpoint
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.ledger.windows import window_of_date
from traghetto.money import Currency, SpendLimits
from traghetto.pipeline.exchange import Exchange
from traghetto.pipeline.manage import Operation, Received, Reply
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.wire.api_keys import (
    KeyChange,
    limits_member,
    parse_key_change,
    parse_new_key,
    usage_member,
)
from traghetto.wire.billing import json_number
from traghetto.wire.query import parse_query
from traghetto.wire.schema import Validator, compile_schema, query_validator
from traghetto.wire.zod import require_valid

CREATIONS_PER_MINUTE_MAX: Final = 20
ACTIVE_KEYS_MAX: Final = 500
KEYS_MAX: Final = 2_000
"""Of one account, expired ones included, which an operator can still list and revoke."""
TRAILING_DAYS: Final = 7

ANYBODY: Final = Authentication.NONE
_NO_LIMITS: Final = SpendLimits()
_NAMED: Final = {
    "type": ["object"],
    "properties": {"id": {"type": ["string"]}},
    "required": ["id"],
}
_NAMED_KEY: Final = Validator("deleteApiKey", _NAMED, compile_schema(_NAMED))
_encode: Final = msgspec.json.Encoder().encode


def api_key_endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of a gateway."""
    keys = _Keys(services)

    def endpoint(name: str, method: str, path: str, operation: Operation) -> Endpoint:
        return operation_endpoint(services, name, method, path, operation)

    return (
        endpoint(
            "api_keys",
            "GET",
            "/api_keys",
            Operation(
                keys.list,
                summary="List the active keys.",
                codes=frozenset({Adjunct.ANALYTICS_TIMEOUT}),
            ),
        ),
        endpoint(
            "api_keys_create",
            "POST",
            "/api_keys",
            Operation(
                keys.create,
                body="required",
                calls_per_minute_max=CREATIONS_PER_MINUTE_MAX,
                summary="Make a key; its secret is in this answer and never again.",
                codes=frozenset({ErrorCode.INVALID_REQUEST, Adjunct.TOO_MANY_API_KEYS}),
            ),
        ),
        endpoint(
            "api_keys_update",
            "PATCH",
            "/api_keys",
            Operation(
                keys.update,
                body="required",
                summary="Change a key: its description, limits, privacy and expiry.",
                codes=frozenset({ErrorCode.INVALID_REQUEST, Adjunct.API_KEY_NOT_FOUND_OR_EXPIRED}),
            ),
        ),
        endpoint(
            "api_keys_delete",
            "DELETE",
            "/api_keys",
            Operation(
                keys.delete,
                body="optional",
                summary="End a key at once.",
                codes=frozenset({ErrorCode.INVALID_REQUEST, Adjunct.API_KEY_COULD_NOT_BE_FOUND}),
            ),
        ),
        endpoint(
            "api_keys_rate_limits",
            "GET",
            "/api_keys/rate_limits",
            Operation(keys.rate_limits, admin=False, summary="Show what the key that asks may do."),
        ),
        endpoint(
            "api_keys_rate_limits_log",
            "GET",
            "/api_keys/rate_limits/log",
            Operation(keys.rate_limits_log, summary="List the last refusals by a limit."),
        ),
        *(
            Endpoint(
                "api_keys_web3",
                method,
                "/api_keys/generate_web3_key",
                _missing,
                ANYBODY,
                errors=frozenset({Adjunct.ROUTE_NOT_FOUND}),
            )
            for method in ("GET", "POST")
        ),
        endpoint(
            "api_key",
            "GET",
            "/api_keys/{id}",
            Operation(
                keys.get,
                summary="Show one key.",
                codes=frozenset({Adjunct.API_KEY_NOT_FOUND, Adjunct.ANALYTICS_TIMEOUT}),
            ),
        ),
    )


async def _missing(_exchange: Exchange, _parameter: str) -> None:
    """Keys for wallets are not served; without this their route would be taken for a key's id."""
    raise ApiError(Adjunct.ROUTE_NOT_FOUND)


class _Keys:
    """What answers: one method per operation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._directory = services.directory

    async def list(self, _exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """The account's keys that work, newest first."""
        keys = self._directory.active_keys(caller.account.id)
        trailing = await self._trailing(caller.account.id)
        data = [self._shown(key, trailing) for key in reversed(keys)]
        return Reply(_encode({"object": "list", "data": data}))

    async def get(self, exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """One key. Raises ApiError: API_KEY_NOT_FOUND."""
        key = self._find(caller, exchange.path_parameter, Adjunct.API_KEY_NOT_FOUND)
        trailing = await self._trailing(caller.account.id)
        return Reply(_encode({"data": self._shown(key, trailing)}))

    async def create(self, _exchange: Exchange, caller: Caller, received: Received) -> Reply:
        """A new key; its secret is in this answer and nowhere else.

        Raises ApiError: INVALID_REQUEST, TOO_MANY_API_KEYS.
        """
        now = self._services.clock.utc_ns()
        kind, wanted = parse_new_key(received.body, received.raw, now)
        account_id = caller.account.id
        if (
            len(self._directory.active_keys(account_id)) >= ACTIVE_KEYS_MAX
            or len(self._directory.keys(account_id)) >= KEYS_MAX
        ):
            raise ApiError(Adjunct.TOO_MANY_API_KEYS)
        created = self._directory.create_key(
            caller.account.id,
            KeyKind(kind),
            description=_set(wanted.description, ""),
            limits=wanted.limits(_NO_LIMITS),
            model_privacy=ModelPrivacy(_set(wanted.model_privacy, "ALL")),
            expires_at_ns=_set(wanted.expires_at_ns, None),
        )
        await created.durable
        key = created.key
        data = {
            "id": key.id,
            "apiKey": created.secret,
            "apiKeyType": key.kind.value,
            "description": key.description,
            "expiresAt": _instant(key.expires_at_ns),
            "consumptionLimit": limits_member(key.limits),
            "limitPeriod": key.limits.period.value,
            "modelPrivacy": key.model_privacy.value,
        }
        return Reply(_encode({"success": True, "data": data}))

    async def update(self, _exchange: Exchange, caller: Caller, received: Received) -> Reply:
        """Change a key; what is not named stays. The change holds for the next request.

        Raises ApiError: INVALID_REQUEST, API_KEY_NOT_FOUND_OR_EXPIRED.
        """
        now = self._services.clock.utc_ns()
        key_id, change = parse_key_change(received.body, received.raw, now)
        key = _changed(self._find(caller, key_id, Adjunct.API_KEY_NOT_FOUND_OR_EXPIRED), change)
        await self._directory.save_key(key)
        return Reply(_encode({"success": True, "data": self._described(key)}))

    async def delete(self, exchange: Exchange, caller: Caller, received: Received) -> Reply:
        """End a key at once. Its id is in the query, or in a JSON body.

        Raises ApiError: INVALID_REQUEST, API_KEY_COULD_NOT_BE_FOUND.
        """
        query = parse_query(exchange.query, query_validator("deleteApiKey", strict=False))
        named = query if "id" in query else received.body
        require_valid(_NAMED_KEY, named)
        key = self._find(caller, named["id"], Adjunct.API_KEY_COULD_NOT_BE_FOUND)
        await self._directory.revoke_key(key.id)
        return Reply(b'{"success":true}')

    async def rate_limits(self, _exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """What the calling key may still do: balances within its limits, and rates by model."""
        services, account, key = self._services, caller.account, caller.key
        spendable = services.book.spendable(account.id, key.id, key.limits).counted()
        models = services.fleet.catalog.listed("all", key.model_privacy.value)
        data = {
            "accessPermitted": True,  # a caller whose account is switched off does not get here
            "apiTier": {"id": account.tier, "isCharged": True},
            "balances": {
                currency.value: json_number(amount)
                for currency, amount in reversed(spendable.items())
            },
            "keyExpiration": _instant(key.expires_at_ns),
            "nextEpochBegins": f"{_day(services) + timedelta(days=1)}T00:00:00.000Z",
            "rateLimits": [
                {
                    "apiModelId": model.id,
                    "rateLimits": _rates(services, account.tier, model.size_class),
                }
                for model in models
            ],
        }
        return Reply(_encode({"data": data}))

    async def rate_limits_log(self, _exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """The account's last refusals by a limit, newest first."""
        data = [
            {
                "apiKeyId": refusal.key_id,
                "modelId": refusal.model,
                "rateLimitTier": refusal.tier,
                "rateLimitType": refusal.limit_type,
                "timestamp": iso8601(refusal.utc_ns),
            }
            for refusal in self._services.refusals.of(caller.account.id)
        ]
        return Reply(_encode({"object": "list", "data": data}))

    # Leaves

    def _find(self, caller: Caller, key_id: str, otherwise: Adjunct) -> ApiKey:
        key = self._directory.find_active_key(caller.account.id, key_id)
        if key is None:
            raise ApiError(otherwise)
        return key

    def _shown(self, key: ApiKey, trailing: Mapping[tuple[str, Currency], int]) -> dict[str, Any]:
        """A key of the listing, with what it spent."""
        spent = usage_member(
            trailing.get((key.id, Currency.USD), 0), trailing.get((key.id, Currency.DIEM), 0)
        )
        shown = self._described(key)
        shown["usage"] = {"trailingSevenDays": {**spent, "vcu": spent["diem"]}}
        limits = key.limits
        if limits.usd_nano_usd is not None or limits.diem_nano_usd is not None:
            period = self._services.book.spent(key.id, limits.period)
            shown["currentPeriodUsage"] = usage_member(period[Currency.USD], period[Currency.DIEM])
        return shown

    def _described(self, key: ApiKey) -> dict[str, Any]:
        return {
            "id": key.id,
            "apiKeyType": key.kind.value,
            "description": key.description,
            "last6Chars": key.last_six,
            "createdAt": iso8601(key.created_ns),
            "expiresAt": _instant(key.expires_at_ns),
            "lastUsedAt": _instant(self._directory.last_used_ns(key.id)),
            "consumptionLimits": limits_member(key.limits),
            "limitPeriod": key.limits.period.value,
            "modelPrivacy": key.model_privacy.value,
        }

    async def _trailing(self, account_id: str) -> dict[tuple[str, Currency], int]:
        """What each key spent on this UTC day and the six before it."""
        first = window_of_date(_day(self._services) - timedelta(days=TRAILING_DAYS - 1))
        spends = await self._services.reports.key_spends(account_id, first_day=first)
        sums: dict[tuple[str, Currency], int] = {}
        for row in spends:
            identity = (row.key_id, row.currency)
            sums[identity] = sums.get(identity, 0) + row.spent
        return sums


def _changed(key: ApiKey, change: KeyChange) -> ApiKey:
    return replace(
        key,
        description=_set(change.description, key.description),
        limits=change.limits(key.limits),
        model_privacy=ModelPrivacy(_set(change.model_privacy, key.model_privacy.value)),
        expires_at_ns=_set(change.expires_at_ns, key.expires_at_ns),
    )


def _rates(services: Services, tier: Any, size_class: Any) -> Iterable[dict[str, Any]]:
    numbers = services.rates.numbers(tier, size_class)
    return [
        {"amount": amount, "type": kind}
        for kind, amount in (
            ("RPM", numbers.requests_per_minute),
            ("TPM", numbers.tokens_per_minute),
        )
        if amount is not None
    ]


def _day(services: Services) -> date:
    """The UTC day that the books are in."""
    return date.fromisoformat(services.book.today().removeprefix("E:"))


def _instant(utc_ns: int | None) -> str | None:
    return None if utc_ns is None else iso8601(utc_ns)


def _set(value: Any, otherwise: Any) -> Any:
    """`value`, if the request named it."""
    return otherwise if value is msgspec.UNSET else value
