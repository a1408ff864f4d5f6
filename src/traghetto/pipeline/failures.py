"""From failure kinds to codes: one total map per endpoint family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.errors import Adjunct, ApiError, Code, ErrorCode

RESTART_SECONDS: Final = 5
"""When to try again after a stop; a guess at how long a restart takes."""

CHAT_CODES: Final[dict[FailureKind, Code]] = {
    FailureKind.UNREACHABLE: ErrorCode.MODEL_OFFLINE,
    FailureKind.BROKEN: ErrorCode.INFERENCE_FAILED,
    FailureKind.UNUSABLE: ErrorCode.INFERENCE_FAILED,
    FailureKind.REDIRECTED: ErrorCode.INFERENCE_FAILED,
    FailureKind.TIMED_OUT: ErrorCode.REQUEST_TIMEOUT,
    FailureKind.CONTEXT_EXCEEDED: ErrorCode.TOO_MANY_TOKENS,
    FailureKind.REJECTED_INPUT: Adjunct.UPSTREAM_REJECTED,
    FailureKind.TOO_LARGE: ErrorCode.PAYLOAD_TOO_LARGE,
    FailureKind.FRUITLESS: ErrorCode.INFERENCE_FAILED,
    FailureKind.REJECTED_CONTENT: ErrorCode.CONTENT_POLICY_VIOLATION,
    FailureKind.MISCONFIGURED: ErrorCode.MODEL_OFFLINE,
    FailureKind.OVERLOADED: ErrorCode.MODEL_OVERLOADED,
    FailureKind.AT_CAPACITY: ErrorCode.MODEL_AT_CAPACITY,
    FailureKind.OFFLINE: ErrorCode.MODEL_OFFLINE,
}
"""Chat: every kind has a code (a test holds the map total)."""


def _swapped(broken: Code, *, timed_out: Code | None = None) -> dict[FailureKind, Code]:
    """The codes of a family that calls broken backends by another name (the fault matrix, row 32).

    Where its contract knows no timeout, one is as good as broken.
    """
    return CHAT_CODES | {
        FailureKind.BROKEN: broken,
        FailureKind.UNUSABLE: broken,
        FailureKind.REDIRECTED: broken,
        FailureKind.FRUITLESS: broken,
        FailureKind.TIMED_OUT: timed_out or broken,
        FailureKind.CONTEXT_EXCEEDED: Adjunct.UPSTREAM_REJECTED,
    }


GENERATE_CODES: Final = _swapped(ErrorCode.INFERENCE_FAILED, timed_out=ErrorCode.REQUEST_TIMEOUT)
EDIT_CODES: Final = _swapped(ErrorCode.IMAGE_EDIT_ERROR)
UPSCALE_CODES: Final = _swapped(ErrorCode.UPSCALE_FAILED)
BACKGROUND_CODES: Final = _swapped(ErrorCode.INFERENCE_FAILED)


def chat_error(failure: EngineFailure, body: dict[str, Any]) -> ApiError:
    """What the client of a chat is told about `failure`; see `engine_error`."""
    is_unsupported = failure.kind is FailureKind.REJECTED_INPUT
    return engine_error(failure, CHAT_CODES, body, unsupported_feature=is_unsupported)


def engine_error(
    failure: EngineFailure,
    codes: Mapping[FailureKind, Code],
    body: dict[str, Any],
    *,
    unsupported_feature: bool = False,
) -> ApiError:
    """What a client is told about `failure`; `body` is the caller's own.

    `unsupported_feature` chooses the budget it counts in, which only chats have two of.

    Field names that a backend complains of are passed on only where they exist in that body:
    everything else in a backend's words stays here.
    """
    return ApiError(
        codes[failure.kind],
        fields=tuple(field for field in failure.fields if _exists(body, field)),
        retry_after_seconds=failure.retry_after_seconds,
        unsupported_feature=unsupported_feature,
        is_final=failure.kind is FailureKind.FRUITLESS,
        reason=failure.reason,
    )


def gateway_stopping() -> ApiError:
    """What a request is told that a stop of the gateway cuts off: it may be tried again soon."""
    return ApiError(
        ErrorCode.MODEL_OFFLINE,
        retry_after_seconds=RESTART_SECONDS,
        reason="the gateway is stopping",
    )


def _exists(body: Any, path: str) -> bool:
    """Whether a dotted path (`messages.0.content`) names something in `body`."""
    for part in path.split("."):
        if isinstance(body, dict) and part in body:
            body = body[part]
        elif isinstance(body, list) and part.isdecimal() and int(part) < len(body):
            body = body[int(part)]
        else:
            return False
    return True
