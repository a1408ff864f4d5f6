"""Cross-origin access for browsers, only when the operator names origins.

The framework's middleware decides; preflights that it would refuse with sentences of its own go
on to the application, which refuses them like any other OPTIONS request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from traghetto.clock import Clock
from traghetto.ids import new_request_id
from traghetto.pipeline.exchange import Exchange

PREFLIGHT_SECONDS_MAX: Final = 600
"""How long a browser may remember the answer to a preflight."""

METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST")

EXPOSED_HEADERS: Final = (
    "cf-ray",
    "content-disposition",
    "idempotent-replayed",
    "retry-after",
    "x-balance-remaining",
    "x-error-code",
    "x-next-cursor",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-resets",
    "x-ratelimit-type",
    "x-request-id",
    "x-should-retry",
    "x-venice-balance-diem",
    "x-venice-balance-usd",
    "x-venice-model-deprecation-date",
    "x-venice-model-deprecation-warning",
    "x-venice-model-id",
    "x-venice-model-name",
    "x-venice-model-router",
    "x-venice-timestamp",
    "x-venice-version",
)
"""What scripts of another origin may read of an answer's headers (contract C.1)."""


class _Cors(CORSMiddleware):
    """Preflights that are allowed have the common headers and no body."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], clock: Clock) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
            max_age=PREFLIGHT_SECONDS_MAX,
        )
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            if "origin" in headers and "access-control-request-method" in headers:
                decision = self.preflight_response(headers)
                if decision.status_code != 200:
                    await self.app(scope, receive, send)
                    return
                exchange = Exchange(
                    scope, receive, send, request_id=new_request_id(), clock=self._clock
                )
                allowed = [
                    (name, value)
                    for name, value in decision.raw_headers
                    if name not in {b"content-type", b"content-length"}
                ]
                await exchange.answer(decision.status_code, allowed, b"")
                return
        await super().__call__(scope, receive, send)


def with_cors(app: ASGIApp, origins: Sequence[str], clock: Clock) -> ASGIApp:
    """`app` open to scripts of `origins` (`*` for all)."""
    return _Cors(app, origins, clock)
