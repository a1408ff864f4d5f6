"""What an endpoint is: a value that routing, metrics and documentation read.

Invariant: nothing else enumerates endpoints. `endpoints.table` lists these values; the dispatcher
builds its look-up tables from that list once.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from traghetto.pipeline.exchange import Exchange

BASES: Final = ("/api/v1", "/v1")
"""Every endpoint is served below each of these."""

Handle = Callable[[Exchange, str], Awaitable[None]]
"""Answers one exchange. The second argument is the path parameter, or "" where there is none."""


class BodyKind(enum.Enum):
    """What an endpoint reads from a request's body."""

    NONE = "none"
    JSON = "json"


class Authentication(enum.Enum):
    """Who may call an endpoint; the stages of its pipeline enforce it."""

    NONE = "none"
    OPTIONAL = "optional"
    KEY = "key"
    ADMIN = "admin key"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the API.

    `path` is relative to the bases, such as `/chat/completions`; it may end in one parameter in
    braces (`/models/{id}`), which takes the rest of the path, slashes included. `name` labels
    metrics and access records. Raises ValueError for a path of another form.
    """

    name: str
    method: str
    path: str
    handle: Handle
    authentication: Authentication = Authentication.KEY
    body: BodyKind = BodyKind.NONE

    def __post_init__(self) -> None:
        prefix = self.prefix
        fixed = self.path if prefix is None else prefix
        if not fixed.startswith("/") or "{" in fixed or "}" in fixed:
            raise ValueError(f"not a path with at most one trailing parameter: {self.path}")
        if self.method != self.method.upper() or self.method in {"HEAD", "OPTIONS"}:
            raise ValueError(f"the edge answers {self.method} itself, or it is not a method")

    @property
    def prefix(self) -> str | None:
        """The fixed part before the path parameter, with its slash; None without a parameter."""
        if not self.path.endswith("}"):
            return None
        fixed, slash, _ = self.path.rpartition("/{")
        return fixed + "/" if slash else ""
