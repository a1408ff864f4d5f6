"""The attempts of one call: what both clients do alike, without sending or sleeping.

A client sends `call`; if that fails it asks `wait_seconds` and either waits and sends `call` again,
which may have become another, or raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from traghetto.client.calls import Call, new_idempotency_key
from traghetto.client.exceptions import (
    ApiStatusError,
    ModelAtCapacity,
    ModelNotFound,
    ModelOffline,
    ModelOverloaded,
    TraghettoError,
)
from traghetto.client.retry import RetryPolicy

Fallback = bool | Mapping[str, str]
"""Whether to ask another model once: the one that the server recommends, or one named for each."""

FALLS_BACK: Final = (ModelOffline, ModelAtCapacity, ModelOverloaded, ModelNotFound)


@dataclass(frozen=True, slots=True)
class Persistence:
    """How a client goes about each of its calls."""

    policy: RetryPolicy
    fallback: Fallback
    idempotency_keys: bool
    """Whether the server honours `Idempotency-Key`."""
    random: Random
    monotonic: Callable[[], float] = time.monotonic

    def attempts(self, call: Call) -> Attempts:
        """The attempts of `call`; one that costs money is given a key that makes it safe."""
        if call.charges and self.idempotency_keys and call.idempotency_key is None:
            call = replace(call, idempotency_key=new_idempotency_key())
        return Attempts(call, self)


class Attempts:
    """Where one call stands."""

    def __init__(self, call: Call, persistence: Persistence) -> None:
        self.call = call
        """What to send next."""
        self._persistence = persistence
        self._began = persistence.monotonic()
        self._retries = 0
        self._fell_back = False

    def wait_seconds(self, error: TraghettoError) -> float | None:
        """How long to wait before `call` is sent again; None if `error` is the last word."""
        if (model := self._fallback_model(error)) is not None:
            self._fell_back = True
            self.call = self.call.with_model(model)
            return 0.0
        wait = self._persistence.policy.wait_seconds(
            error,
            retries=self._retries,
            elapsed_seconds=self._persistence.monotonic() - self._began,
            repeatable=self.call.is_safe_to_repeat,
            random=self._persistence.random,
        )
        self._retries += 1
        return wait

    def _fallback_model(self, error: TraghettoError) -> str | None:
        """The model to ask instead, once."""
        fallback, asked = self._persistence.fallback, self.call.model
        if self._fell_back or not fallback or asked is None or not isinstance(error, FALLS_BACK):
            return None
        named = fallback.get(asked) if isinstance(fallback, Mapping) else None
        instead = named or _recommended(error)
        return instead if instead != asked else None


def _recommended(error: TraghettoError) -> str | None:
    return error.recommended_model if isinstance(error, ApiStatusError) else None
