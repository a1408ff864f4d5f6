"""What an account's owner asks of its bills, and how they are told (contract B.15)."""

from __future__ import annotations

import base64
import csv
import hmac
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from traghetto.errors import Adjunct, ApiError, sentences
from traghetto.money import Currency, UnitPrice, format_usd
from traghetto.wire.csv_cells import csv_text
from traghetto.wire.dates import INSTANT_NS_MAX, date_ns, instant_ns
from traghetto.wire.query import parse_query
from traghetto.wire.schema import query_validator
from traghetto.wire.zod import Issue, custom_issue, refusal

PAGE_ROWS_MAX: Final = 1000
DAYS_MAX: Final = 90
DEFAULT_LOOKBACK: Final = "7d"
_SIGNATURE_BYTES: Final = 16

Sign = Callable[[bytes], bytes]
"""Signs the payload of a cursor for one account (32 bytes)."""


@dataclass(frozen=True, slots=True)
class LineKind:
    """How a kind of charge line is told: its part of the SKU, and its name."""

    sku: str
    name: str

    @property
    def unit(self) -> str:
        """What is counted, for analytics."""
        return "tokens" if self.sku.endswith("mtoken") else "images"


LINE_KINDS: Final[Mapping[str, LineKind]] = {
    "prompt": LineKind("llm-input-mtoken", "input"),
    "cached_prompt": LineKind("llm-cache-input-mtoken", "cache_input"),
    "completion": LineKind("llm-output-mtoken", "output"),
    "image": LineKind("image-unit", "image"),
    "edit": LineKind("edit-unit", "edit"),
    "input_image": LineKind("input-image-unit", "input_image"),
    "upscale": LineKind("upscale-unit", "upscale"),
    "enhancement": LineKind("prompt-enhancement-unit", "enhancement"),
}
"""By the name of the line in the books; a test holds it total."""


class Page(msgspec.Struct, frozen=True, array_like=True):
    """Which part of a usage history is asked for; also what a cursor carries."""

    after_ns: int
    """Behind this time, or behind `after_seq` at it."""
    after_seq: int
    end_ns: int
    rows: int
    currency: Currency | None


_encode_page: Final = msgspec.msgpack.Encoder().encode
_decode_page: Final = msgspec.msgpack.Decoder(Page).decode


def parse_page(query: bytes, sign: Sign) -> Page:
    """The page that `GET /billing/usage-history` asks for.

    Raises ApiError: INVALID_REQUEST with every violation, INVALID_CURSOR for one that is not ours,
    or is another account's.
    """
    values = parse_query(query, query_validator("getBillingUsageHistory", strict=True))
    if "cursor" in values:
        if len(values) > 1:
            raise refusal([custom_issue(("cursor",), sentences.CURSOR_NOT_ALONE)])
        return _open_cursor(values["cursor"], sign)
    issues: list[Issue] = []
    start_ns = _instant(values, "startTimestamp", 0, issues)
    end_ns = _instant(values, "endTimestamp", INSTANT_NS_MAX, issues)
    if not issues and end_ns <= start_ns:
        issues.append(custom_issue(("endTimestamp",), sentences.END_NOT_AFTER_START))
    if issues:
        raise refusal(issues)
    currency = values.get("currency")
    return Page(
        # Sequence numbers begin with 1: whatever was written at the start is behind its place 0.
        _within_the_books(start_ns),
        0,
        _within_the_books(end_ns),
        values.get("pageSize", PAGE_ROWS_MAX),
        None if currency is None else Currency(currency),
    )


def cursor_of(page: Page, sign: Sign) -> str:
    """The cursor that leads to `page`, for the account that `sign` is bound to."""
    payload = _encode_page(page)
    return _spelled(payload + sign(payload)[:_SIGNATURE_BYTES])


def _open_cursor(cursor: str, sign: Sign) -> Page:
    try:
        signed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raise ApiError(Adjunct.INVALID_CURSOR) from None
    if _spelled(signed) != cursor:  # bits behind the last byte, which decoding ignores
        raise ApiError(Adjunct.INVALID_CURSOR)
    payload, signature = signed[:-_SIGNATURE_BYTES], signed[-_SIGNATURE_BYTES:]
    if not hmac.compare_digest(sign(payload)[:_SIGNATURE_BYTES], signature):
        raise ApiError(Adjunct.INVALID_CURSOR)
    try:
        return _decode_page(payload)
    except msgspec.DecodeError:  # it is ours, of another version
        raise ApiError(Adjunct.INVALID_CURSOR) from None


def _within_the_books(moment_ns: int) -> int:
    """The nearest time that a row can have."""
    return max(0, min(moment_ns, INSTANT_NS_MAX))


def _spelled(signed: bytes) -> str:
    return base64.urlsafe_b64encode(signed).decode().rstrip("=")


def _instant(values: Mapping[str, Any], name: str, otherwise: int, issues: list[Issue]) -> int:
    if name not in values:
        return otherwise
    moment = instant_ns(values[name])
    if moment is None:
        issues.append(custom_issue((name,), sentences.INVALID_DATE_TIME))
        return otherwise
    return moment


class Row(msgspec.Struct, frozen=True):
    """One line of a usage history."""

    timestamp: str
    sku: str
    price: UnitPrice | None
    units: int
    amount_nano_usd: int
    """Negative for what was charged."""
    currency: Currency
    notes: str
    request_id: str
    prompt_tokens: int | None
    completion_tokens: int | None
    execution_ms: int | None


_CSV_COLUMNS: Final = (
    "timestamp",
    "sku",
    "pricePerUnitUsd",
    "units",
    "amount",
    "currency",
    "notes",
    "inferenceDetails.requestId",
    "inferenceDetails.inferenceExecutionTime",
    "inferenceDetails.promptTokens",
    "inferenceDetails.completionTokens",
)


def sku_of(model: str, line: str) -> str:
    """The name under which a line of a model's charges is billed."""
    return f"{model}-{LINE_KINDS[line].sku}"


def json_page(rows: Iterable[Row], next_cursor: str | None) -> bytes:
    """A page as JSON; every amount is an exact number."""
    data = [
        {
            "timestamp": row.timestamp,
            "sku": row.sku,
            "pricePerUnitUsd": msgspec.Raw(_price(row).encode()),
            "units": msgspec.Raw(_units(row).encode()),
            "amount": json_number(row.amount_nano_usd),
            "currency": row.currency.value,
            "notes": row.notes,
            "inferenceDetails": {
                "requestId": row.request_id,
                "promptTokens": row.prompt_tokens,
                "completionTokens": row.completion_tokens,
                "inferenceExecutionTime": row.execution_ms,
            },
        }
        for row in rows
    ]
    return msgspec.json.encode({"data": data, "nextCursor": next_cursor})


def csv_page(rows: Iterable[Row]) -> bytes:
    """The same as CSV, with its header. No text can be taken for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_CSV_COLUMNS)
    for row in rows:
        writer.writerow(
            (
                row.timestamp,
                csv_text(row.sku),
                _price(row),
                _units(row),
                format_usd(row.amount_nano_usd),
                row.currency.value,
                csv_text(row.notes),
                row.request_id,
                "" if row.execution_ms is None else row.execution_ms,
                "" if row.prompt_tokens is None else row.prompt_tokens,
                "" if row.completion_tokens is None else row.completion_tokens,
            )
        )
    return text.getvalue().encode()


def _price(row: Row) -> str:
    return "0" if row.price is None else format_usd(row.price.nano_usd)


def _units(row: Row) -> str:
    """How many of the price's units there were: 1,500 tokens at a price per million are 0.0015."""
    per_units = 1 if row.price is None else row.price.per_units
    units = (Decimal(row.units) / per_units).normalize()
    return f"{units:f}"


class Range(msgspec.Struct, frozen=True):
    """The UTC days that analytics cover, both ends included."""

    first: date
    last: date
    lookback: str

    @property
    def days(self) -> list[date]:
        """Each of them."""
        return [self.first + timedelta(number) for number in range(self._length)]

    @property
    def _length(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def start_ns(self) -> int:
        """The first moment."""
        return _ns_of(self.first)

    @property
    def end_ns(self) -> int:
        """The first moment after it."""
        return _ns_of(self.last + timedelta(1))


def parse_range(query: bytes, today: date) -> Range:
    """The days that `GET /billing/usage-analytics` asks for: two dates, else the last days.

    More than `DAYS_MAX` days are cut to the last ones, if they were asked for by number. Raises
    ApiError: INVALID_REQUEST with every violation.
    """
    values = parse_query(query, query_validator("getBillingUsageAnalytics", strict=False))
    if "startDate" not in values and "endDate" not in values:
        lookback = values.get("lookback", DEFAULT_LOOKBACK)
        days = min(int(lookback[:-1][:9]), DAYS_MAX)
        return Range(today - timedelta(days - 1), today, f"{days}d")
    issues = [
        custom_issue((name,), sentences.DATES_NOT_TOGETHER)
        for name in ("startDate", "endDate")
        if name not in values
    ] or [
        custom_issue((name,), sentences.INVALID_DATE)
        for name in ("startDate", "endDate")
        if date_ns(values[name]) is None or values[name] > "9999-12-30"
    ]
    if issues:
        raise refusal(issues)
    first, last = date.fromisoformat(values["startDate"]), date.fromisoformat(values["endDate"])
    length = (last - first).days + 1
    if length < 1:
        raise refusal([custom_issue(("endDate",), sentences.END_BEFORE_START)])
    if length > DAYS_MAX:
        text = sentences.RANGE_TOO_LONG.format(bound=DAYS_MAX)
        raise refusal([custom_issue(("endDate",), text)])
    return Range(first, last, f"{length}d")


def _ns_of(day: date) -> int:
    moment = date_ns(day.isoformat())
    assert moment is not None, "a date exists"
    return max(-INSTANT_NS_MAX, min(INSTANT_NS_MAX, moment))


def json_number(nano_usd: int) -> msgspec.Raw:
    """An amount as an exact JSON number."""
    return msgspec.Raw(format_usd(nano_usd).encode())
