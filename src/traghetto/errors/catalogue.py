"""THE CATALOGUE: every status and every sentence a client can see on failure.

Two tables. `ErrorCode` holds the 40 rows of the published contract (`spec/errors.json`: status,
message and log level, byte for byte). `Adjunct` holds every other wording of the contract: routes
that do not exist, refusals of the HTTP parser, and the plain texts that the contract gives for
particular cases of a published code (`of` names that code).

Invariants: no status number and no client-visible sentence exists outside this module (the
sentences that say what is wrong with one member of a body stand beside it, in `sentences`), and
the name of a row never changes, because `x-error-code` and the logs carry it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

LogLevel = Literal["warn", "error"]


class Shape(enum.Enum):
    """The body shapes of the contract (part A.0) that a row can have by default."""

    PLAIN = "B1"
    CODED = "B2"
    OPENAI = "B4"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One error: its status, its exact text and how it is treated.

    `eq=False` keeps rows with equal contents distinct; as equal values of an enum they would
    become aliases of one another.
    """

    status: int
    message: str
    log_level: LogLevel | None = None
    """Level of the one log record; None writes no record above debug."""
    shape: Shape = Shape.PLAIN
    should_retry: bool = False
    """`x-should-retry`: whether the same request can succeed later without a change."""
    counted: bool = True
    """Whether a 4xx counts in the failed-request budget (contract A.3; 429 and 5xx never do)."""
    of: str | None = None
    """For a wording of a published code: the name of that code, which clients are told."""


@enum.unique
class ErrorCode(enum.Enum):
    """The 40 published codes."""

    AUTHENTICATION_FAILED = Row(
        401,
        "Authentication failed",
    )
    AUTHENTICATION_FAILED_INACTIVE_KEY = Row(
        401,
        "Authentication failed - Pro subscription is inactive. Please upgrade your "
        "subscription to continue using the API",
    )
    X402_INVALID_SIGN_IN = Row(
        401,
        "Invalid Sign-in-with-x signature",
    )
    PRO_ONLY_MODEL = Row(
        401,
        "This model is only available to Pro users",
    )
    INSUFFICIENT_BALANCE = Row(
        402,
        "Insufficient USD or Diem balance to complete request. Visit "
        "https://venice.ai/settings/api to add credits.",
    )
    API_KEY_DIEM_SPEND_LIMIT_EXCEEDED = Row(
        402,
        "API key DIEM spend limit exceeded. Your account may still have DIEM balance, "
        "but this API key has reached its configured DIEM spending limit.",
    )
    API_KEY_USD_SPEND_LIMIT_EXCEEDED = Row(
        402,
        "API key USD spend limit exceeded. Your account may still have USD balance, but"
        " this API key has reached its configured USD spending limit.",
    )
    UNAUTHORIZED = Row(
        403,
        "Unauthorized access",
    )
    API_ACCESS_DISABLED = Row(
        403,
        "API access has been disabled for this account. Please contact support@venice.ai",
    )
    X402_WALLET_MISMATCH = Row(
        403,
        "You can only access resources for your own wallet",
    )
    INVALID_REQUEST = Row(
        400,
        "Invalid request parameters",
    )
    INVALID_MODEL = Row(
        400,
        "Invalid model specified",
    )
    REQUEST_ID_NOT_FOUND = Row(
        400,
        "Request ID is invalid.",
    )
    INVALID_AUDIO_FORMAT = Row(
        400,
        "Invalid audio format. Supported formats are WAV and MP3.",
    )
    INVALID_VIDEO_FORMAT = Row(
        400,
        "Invalid video format. Supported formats include MP4, MOV, WebM, MKV, AVI, and others.",
    )
    CORRUPTED_IMAGE = Row(
        400,
        "The image file is corrupted or unreadable",
    )
    IMAGE_TOO_SMALL = Row(
        400,
        "Image dimensions are too small",
    )
    TOO_MANY_TOKENS = Row(
        400,
        "Your request exceeds the model's maximum context. Please reduce your prompt or"
        " completion length.",
        shape=Shape.OPENAI,
    )
    CHARACTER_NOT_FOUND = Row(
        404,
        "No character could be found from the provided character_slug",
    )
    MODEL_NOT_FOUND = Row(
        404,
        "Specified model not found",
    )
    MEDIA_NOT_FOUND = Row(
        404,
        "Media could not be found. Request may may be invalid, expired, or deleted.",
    )
    PAYLOAD_TOO_LARGE = Row(
        413,
        "The request payload is too large. Please reduce the size of your request.",
        shape=Shape.CODED,
        counted=False,
    )
    INVALID_CONTENT_TYPE = Row(
        415,
        "Invalid request content-type",
        counted=False,
    )
    VIDEO_DURATION_TOO_LONG = Row(
        422,
        "Video duration exceeds the maximum allowed.",
    )
    VIDEO_DURATION_TOO_SHORT = Row(
        422,
        "Video duration is too short.",
    )
    IMAGE_TOO_LARGE = Row(
        422,
        "Image dimensions exceed the maximum allowed.",
    )
    CONTENT_POLICY_VIOLATION = Row(
        422,
        "Your prompt violates the content policy of Venice.ai or the model provider",
    )
    ASR_UPSTREAM_VALIDATION_FAILED = Row(
        422,
        "The audio could not be processed for transcription. Common causes: zero-"
        "length, silent, corrupt, or unsupported-language audio. Please verify the file"
        " and retry.",
        log_level="warn",
    )
    RATE_LIMIT_EXCEEDED = Row(
        429,
        "Rate limit exceeded",
        should_retry=True,
    )
    MODEL_OVERLOADED = Row(
        429,
        "The model is currently overloaded. Please try again later.",
        should_retry=True,
    )
    INFERENCE_FAILED = Row(
        500,
        "Inference processing failed",
        log_level="error",
        should_retry=True,
    )
    UPSCALE_FAILED = Row(
        500,
        "Image upscaling failed",
        log_level="error",
        should_retry=True,
    )
    IMAGE_EDIT_ERROR = Row(
        500,
        "Image edit failed",
        log_level="error",
        should_retry=True,
    )
    UNKNOWN_ERROR = Row(
        500,
        "An unknown error occurred",
        log_level="error",
    )
    TEE_ATTESTATION_FAILED = Row(
        502,
        "TEE attestation request failed. The Trusted Execution Environment provider may"
        " be temporarily unavailable.",
        log_level="error",
        should_retry=True,
    )
    TEE_SIGNATURE_FAILED = Row(
        502,
        "TEE signature request failed. The Trusted Execution Environment provider may "
        "be temporarily unavailable.",
        log_level="error",
        should_retry=True,
    )
    ASR_UPSTREAM_FAILED = Row(
        502,
        "Audio transcription failed due to a temporary upstream error. Please retry.",
        log_level="warn",
        should_retry=True,
    )
    MODEL_OFFLINE = Row(
        503,
        "The model is temporarily offline. Please try again later.",
        should_retry=True,
    )
    MODEL_AT_CAPACITY = Row(
        503,
        "The model is at capacity. Please try again later.",
        should_retry=True,
    )
    REQUEST_TIMEOUT = Row(
        504,
        "The request took too long to complete and was timed-out. For long-running "
        "inference requests, use the streaming API by setting `stream=true` in your "
        "request.",
    )


@enum.unique
class Adjunct(enum.Enum):
    """Errors outside the 40, and other wordings of the 40 (contract A.2 and A.6)."""

    ROUTE_NOT_FOUND = Row(404, "Not found", counted=False)
    METHOD_NOT_ALLOWED = Row(405, "Method not allowed", counted=False)
    MALFORMED_HTTP = Row(400, "Invalid request parameters", counted=False)
    ADMIN_KEY_REQUIRED = Row(401, "Admin API key required")
    PAYMENT_HEADER_NOT_ACCEPTED = Row(
        400, "Payment headers are accepted on /x402/top-up only", shape=Shape.CODED
    )
    FAILED_REQUEST_BUDGET = Row(
        429,
        "Too many failed attempts (> {failed_requests_max}) resulting in a non-success status "
        "code. Please wait {block_seconds}s and try again.",
        should_retry=True,
    )
    NO_CREDENTIALS = Row(401, "Authentication failed", counted=False, of="AUTHENTICATION_FAILED")
    INVALID_JSON = Row(400, "Invalid JSON request", counted=False, of="INVALID_REQUEST")
    INVALID_FORM = Row(400, "Invalid request parameters", counted=False, of="INVALID_REQUEST")
    IMAGE_NOT_ACCEPTED = Row(
        400, "Supplied image did not pass validation checks.", of="INVALID_REQUEST"
    )
    MODEL_REQUIRED = Row(400, "model is required", of="INVALID_REQUEST")
    MODEL_NOT_A_STRING = Row(400, "model must be a string", of="INVALID_REQUEST")
    IDEMPOTENCY_KEY_REUSED = Row(
        400, "This Idempotency-Key was already used with a different request"
    )
    IDEMPOTENT_ANSWER_NOT_KEPT = Row(
        400,
        "The request with this Idempotency-Key was answered, but its answer was not kept and "
        "cannot be sent again",
    )
    API_KEY_NOT_FOUND = Row(400, "API key not found", of="INVALID_REQUEST")
    API_KEY_NOT_FOUND_OR_EXPIRED = Row(400, "API key not found or expired", of="INVALID_REQUEST")
    API_KEY_COULD_NOT_BE_FOUND = Row(400, "API key could not be found", of="INVALID_REQUEST")
    TOO_MANY_API_KEYS = Row(
        400, "The maximum number of active API keys has been reached", of="INVALID_REQUEST"
    )
    INVALID_CURSOR = Row(
        400, "Invalid or expired cursor; restart from the first page", of="INVALID_REQUEST"
    )
    ENDPOINT_RETIRED = Row(
        410,
        "This endpoint has been retired. Use /billing/usage-history instead: startDate is now "
        "startTimestamp, endDate is endTimestamp, limit is pageSize, and page is cursor.",
        counted=False,
    )
    ANALYTICS_TIMEOUT = Row(
        504, "Query timed out - try reducing the lookback period", log_level="error"
    )
    UPSTREAM_REJECTED = Row(
        400,
        "Invalid request parameters. For assistance, please reach out to support@venice.ai and "
        "reference request ID: {request_id}",
        of="INVALID_REQUEST",
    )


Code = ErrorCode | Adjunct
"""A row of either table."""


def row_of(code: Code) -> Row:
    """The row of `code` (typed: the value of a union of enums is not)."""
    row: Row = code.value
    return row


def public_name(code: Code) -> str:
    """The name that `x-error-code`, logs and metrics carry for `code`."""
    return row_of(code).of or code.name
