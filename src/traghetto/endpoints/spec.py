"""What an endpoint is: a value that routing, metrics and documentation read.

Invariant: nothing else enumerates endpoints. `endpoints.table` lists these values; the dispatcher
builds its look-up tables from its lists once.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from traghetto.errors import Code
from traghetto.pipeline.exchange import Exchange

BASES: Final = ("/api/v1", "/v1")
"""Every endpoint is served below each of these."""

Handle = Callable[[Exchange, str], Awaitable[None]]
"""Answers one exchange. The second argument is the path parameter, or "" where there is none."""


class Authentication(enum.Enum):
    """Who may call an endpoint.

    Its own stages refuse everybody else, in their place in the order of a request; the tests call
    every endpoint as every kind of caller and compare what happens with what is said here.
    """

    NONE = "anybody"
    OPTIONAL = "anybody, and a key narrows what is shown"
    KEY = "a caller with a key"
    ADMIN = "a caller with an admin key"
    ADMIN_FROM_AFAR = "anybody on this machine, from elsewhere a caller with an admin key"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the API.

    `path` is relative to the bases, such as `/chat/completions` (or, for the few that the edge
    answers itself, to the root); it may end in one parameter in
    braces (`/models/{id}`), which takes the rest of the path, slashes included. `name` labels
    metrics and access records. Raises ValueError for a path of another form.
    """

    name: str
    method: str
    path: str
    handle: Handle
    authentication: Authentication = Authentication.KEY
    summary: str = ""
    """What it does, in a sentence; without one it is in no document of the API."""
    errors: frozenset[Code] = frozenset()
    """Everything that it can answer with besides success (see `endpoints.errors`)."""

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
