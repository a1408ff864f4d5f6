"""Whether a server keeps the error contract: every recipe carried out, every answer compared."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec

from traghetto.errors import ErrorCode, row_of
from traghetto.guide.coverage import NOT_SERVED_YET
from traghetto.guide.recipes import RECIPES, Recipe, Request, Zeros
from traghetto.testing.http import Answer, ask
from traghetto.testing.lab import Lab

Status = Literal["passed", "failed", "skipped", "missing"]
STATUS_OK: Final = 200
_PIECE_BYTES: Final = 1 << 16
_BODY_CHARACTERS_SHOWN: Final = 300


class Seen(msgspec.Struct, frozen=True):
    """What distinguishes an error: expected of a server, or got from it."""

    status: int
    message: str
    code_header: str | None = None
    """`x-error-code`, where the server sends it."""
    has_issues: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """One row of the result."""

    code: str
    status: Status
    expected: Seen
    got: Seen | None = None
    reason: str = ""
    """Why it was skipped, is missing or failed, in words."""


@dataclass(frozen=True, slots=True)
class Server:
    """What is verified: a lab, or any server of the API with a key for it."""

    url: str
    lab: Lab | None = None
    key: str | None = None
    model: str | None = None
    """A model for chats, for recipes that are carried out without a lab; the first one that the
    server lists if not given."""


def verify(server: Server) -> Iterator[Outcome]:
    """An outcome for each of the 40 codes, in the order of the catalogue."""
    if server.lab is None and server.model is None:
        server = replace(server, model=_listed_model(server))
    by_code = {recipe.code: recipe for recipe in RECIPES}
    for code in ErrorCode:
        recipe = by_code.get(code)
        if recipe is None:
            assert code in NOT_SERVED_YET, "a code that is served has a recipe"
            yield Outcome(code.name, "missing", _expected(code), reason="not served yet")
        elif server.lab is None and not recipe.is_remote:
            yield Outcome(code.name, "skipped", _expected(code), reason="needs a lab")
        elif server.lab is None and server.key is None and recipe.request.key == "own":
            yield Outcome(code.name, "skipped", _expected(code), reason="needs a key")
        else:
            yield _outcome(server, recipe)


def _listed_model(server: Server) -> str | None:
    """A model of texts that the server lists, if it lists any."""
    headers = {} if server.key is None else {"Authorization": f"Bearer {server.key}"}
    with contextlib.suppress(
        OSError, http.client.HTTPException, ValueError, LookupError, TypeError
    ):
        return str(ask("GET", f"{server.url}/models", headers).json["data"][0]["id"])
    return None


def _outcome(server: Server, recipe: Recipe) -> Outcome:
    expected = msgspec.structs.replace(_expected(recipe.code), has_issues=recipe.expects_issues)
    try:
        answer = _carry_out(server, recipe)
    except (OSError, http.client.HTTPException) as failure:
        reason = f"no answer: {type(failure).__name__} {failure}"
        return Outcome(recipe.code.name, "failed", expected, reason=reason)
    got = _seen(answer)
    if got.code_header is None and server.lab is None:
        # The header is ours: other servers of the API are told by status and body.
        expected = msgspec.structs.replace(expected, code_header=None)
    if got == expected:
        return Outcome(recipe.code.name, "passed", expected, got)
    return Outcome(recipe.code.name, "failed", expected, got, reason=_difference(expected, got))


def _difference(expected: Seen, got: Seen) -> str:
    """What is other than expected, in words."""
    parts = [
        f"{name}: expected {getattr(expected, name)!r}, got {getattr(got, name)!r}"
        for name in Seen.__struct_fields__
        if getattr(expected, name) != getattr(got, name)
    ]
    return "; ".join(parts)


def _expected(code: ErrorCode) -> Seen:
    row = row_of(code)
    return Seen(row.status, row.message, code.name)


def _carry_out(server: Server, recipe: Recipe) -> Answer:
    """The answer to the recipe's request; what its steps set up is cleared afterwards."""
    lab = server.lab
    if lab is None:
        return _send(server, _for_model(recipe.request, server.model or "chat"), server.key)
    key = lab.key(recipe.state)
    try:
        for step in recipe.steps:
            lab.tell(step.action, **step.arguments)
        for request in recipe.before:
            answer = _send(server, request, key)
            if answer.status != STATUS_OK:
                raise OSError(f"a request before was answered with {answer.status}")
        return _send(server, recipe.request, key)
    finally:
        lab.clear_faults()


def _send(server: Server, request: Request, own_key: str | None) -> Answer:
    headers = {"Content-Type": request.content_type}
    key = own_key if request.key == "own" else request.key
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    url = f"{server.url}{request.path}"
    if isinstance(request.body, Zeros):
        pieces = _zeros(request.body.size)
        return ask("POST", url, headers, pieces, request.body.size)
    text = request.body
    body = text.encode() if isinstance(text, str) else msgspec.json.encode(text)
    return ask("POST", url, headers, body)


def _zeros(size: int) -> Iterator[bytes]:
    piece = bytes(_PIECE_BYTES)
    while size > 0:
        yield piece[:size]
        size -= _PIECE_BYTES


def _for_model(request: Request, model: str) -> Request:
    """The request for a server with other models than a lab."""
    body = request.body
    if isinstance(body, str | Zeros) or body.get("model") != "chat":
        return request
    return replace(request, body={**body, "model": model})


def _seen(answer: Answer) -> Seen:
    body: Any = None
    try:
        body = answer.json
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str):
        message = answer.body[:_BODY_CHARACTERS_SHOWN].decode(errors="replace")
    has_issues = isinstance(body, dict) and bool(body.get("issues"))
    return Seen(answer.status, message, answer.headers.get("x-error-code"), has_issues)
