"""`/billing`: what an account owns, what it was charged, and for what (contract B.15).

Balances are those of memory, which decides; histories are read from the books, and so show what is
durable.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable
from datetime import date
from typing import Final

import msgspec

from traghetto.clock import iso8601
from traghetto.endpoints.analytics import analysis
from traghetto.endpoints.errors import ALWAYS, Codes
from traghetto.endpoints.operations import operation_endpoint
from traghetto.endpoints.spec import Authentication, Endpoint
from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.ledger.charges import price_of
from traghetto.ledger.spendable import FLOOR_NANO_USD
from traghetto.limits.budget import address_bucket
from traghetto.money import Currency, SpendLimits
from traghetto.pipeline.exchange import JSON_CONTENT, Exchange
from traghetto.pipeline.manage import Operation, Received, Reply
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.authenticate import Caller
from traghetto.storage.facts import EntryKind
from traghetto.storage.reports import UsageEntry, UsageSum
from traghetto.wire.accept import prefers
from traghetto.wire.billing import (
    Page,
    Range,
    Row,
    Sign,
    csv_page,
    cursor_of,
    json_number,
    json_page,
    parse_page,
    parse_range,
    sku_of,
)

CACHED_SECONDS: Final = 600.0
CACHED_ANSWERS_MAX: Final = 256
RETIRED_CALLS_PER_MINUTE_MAX: Final = 60
"""From one address (contract C.3.2)."""

_NO_LIMITS: Final = SpendLimits()
_CSV_CONTENT: Final = (b"content-type", b"text/csv; charset=utf-8")
_SUCCESSOR: Final = "/api/v1/billing/usage-history"
_RETIRED_HEADERS: Final = (
    (b"deprecation", b"@1783555200"),
    (b"sunset", b"Wed, 16 Sep 2026 00:00:00 GMT"),
    (b"link", f'<{_SUCCESSOR}>; rel="successor-version"'.encode()),
)
"""RFC 9745, 8594 and 8288, with the published dates (contract A.2)."""

_REPORT_CODES: Final[Codes] = frozenset({ErrorCode.INVALID_REQUEST, Adjunct.ANALYTICS_TIMEOUT})

_encode: Final = msgspec.json.Encoder().encode


def billing_endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of a gateway."""
    billing = _Billing(services)

    async def retired(exchange: Exchange, _: str) -> None:
        address = address_bucket(exchange.client_address)
        services.calls.admit(address, exchange.endpoint, RETIRED_CALLS_PER_MINUTE_MAX)
        raise ApiError(Adjunct.ENDPOINT_RETIRED, headers=_RETIRED_HEADERS)

    def endpoint(name: str, operation: Operation) -> Endpoint:
        path = f"/billing/{name}"
        return operation_endpoint(services, f"billing_{name}", "GET", path, operation)

    return (
        endpoint("balance", Operation(billing.balance, summary="Show what the account owns.")),
        endpoint(
            "usage-history",
            Operation(
                billing.usage_history,
                summary="Page through the charges, as JSON or CSV.",
                codes=_REPORT_CODES | {Adjunct.INVALID_CURSOR},
            ),
        ),
        endpoint(
            "usage-analytics",
            Operation(
                billing.usage_analytics,
                summary="Sum the charges by day, model and key.",
                codes=_REPORT_CODES,
            ),
        ),
        Endpoint(
            "billing_usage",
            "GET",
            "/billing/usage",
            retired,
            Authentication.NONE,
            summary="Retired: says where its successor is.",
            errors=ALWAYS | {Adjunct.ENDPOINT_RETIRED, ErrorCode.RATE_LIMIT_EXCEEDED},
        ),
    )


class _Billing:
    """What answers: one method per operation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._analytics: OrderedDict[tuple[str, Range], tuple[float, bytes]] = OrderedDict()
        """Answers by account and range, with the time until which they are given again."""

    async def balance(self, _exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """What the account owns, and what its next request would be paid with."""
        book, account_id = self._services.book, caller.account.id
        owned = book.balances(account_id)
        spendable = book.spendable(account_id, caller.key.id, _NO_LIMITS).unclamped
        can_consume = sum(spendable.values()) >= FLOOR_NANO_USD
        currency = next((name for name, amount in spendable.items() if amount > 0), None)
        balances = {
            name: None if (amount := owned.get(held)) is None else json_number(amount)
            for name, held in (("diem", Currency.DIEM), ("usd", Currency.USD))
        }
        if Currency.BUNDLED_CREDITS in owned:
            balances["bundledCredits"] = json_number(owned[Currency.BUNDLED_CREDITS])
        body = {
            "canConsume": can_consume,
            "consumptionCurrency": currency.value if can_consume and currency else None,
            "balances": balances,
            "diemEpochAllocation": json_number(book.allocation(account_id)),
        }
        return Reply(_encode(body))

    async def usage_history(self, exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """One page of charges and refunds, oldest first, as JSON or CSV.

        Raises ApiError: INVALID_REQUEST, INVALID_CURSOR.
        """
        sign = self._signer(caller.account.id)
        page = parse_page(exchange.query, sign)
        entries = await self._entries(caller.account.id, page)
        has_more = len(entries) > page.rows
        entries = entries[: page.rows]
        cursor = cursor_of(_behind(page, entries[-1]), sign) if has_more else None
        rows = [_row(entry) for entry in entries]
        if not prefers(exchange.header(b"accept"), wanted="text/csv", usual="application/json"):
            return Reply(json_page(rows, cursor))
        stamp = "".join(filter(str.isalnum, iso8601(self._services.clock.utc_ns())))
        name = f"attachment; filename=billing-usage-history-{stamp}.csv"
        headers = [_CSV_CONTENT, (b"content-disposition", name.encode())]
        if cursor is not None:
            headers.append((b"x-next-cursor", cursor.encode()))
        return Reply(csv_page(rows), tuple(headers))

    async def usage_analytics(self, exchange: Exchange, caller: Caller, _: Received) -> Reply:
        """Sums by day, model and key; the same answer for ten minutes.

        Raises ApiError: INVALID_REQUEST; ReportTimeout.
        """
        account_id = caller.account.id
        today = date.fromisoformat(self._services.book.today().removeprefix("E:"))
        asked = parse_range(exchange.query, today)
        now = self._services.clock.monotonic()
        until, body = self._analytics.get((account_id, asked), (0.0, b""))
        if not body or until <= now:
            sums = await self._services.reports.usage_sums(
                account_id, start_ns=asked.start_ns, end_ns=asked.end_ns
            )
            # There can be very many sums, and requests are waiting.
            body = await asyncio.to_thread(
                lambda: msgspec.json.encode(
                    analysis(asked, sums, self._key_names(sums), self._services.fleet.catalog)
                )
            )
            self._analytics[account_id, asked] = (now + CACHED_SECONDS, body)
            self._analytics.move_to_end((account_id, asked))
            if len(self._analytics) > CACHED_ANSWERS_MAX:
                self._analytics.popitem(last=False)
        return Reply(body, (JSON_CONTENT,))

    # Leaves

    async def _entries(self, account_id: str, page: Page) -> list[UsageEntry]:
        """The entries of a page, and one more where there are more."""
        return await self._services.reports.usage_entries(
            account_id,
            after=(page.after_ns, page.after_seq),
            end_ns=page.end_ns,
            currency=page.currency,
            rows_max=page.rows + 1,
        )

    def _signer(self, account_id: str) -> Sign:
        directory = self._services.directory
        return lambda payload: directory.sign(f"cursor {account_id} {payload.hex()}")

    def _key_names(self, sums: Iterable[UsageSum]) -> dict[str, str]:
        """What keys are called: their description, told apart by their last characters."""
        directory = self._services.directory
        labels = {key_id: directory.key_label(key_id) for key_id in {row.key_id for row in sums}}
        counts = Counter(description for description, _ in labels.values())
        return {
            key_id: description
            if description and counts[description] == 1
            else f"{description} ...{last_six}".strip()
            for key_id, (description, last_six) in labels.items()
        }


def _row(entry: UsageEntry) -> Row:
    model = entry.model or ""
    return Row(
        timestamp=iso8601(entry.created_ns),
        sku=sku_of(model, entry.line),
        price=price_of(entry.price_version, entry.line),
        units=entry.units,
        amount_nano_usd=entry.into_funds,
        currency=entry.currency,
        notes="Refund" if entry.kind is EntryKind.REFUND else "API Inference",
        request_id=entry.request_id,
        prompt_tokens=entry.prompt_tokens,
        completion_tokens=entry.completion_tokens,
        execution_ms=entry.duration_ms,
    )


def _behind(page: Page, last: UsageEntry) -> Page:
    """The page that begins behind `last`."""
    return Page(last.created_ns, last.seq, page.end_ns, page.rows, page.currency)
