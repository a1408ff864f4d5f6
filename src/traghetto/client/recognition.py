"""Which code an error has: by `x-error-code` where a server sends it, else by what it wrote.

venice.ai puts the name of a code into no header and, but for one, into no body: status and sentence
are all there is. So the sentences of the catalogue are looked up, then the `code` members that
stand for one, then the wordings in which live servers differ from the publication (contract A.2).

What has no published code keeps the name that its server gives it, if that gives one.

Invariant: a status and a code that contradict each other come together only where the server itself
names the code, or a wording of a live server is known to come with another status.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from traghetto.client.reading import Reading
from traghetto.errors import Adjunct, Code, ErrorCode, public_name, row_of

CODE_HEADER: Final = "x-error-code"
PREFIX_CHARACTERS_MIN: Final = 15
"""Shorter sentences of the catalogue are recognised whole only."""

MESSAGE_CHARACTERS_MAX: Final = 1000
"""As much of a sentence is looked at; those that are known are shorter."""

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{2,63}", re.ASCII)
_CODES: Final[tuple[Code, ...]] = (*ErrorCode, *Adjunct)
"""The published ones first: where a sentence is that of several, they have it."""


def code_of(reading: Reading) -> str | None:
    """The name of the code, published or not; None if it has none, or none that can be told."""
    sent = reading.headers.get(CODE_HEADER, "")
    if _NAME.fullmatch(sent):
        return sent
    recognised = (
        _by_sentence(reading)
        or _by_code_member(reading)
        or _by_beginning(reading)
        or _by_wording(reading)
    )
    if recognised is None and (named := _own_name(reading)) is not None:
        return named
    recognised = recognised or _by_shape(reading)
    return None if recognised is None else public_name(recognised)


def _plain(text: str) -> str:
    """A sentence without what differs for no reason: case, spacing, the full stop."""
    return " ".join(text[:MESSAGE_CHARACTERS_MAX].casefold().split()).rstrip(".")


def _fits(code: Code, reading: Reading) -> bool:
    return reading.status is None or reading.status == row_of(code).status


_SENTENCES: Final = [(_plain(row_of(code).message), code) for code in _CODES]
_BEGINNINGS: Final = sorted(
    ((text.partition("{")[0].rstrip(), code) for text, code in _SENTENCES),
    key=lambda beginning: -len(beginning[0]),
)
"""Up to the first placeholder, longest first."""

_CODE_MEMBERS: Final = {
    "context_length_exceeded": ErrorCode.TOO_MANY_TOKENS,
    "model_overloaded": ErrorCode.MODEL_OVERLOADED,
    "content_blocked_by_provider": ErrorCode.CONTENT_POLICY_VIOLATION,
    "upstream_error": ErrorCode.INFERENCE_FAILED,
}
"""`code` members that stand for a published code (contract A.0, B.1.7)."""

_BALANCE: Final = "insufficient_balance"
_PROVIDER_POLICY: Final = "provider_content_policy"
_SIGN_IN: Final = "X402_SIGN_IN_"

_WORDINGS: Final = tuple(
    (status, re.compile(pattern), code)
    for status, pattern, code in (
        (400, r"invalid model\b", ErrorCode.INVALID_MODEL),
        (400, r".*maximum context", ErrorCode.TOO_MANY_TOKENS),
        (400, r"'content-type' must be", ErrorCode.INVALID_CONTENT_TYPE),
        (400, r"request encoding is not supported", ErrorCode.INVALID_CONTENT_TYPE),
        (402, r"insufficient\b.*\bbalance", ErrorCode.INSUFFICIENT_BALANCE),
        (402, r".*\bdiem spend(ing)? limit", ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED),
        (402, r".*\busd spend(ing)? limit", ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED),
        (403, r"this api key is set to '", ErrorCode.UNAUTHORIZED),
        (403, r".*not available on your account", ErrorCode.UNAUTHORIZED),
        (403, r".*for your own wallet", ErrorCode.X402_WALLET_MISMATCH),
        (404, r"character not found", ErrorCode.CHARACTER_NOT_FOUND),
        (404, r"media could not be found", ErrorCode.MEDIA_NOT_FOUND),
        (404, r".*\bmodel\b.*(not found|does not exist|deprecated)", ErrorCode.MODEL_NOT_FOUND),
        (422, r".*content polic(y|ies)", ErrorCode.CONTENT_POLICY_VIOLATION),
        (422, r".*blocked by content moderation", ErrorCode.CONTENT_POLICY_VIOLATION),
        (429, r".*\bmodel\b.*\boverloaded", ErrorCode.MODEL_OVERLOADED),
        (503, r".*\bat capacity", ErrorCode.MODEL_AT_CAPACITY),
        (503, r".*\bmodel\b.*\boffline", ErrorCode.MODEL_OFFLINE),
    )
)
"""Beginnings of plain sentences that live servers send in the place of a published one."""

_BY_STATUS: Final = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ErrorCode.PAYLOAD_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ErrorCode.INVALID_CONTENT_TYPE,
}
"""Statuses that mean one thing only, also from a proxy in front of the server."""


def _by_sentence(reading: Reading) -> Code | None:
    message = _plain(reading.message)
    exact = (code for text, code in _SENTENCES if text == message)
    return next((code for code in exact if _fits(code, reading)), None)


def _by_code_member(reading: Reading) -> ErrorCode | None:
    name = reading.code_member or ""
    if name in ErrorCode.__members__:
        return ErrorCode[name]
    if name.startswith(_SIGN_IN):
        return ErrorCode.X402_INVALID_SIGN_IN
    if reading.text("reason") == _BALANCE:
        return ErrorCode.INSUFFICIENT_BALANCE
    if reading.text("type") == _PROVIDER_POLICY:
        return ErrorCode.CONTENT_POLICY_VIOLATION
    meant = _CODE_MEMBERS.get(name)
    return meant if meant is not None and _fits(meant, reading) else None


def _by_beginning(reading: Reading) -> Code | None:
    message = _plain(reading.message)
    for text, code in _BEGINNINGS:
        if len(text) >= PREFIX_CHARACTERS_MIN and message.startswith(text) and _fits(code, reading):
            return code
    return None


def _by_wording(reading: Reading) -> ErrorCode | None:
    message = _plain(reading.message)
    for status, pattern, code in _WORDINGS:
        if reading.status in {status, None} and pattern.match(message):
            return code
    return None


def _own_name(reading: Reading) -> str | None:
    """A name that is not published: in `code`, or in `error` beside the sentence (shape B12)."""
    names = (reading.code_member, reading.text("error") if reading.text("message") else None)
    return next((name for name in names if name and _NAME.fullmatch(name)), None)


def _by_shape(reading: Reading) -> ErrorCode | None:
    """What is left: a 400 that speaks as the contract does, and statuses that need no words."""
    speaks = reading.issues or reading.text("error") or reading.text("message")
    if reading.status == HTTPStatus.BAD_REQUEST and speaks:
        return ErrorCode.INVALID_REQUEST
    return next((code for status, code in _BY_STATUS.items() if status == reading.status), None)
