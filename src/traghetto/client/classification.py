"""From what somebody else's library raised or returned to an exception of ours.

Nothing is imported for it: an answer is whatever has a `status_code`, and an exception is known by
the names of its classes, so that this works with `openai`, `httpx`, `httpx2` and `requests` alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from traghetto.client.exceptions import (
    ApiStatusError,
    ConnectionFailed,
    TimedOut,
    TraghettoError,
    exception_of,
)
from traghetto.client.reading import read_error
from traghetto.client.recognition import code_of

_NEVER_SENT: Final = {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"}
_TIMED_OUT: Final = {"TimeoutException", "Timeout", "APITimeoutError", "TimeoutError"}
_FAILED: Final = {"RequestError", "APIConnectionError", "RequestException", "ConnectionError"}
"""Names of exceptions, their own or of a class above them."""


def classify(failure: object) -> TraghettoError:
    """The exception of ours for an exception or an error answer of another library.

    Raises `ValueError` for an answer that is no error, `TypeError` for what is neither.
    """
    if isinstance(failure, TraghettoError):
        return failure
    response = getattr(failure, "response", None)
    answer = failure if response is None else response
    if hasattr(answer, "status_code"):
        return _of_answer(failure, answer)
    if not isinstance(failure, BaseException):
        raise TypeError(f"{type(failure).__name__} is neither an answer nor an exception")
    body = getattr(failure, "body", None)
    if body is not None:  # an error inside a stream, as `openai` raises it
        return error_in_stream({}, {"error": body})
    return connection_failure(failure)


def error_of(
    status: int, headers: Mapping[str, str], body: Any, *, now: float | None = None
) -> ApiStatusError:
    """The exception for an error answer; `body` is bytes or decoded JSON."""
    reading = read_error(status, headers, body, now=now)
    return exception_of(reading, code_of(reading))


def error_in_stream(headers: Mapping[str, str], frame: Any) -> ApiStatusError:
    """The exception for an error frame of a stream; `headers` are those that it began with."""
    reading = read_error(None, headers, frame)
    return exception_of(reading, code_of(reading))


def connection_failure(failure: BaseException) -> ConnectionFailed:
    """The exception for a failure to get any answer; `TypeError` if it is something else."""
    names = {kind.__name__ for kind in type(failure).__mro__}
    reason = f"{type(failure).__name__}: {failure}" if str(failure) else type(failure).__name__
    charged = False if names & _NEVER_SENT else None
    if names & _TIMED_OUT:
        return TimedOut(reason, charged=charged)
    if names & _FAILED:
        return ConnectionFailed(reason, charged=charged)
    raise TypeError(f"{type(failure).__name__} is not about a request") from failure


def _of_answer(failure: Any, answer: Any) -> ApiStatusError:
    """The exception for an answer; where its body was not read, `failure` may have a part of it."""
    status = int(answer.status_code)
    if status < HTTPStatus.BAD_REQUEST:
        raise ValueError(f"an answer with status {status} is no error")
    try:
        body = answer.content
    except Exception:  # noqa: BLE001 (each library has its own for a body that was not read)
        body = None
    if not isinstance(body, bytes) or not body:
        member = getattr(failure, "body", None)
        body = None if member is None else {"error": member}
    return error_of(status, dict(getattr(answer, "headers", {})), body)
