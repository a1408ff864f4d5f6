"""Requests that make and change API keys, and keys as clients see them (contract B.12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from traghetto.errors import sentences
from traghetto.money import (
    LIMIT_NANO_USD_MAX,
    NANO_PER_USD,
    LimitPeriod,
    SpendLimits,
    format_usd,
    parse_usd,
)
from traghetto.wire.dates import DATE_MAX, INSTANT_NS_MAX, date_ns, instant_ns
from traghetto.wire.schema import body_validator
from traghetto.wire.zod import Issue, custom_issue, refusal, require_valid

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")
_LIMIT_USD_MAX: Final = LIMIT_NANO_USD_MAX // NANO_PER_USD
_TOO_FINE: Final = Decimal("1e-10")
_LIMIT_NAMES: Final = ("usd", "diem", "vcu")
UNKNOWN_NAMES_MAX: Final = 100


def _exactly(literal: str) -> Decimal:
    """A number of JSON; one whose exponent has 19 digits is no limit, and is read as none."""
    try:
        return Decimal(literal)
    except InvalidOperation:
        return _TOO_FINE  # it is not too large: that would have been infinite as a float


_decode_exactly: Final = msgspec.json.Decoder(float_hook=_exactly).decode


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of a key; members that it does not name are UNSET."""

    description: str | msgspec.UnsetType = msgspec.UNSET
    usd_limit: int | msgspec.UnsetType | None = msgspec.UNSET
    diem_limit: int | msgspec.UnsetType | None = msgspec.UNSET
    """In nano_usd; None is no limit."""
    period: LimitPeriod | msgspec.UnsetType = msgspec.UNSET
    model_privacy: str | msgspec.UnsetType = msgspec.UNSET
    expires_at_ns: int | msgspec.UnsetType | None = msgspec.UNSET

    def limits(self, before: SpendLimits) -> SpendLimits:
        """The limits of a key that had `before`."""
        return SpendLimits(
            diem_nano_usd=_or(self.diem_limit, before.diem_nano_usd),
            usd_nano_usd=_or(self.usd_limit, before.usd_nano_usd),
            period=_or(self.period, before.period),
        )


def parse_new_key(body: dict[str, Any], raw: bytes, now_ns: int) -> tuple[str, KeyChange]:
    """The kind of a new key, and what it is to be like; `raw` are the bytes of `body`.

    Raises ApiError: INVALID_REQUEST with every violation.
    """
    require_valid(body_validator("createApiKey"), body)
    return body["apiKeyType"], _parse_change(body, raw, now_ns)


def parse_key_change(body: dict[str, Any], raw: bytes, now_ns: int) -> tuple[str, KeyChange]:
    """The id of a key, and how it is to change. Raises ApiError as `parse_new_key` does."""
    require_valid(body_validator("updateApiKey"), body)
    return body["id"], _parse_change(body, raw, now_ns)


def limits_member(limits: SpendLimits) -> dict[str, Any]:
    """`consumptionLimits`: exact numbers, null without a limit. `vcu` is DIEM by an old name."""
    diem = _number(limits.diem_nano_usd)
    return {"usd": _number(limits.usd_nano_usd), "diem": diem, "vcu": diem}


def usage_member(usd_nano_usd: int, diem_nano_usd: int) -> dict[str, str]:
    """What a key spent, as text with four decimals."""
    return {"usd": format_usd(usd_nano_usd, 4), "diem": format_usd(diem_nano_usd, 4)}


def _parse_change(body: dict[str, Any], raw: bytes, now_ns: int) -> KeyChange:
    issues: list[Issue] = []
    limits = _limits(raw, issues)
    expires_at_ns: int | msgspec.UnsetType | None = msgspec.UNSET
    if "expiresAt" in body:
        expires_at_ns = _expiry(body["expiresAt"], now_ns, issues)
    description = body.get("description", msgspec.UNSET)
    if description is not msgspec.UNSET and _UNPRINTABLE.search(description):
        issues.append(
            {
                "code": "invalid_string",
                "validation": "regex",
                "path": ["description"],
                "message": sentences.INVALID_PATTERN,
            }
        )
    if issues:
        raise refusal(issues)
    period = body.get("limitPeriod", msgspec.UNSET)
    return KeyChange(
        description=description,
        usd_limit=limits.get("usd", msgspec.UNSET),
        diem_limit=limits.get("diem", limits.get("vcu", msgspec.UNSET)),
        period=period if period is msgspec.UNSET else LimitPeriod(period),
        model_privacy=body.get("modelPrivacy", msgspec.UNSET),
        expires_at_ns=expires_at_ns,
    )


def _limits(raw: bytes, issues: list[Issue]) -> Mapping[str, int | None]:
    """The limits that a body names, in nano_usd, read from its bytes so that no digit is lost."""
    members = _decode_exactly(raw).get("consumptionLimit", {})
    # A limit by a name that nobody knows would be no limit at all.
    if unknown := [name[: sentences.ECHO_CHARACTERS_MAX] for name in members.keys() - _LIMIT_NAMES]:
        unknown = sorted(unknown)[:UNKNOWN_NAMES_MAX]
        quoted = ", ".join(f"'{name}'" for name in unknown)
        issues.append(
            {
                "code": "unrecognized_keys",
                "keys": unknown,
                "path": ["consumptionLimit"],
                "message": sentences.UNRECOGNIZED_KEYS.format(keys=quoted),
            }
        )
    limits: dict[str, int | None] = {}
    for name in _LIMIT_NAMES:
        if name not in members:
            continue
        amount = members[name]
        try:
            limits[name] = (
                None if amount is None else parse_usd(amount, nano_usd_max=LIMIT_NANO_USD_MAX)
            )
        except ValueError:
            # Its range was checked as the nearest float; what is left is a digit too many.
            too_big = amount > _LIMIT_USD_MAX
            issues.append(_too_big(name) if too_big else _too_fine(name))
    return limits


def _too_big(name: str) -> Issue:
    return {
        "code": "too_big",
        "type": "number",
        "maximum": _LIMIT_USD_MAX,
        "inclusive": True,
        "exact": False,
        "path": ["consumptionLimit", name],
        "message": sentences.NUMBER_TOO_BIG.format(bound=_LIMIT_USD_MAX),
    }


def _too_fine(name: str) -> Issue:
    return {
        "code": "not_multiple_of",
        "multipleOf": msgspec.Raw(b"1e-9"),
        "path": ["consumptionLimit", name],
        "message": sentences.NUMBER_NOT_A_MULTIPLE.format(step="1e-9"),
    }


def _expiry(text: str | None, now_ns: int, issues: list[Issue]) -> int | None:
    """When a key expires: never for null and the empty text, a date at its first moment (UTC)."""
    if not text:
        return None
    moment = instant_ns(text) if "T" in text else date_ns(text)
    if moment is None:
        issues.append(
            {
                "code": "invalid_string",
                "validation": "date",
                "path": ["expiresAt"],
                "message": sentences.INVALID_DATE,
            }
        )
    elif moment > INSTANT_NS_MAX:
        message = sentences.DATE_TOO_LATE.format(bound=DATE_MAX)
        issues.append(custom_issue(("expiresAt",), message))
    elif moment <= now_ns:
        issues.append(custom_issue(("expiresAt",), sentences.EXPIRES_IN_THE_PAST))
    return moment


def _number(nano_usd: int | None) -> msgspec.Raw | None:
    return None if nano_usd is None else msgspec.Raw(format_usd(nano_usd).encode())


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is msgspec.UNSET else value
