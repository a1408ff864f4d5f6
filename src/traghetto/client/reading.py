"""What an error answer says: the members of its body, whatever shape that has.

Servers of the Venice API write errors in many shapes (contract A.0): a sentence, an object as
OpenAI writes it, the violations of a schema, a page of HTML from a proxy. Here they become one
value; which code it is, `recognition` tells.

Invariants: nothing here raises on any body, and nothing depends on which code it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from traghetto.client.issues import Issue, issues_of
from traghetto.client.waits import wait_seconds

PLAIN_TEXT_CHARACTERS_MAX: Final = 300
"""A body that is text and no JSON is a message only if it is this short."""
FRAME_WAIT_SECONDS_MAX: Final = 86_400
"""A frame that asks for a longer wait than a day is taken to say nothing of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An error, as far as it can be read without knowing its code."""

    status: int | None
    """None for an error inside a stream, whose answer had begun well."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: Any
    """Decoded JSON, or text, or None."""
    message: str
    details: Any
    """`details` as it came: usually a tree with `_errors` at its nodes."""
    issues: tuple[Issue, ...]
    retry_after: float | None
    """Seconds until the server wants to be asked again."""

    def member(self, name: str) -> Any:
        """A member of the error object, or else of the body; None if neither has it."""
        return next((part[name] for part in _objects(self.body) if name in part), None)

    def text(self, name: str) -> str | None:
        """A member that is a text."""
        value = self.member(name)
        return value if isinstance(value, str) and value else None

    @property
    def code_member(self) -> str | None:
        """The `code` in the body, which is seldom a published one."""
        return self.text("code")

    @property
    def request_id(self) -> str | None:
        """What the server calls the request, for whoever asks its operator about it."""
        named = (self.headers.get(name) for name in ("x-request-id", "cf-ray"))
        return next(filter(None, named), None) or self.text("request_id")

    @property
    def credits_refunded(self) -> bool | None:
        """Whether what was charged was given back; None where the server does not say."""
        refunded = self.member("credits_refunded")
        return refunded if isinstance(refunded, bool) else None


def read_error(
    status: int | None, headers: Mapping[str, str], body: Any, *, now: float | None = None
) -> Reading:
    """Read an error answer, or an error frame of a stream (`status` None).

    `body` is bytes, or JSON that was decoded before; it may be the whole body or, as in the `body`
    of an OpenAI exception, its member `error` alone. `now` is the time in seconds since 1970.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    decoded = _decoded(body)
    found = _members(decoded)
    details = found.get("details", decoded if "_errors" in found else None)
    return Reading(
        status,
        lowered,
        decoded,
        _message(decoded, status),
        details,
        issues_of(found.get("issues", decoded), details),
        _frame_wait(found.get("retry_after"))
        if status is None
        else wait_seconds(lowered, status, now),
    )


def _decoded(body: Any) -> Any:
    if not isinstance(body, bytes | bytearray | memoryview):
        return body
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return bytes(body).decode("utf-8", "replace") or None


def _objects(body: Any) -> Iterator[Mapping[str, Any]]:
    """The objects that have members to read: that under `error` first, then the body."""
    if isinstance(body, dict):
        if isinstance(body.get("error"), dict):
            yield body["error"]
        yield body


def _members(body: Any) -> dict[str, Any]:
    return {name: value for part in reversed([*_objects(body)]) for name, value in part.items()}


def _message(body: Any, status: int | None) -> str:
    found = _members(body)
    # A body of `/x402/top-up` has a code where others have the sentence, which comes second there.
    for name in ("message", "error", "detail"):
        if isinstance(text := found.get(name), str) and text:
            return text
    if isinstance(body, str) and len(body) <= PLAIN_TEXT_CHARACTERS_MAX and "<" not in body:
        return body.strip()
    try:
        return HTTPStatus(status or 0).phrase
    except ValueError:
        return "The server gave no reason"


def _frame_wait(seconds: Any) -> float | None:
    """The seconds that an error frame asks to wait."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) if is_number and 0 <= seconds <= FRAME_WAIT_SECONDS_MAX else None
