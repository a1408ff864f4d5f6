"""How a client is set up: where the server is, who asks, and how patiently."""

from __future__ import annotations

import os
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from traghetto import __version__
from traghetto.client.attempts import Fallback, Persistence
from traghetto.client.calls import Call
from traghetto.client.retry import RetryPolicy

BASE_URL: Final = "http://127.0.0.1:8420/api/v1"
BASE_URL_VARIABLE: Final = "TRAGHETTO_BASE_URL"
API_KEY_VARIABLE: Final = "TRAGHETTO_API_KEY"

TIMEOUT_SECONDS: Final = 620.0
"""Longer than the server's own deadline for a whole answer (600 s), so that its error arrives."""
CONNECT_SECONDS_MAX: Final = 10.0
RETRIES_MAX: Final = 2
RETRY_BUDGET_SECONDS: Final = 60.0

_IGNORES_IDEMPOTENCY_KEYS: Final = "venice.ai"


@dataclass(frozen=True, slots=True)
class Options:
    """The same for both clients, with what the environment says filled in."""

    api_key: str | None
    base_url: str
    timeout_seconds: float
    persistence: Persistence

    @classmethod
    def of(
        cls,
        api_key: str | None,
        base_url: str | None,
        timeout_seconds: float,
        policy: RetryPolicy,
        fallback: Fallback,
        idempotency_keys: bool | None,
        random: Random | None,
    ) -> Options:
        """Fill in what was not given: from the environment, then as the documents say.

        Raises `ValueError` for a base URL that is none, and a key that fits in no header.
        """
        key = (api_key or os.environ.get(API_KEY_VARIABLE) or "").strip()
        if not (key.isascii() and (key.isprintable() or not key)):
            raise ValueError("an API key is a line of ASCII")
        url = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no URL of a server, such as {BASE_URL}")
        if idempotency_keys is None:
            host = parts.hostname
            idempotency_keys = not f".{host}".endswith(f".{_IGNORES_IDEMPOTENCY_KEYS}")
        return cls(
            key or None,
            url.rstrip("/"),
            timeout_seconds,
            Persistence(policy, fallback, idempotency_keys, random or _unseeded()),
        )

    def request_of(self, call: Call) -> dict[str, Any]:
        """The arguments with which `httpx2` builds the request of `call`."""
        headers = {"user-agent": f"traghetto-client/{__version__}"}
        if self.api_key is not None:
            headers["authorization"] = f"Bearer {self.api_key}"
        if call.idempotency_key is not None:
            headers["idempotency-key"] = call.idempotency_key
        request: dict[str, Any] = {"method": call.method, "url": self.base_url + call.path}
        if call.params:
            request["params"] = dict(call.params)
        if call.files is not None:
            request |= {"files": call.files, "data": call.json}
        elif call.json is not None:
            headers["content-type"] = "application/json"
            request["content"] = msgspec.json.encode(call.json)
        return request | {"headers": headers | dict(call.headers)}


def _unseeded() -> Random:
    return Random()  # noqa: S311 (it spreads waits, and guards nothing)
