"""From an `ApiError` to bytes: the only renderer of error bodies, headers and stream frames.

Bodies are compact JSON, UTF-8 unescaped, members in the order of the contract (A.0); the
OpenAI-shaped body alone has a space after `:` and `,` because a widely used client looks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from traghetto.errors.catalogue import Adjunct, Code, ErrorCode, Shape, public_name, row_of
from traghetto.errors.exception import ApiError

RETRY_AFTER_SECONDS = 30
"""`Retry-After` where a row must send one and nothing better is known (contract A.2 #30)."""

UPSTREAM_FIELDS_MAX = 5
PUBLISHED_CREDITS_URL = "https://venice.ai/settings/api"

_JSON = (b"content-type", b"application/json; charset=utf-8")
_CHALLENGE = (b"www-authenticate", b"Bearer")
_SHOULD_RETRY = {True: (b"x-should-retry", b"true"), False: (b"x-should-retry", b"false")}


@dataclass(frozen=True, slots=True)
class RenderedError:
    """An error answer, ready for the wire (without the headers every answer has)."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class ErrorStyle:
    """How an operator wants errors to look."""

    code_header: bool = True
    """Send `x-error-code`."""
    openai_objects: bool = False
    """Send every error as an OpenAI error object, which `str(e)` of OpenAI clients shows."""
    credits_url: str = PUBLISHED_CREDITS_URL
    """What stands in the place of the published URL in INSUFFICIENT_BALANCE (contract A.2 #5)."""


PUBLISHED_STYLE = ErrorStyle()
"""As the contract has it, where an operator wants nothing else."""


def render_error(error: ApiError, request_id: str, style: ErrorStyle) -> RenderedError:
    """The answer for `error`."""
    row = row_of(error.code)
    headers = [_JSON, _SHOULD_RETRY[error.should_retry]]
    if style.code_header:
        headers.append((b"x-error-code", public_name(error.code).encode()))
    if row.status == 401:
        headers.append(_CHALLENGE)
    if says_when(error):
        headers.append((b"retry-after", b"%d" % _wait_seconds(error)))
    headers.extend(error.headers)
    message = message_of(error, request_id, style)
    if style.openai_objects or row.shape is Shape.OPENAI:
        body = _spaced(_openai_object(error, message))
    else:
        body = msgspec.json.encode(_plain_object(error, message, request_id))
    return RenderedError(row.status, headers, body)


def render_stream_error(error: ApiError, request_id: str) -> bytes:
    """The frames that end a broken stream: the error (shape B13) and `[DONE]` (contract B.1.7)."""
    kind, code = _STREAM_KINDS.get(error.code, ("api_error", "upstream_error"))
    member: dict[str, Any] = {
        "message": message_of(error, request_id),
        "type": kind,
        "code": code,
        "param": None,
    }
    if error.code is ErrorCode.MODEL_OVERLOADED:
        member["retry_after"] = _wait_seconds(error)
    return b"data: " + msgspec.json.encode({"error": member}) + b"\n\ndata: [DONE]\n\n"


def says_when(error: ApiError) -> bool:
    """Whether the answer for `error` names a time to come back, in `Retry-After`."""
    return error.status in {429, 503} and error.should_retry


def text_of(code: Code, style: ErrorStyle) -> str:
    """The sentence of a row in the operator's style, its placeholders left in."""
    message = row_of(code).message
    if code is ErrorCode.INSUFFICIENT_BALANCE:
        message = message.replace(PUBLISHED_CREDITS_URL, style.credits_url)
    return message


def message_of(error: ApiError, request_id: str, style: ErrorStyle = PUBLISHED_STYLE) -> str:
    """The sentence a client sees, with the placeholders of its row filled in."""
    message = text_of(error.code, style)
    if error.code is Adjunct.UPSTREAM_REJECTED:
        message = message.format(request_id=request_id)
        if error.fields:
            message = f"{message}: {'; '.join(error.fields[:UPSTREAM_FIELDS_MAX])}"
    elif error.code is Adjunct.FAILED_REQUEST_BUDGET:
        assert error.details is not None, "the budget error carries its numbers"
        message = message.format(**error.details)
    return message


def _wait_seconds(error: ApiError) -> int:
    """When to come back; 0 is a time that is known."""
    seconds = error.retry_after_seconds
    return RETRY_AFTER_SECONDS if seconds is None else seconds


_STREAM_KINDS: dict[object, tuple[str, str]] = {
    ErrorCode.MODEL_OVERLOADED: ("server_error", "model_overloaded"),
    ErrorCode.CONTENT_POLICY_VIOLATION: ("content_filter_error", "content_blocked_by_provider"),
}

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def _plain_object(error: ApiError, message: str, request_id: str) -> dict[str, Any]:
    if row_of(error.code).shape is Shape.CODED:
        return {"code": public_name(error.code), "error": message}
    body: dict[str, Any] = {"error": message}
    if error.code is Adjunct.UPSTREAM_REJECTED:
        body["request_id"] = request_id
    elif error.issues is not None:
        body["details"] = error.details
        body["issues"] = error.issues
    return body


def _openai_object(error: ApiError, message: str) -> dict[str, Any]:
    row = row_of(error.code)
    if error.code is ErrorCode.TOO_MANY_TOKENS:
        param, code = "messages", "context_length_exceeded"
    else:
        param, code = None, public_name(error.code)
    kind = _OPENAI_TYPES.get(
        row.status, "invalid_request_error" if row.status < 500 else "api_error"
    )
    member: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    if error.issues is not None and error.code is ErrorCode.INVALID_REQUEST:
        member["details"] = error.details
        member["issues"] = error.issues
    return {"error": member}


def _spaced(value: Any) -> bytes:
    """JSON with one space after `:` and `,`, on one line (the spacing of Python's own `json`)."""
    if isinstance(value, dict):
        members = (msgspec.json.encode(k) + b": " + _spaced(v) for k, v in value.items())
        return b"{" + b", ".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(_spaced, value)) + b"]"
    return msgspec.json.encode(value)
