"""THE EXCEPTIONS: one class for each published code, in families by status.

    TraghettoError
    ├── ConnectionFailed            no answer came
    │   └── TimedOut
    ├── StreamTruncated             a stream ended, and did not say that it was complete
    ├── InvalidAnswer               a success that cannot be read
    └── ApiStatusError              the server answered with an error
        ├── AuthenticationError     401
        ├── PaymentRequired         402
        ├── PermissionDenied        403
        ├── BadRequest              400, 413, 415
        ├── NotFound                404
        ├── Unprocessable           422
        ├── RateLimited             429
        └── ServerError             500, 502, 504
            └── Unavailable         503

An error whose code is not published, or cannot be told, is its family and nothing more.

Invariant: a published code has exactly one class, whose name is that of the code; a test holds both
tables against each other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Final

from traghetto.client.issues import Issue
from traghetto.client.reading import Reading
from traghetto.errors import Adjunct, ErrorCode, Row, row_of

ISSUES_SHOWN_MAX: Final = 3

_ROWS: Final[dict[str, Row]] = {
    code.name: row_of(code) for table in (Adjunct, ErrorCode) for code in table
}
_CHARGED: Final[dict[str, bool | None]] = {
    # An edit whose result was refused after it had been made is charged (contract A.2 #27).
    ErrorCode.CONTENT_POLICY_VIOLATION.name: None,
    Adjunct.IDEMPOTENT_ANSWER_NOT_KEPT.name: True,
}
"""Every other code of the contract is an error that costs nothing (contract A.4)."""

_DID_YOU_MEAN: Final = re.compile(r"(?:Did you mean:|Please use) ([\w./:-]*\w)")


class TraghettoError(Exception):
    """Whatever this package raises about a request."""

    code: str | None = None
    """The name of the code in the contract, such as `MODEL_OFFLINE`, or the server's own."""
    retryable: bool = False
    """Whether the same request can succeed later without a change."""
    retry_after: float | None = None
    """Seconds after which the server wants to be asked again; None if it does not say."""
    charged: bool | None = None
    """Whether this request cost money all the same; None if that is not known."""
    status: int | None = None
    """The HTTP status; None if no answer came, or it came in a stream."""
    request_id: str | None = None
    """What the server calls the request, for its operator; None if no answer came."""


class ConnectionFailed(TraghettoError):
    """No answer came: the server could not be reached, or the connection broke."""

    retryable = True

    def __init__(self, reason: str, *, charged: bool | None = None) -> None:
        """`charged` is False if nothing had been sent."""
        super().__init__(reason)
        self.charged = charged


class TimedOut(ConnectionFailed):
    """No answer came in time."""


class StreamTruncated(TraghettoError):
    """A stream ended without `[DONE]`: what it brought is not the whole answer."""

    retryable = True


class InvalidAnswer(TraghettoError):
    """The server said that all is well, and its answer cannot be read."""


class ApiStatusError(TraghettoError):
    """The server answered with an error, at once or inside a stream."""

    published: ClassVar[ErrorCode | None] = None
    """The code that a class stands for; None for a family."""

    def __init__(self, reading: Reading, code: str | None = None) -> None:
        super().__init__(reading, code)
        self.code = code
        self.in_stream = reading.status is None
        """Whether the answer had begun before, so that part of it may have been received."""
        self.status = _status(reading, code)
        """The HTTP status; of an error inside a stream, the one that its code would have had."""
        self.message = reading.message
        self.retryable = _retryable(reading, code)
        self.retry_after = reading.retry_after
        self.charged = _charged(reading, code)
        self.headers: Mapping[str, str] = reading.headers
        """Of the answer, with names in lower case."""
        self.body: Any = reading.body
        """Decoded JSON, or the text that came instead, or None."""
        self.details: Any = reading.details
        self.issues: tuple[Issue, ...] = reading.issues
        """What is wrong with the request, one by one."""
        self.request_id = reading.request_id
        self.credits_refunded = reading.credits_refunded
        self.suggested_prompt = reading.text("suggested_prompt")
        self.recommended_model = _recommended_model(reading)

    def __str__(self) -> str:
        shown = [str(issue) for issue in self.issues[:ISSUES_SHOWN_MAX]]
        if len(self.issues) > ISSUES_SHOWN_MAX:
            shown.append(f"and {len(self.issues) - ISSUES_SHOWN_MAX} more")
        issues = f" ({'; '.join(shown)})" if shown else ""
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.code or self.status}: {self.message}{issues}{request}"


# --- families -----------------------------------------------------------------------------------


class AuthenticationError(ApiStatusError):
    """The server does not know, or not accept, who is asking."""


class PaymentRequired(ApiStatusError):
    """Money, or permission to spend it, is missing."""


class PermissionDenied(ApiStatusError):
    """The caller is known and may not do this."""


class BadRequest(ApiStatusError):
    """The request has to be changed."""


class NotFound(ApiStatusError):
    """What the request names does not exist."""


class Unprocessable(ApiStatusError):
    """The request was understood, and its content is refused."""


class RateLimited(ApiStatusError):
    """Too much at once; later is fine."""


class ServerError(ApiStatusError):
    """The server, or a model behind it, failed."""


class Unavailable(ServerError):
    """The model cannot answer now; another one may."""


# --- 401 ----------------------------------------------------------------------------------------


class AuthenticationFailed(AuthenticationError):
    """The API key is missing, mistyped, unknown, expired or revoked."""

    published = ErrorCode.AUTHENTICATION_FAILED


class AuthenticationFailedInactiveKey(AuthenticationError):
    """The key is good, and the subscription that it needs has lapsed."""

    published = ErrorCode.AUTHENTICATION_FAILED_INACTIVE_KEY


class X402InvalidSignIn(AuthenticationError):
    """A wallet's signature does not hold; a fresh one may."""

    published = ErrorCode.X402_INVALID_SIGN_IN


class ProOnlyModel(AuthenticationError):
    """The model is for accounts with a paid plan."""

    published = ErrorCode.PRO_ONLY_MODEL


# --- 402 ----------------------------------------------------------------------------------------


class InsufficientBalance(PaymentRequired):
    """The account has too little to pay for the request."""

    published = ErrorCode.INSUFFICIENT_BALANCE


class ApiKeyDiemSpendLimitExceeded(PaymentRequired):
    """The key has spent the DIEM that it may; the account may have more."""

    published = ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED


class ApiKeyUsdSpendLimitExceeded(PaymentRequired):
    """The key has spent the USD that it may; the account may have more."""

    published = ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED


# --- 403 ----------------------------------------------------------------------------------------


class Unauthorized(PermissionDenied):
    """The account or the key is not entitled to the model or feature."""

    published = ErrorCode.UNAUTHORIZED


class ApiAccessDisabled(PermissionDenied):
    """The operator has switched the account off."""

    published = ErrorCode.API_ACCESS_DISABLED


class X402WalletMismatch(PermissionDenied):
    """The wallet that signed is not the one that is asked about."""

    published = ErrorCode.X402_WALLET_MISMATCH


# --- 400, 413, 415 ------------------------------------------------------------------------------


class InvalidRequest(BadRequest):
    """A parameter is wrong; `issues` say which."""

    published = ErrorCode.INVALID_REQUEST


class InvalidModel(BadRequest):
    """The model exists, and is of the wrong kind for this."""

    published = ErrorCode.INVALID_MODEL


class RequestIdNotFound(BadRequest):
    """There is no job with this id, or it is somebody else's."""

    published = ErrorCode.REQUEST_ID_NOT_FOUND


class InvalidAudioFormat(BadRequest):
    """The audio is in a format that is not read."""

    published = ErrorCode.INVALID_AUDIO_FORMAT


class InvalidVideoFormat(BadRequest):
    """The video is in a format that is not read."""

    published = ErrorCode.INVALID_VIDEO_FORMAT


class CorruptedImage(BadRequest):
    """The image cannot be decoded."""

    published = ErrorCode.CORRUPTED_IMAGE


class ImageTooSmall(BadRequest):
    """The image has too few pixels."""

    published = ErrorCode.IMAGE_TOO_SMALL


class TooManyTokens(BadRequest):
    """Prompt and completion do not fit into the model's context."""

    published = ErrorCode.TOO_MANY_TOKENS


class PayloadTooLarge(BadRequest):
    """The request, or a file in it, has too many bytes."""

    published = ErrorCode.PAYLOAD_TOO_LARGE


class InvalidContentType(BadRequest):
    """The body is neither JSON nor a form, or not the one that is wanted."""

    published = ErrorCode.INVALID_CONTENT_TYPE


# --- 404 ----------------------------------------------------------------------------------------


class CharacterNotFound(NotFound):
    """There is no character with this slug."""

    published = ErrorCode.CHARACTER_NOT_FOUND


class ModelNotFound(NotFound):
    """There is no model with this name."""

    published = ErrorCode.MODEL_NOT_FOUND


class MediaNotFound(NotFound):
    """What a job made has expired, was deleted, or never existed."""

    published = ErrorCode.MEDIA_NOT_FOUND


# --- 422 ----------------------------------------------------------------------------------------


class VideoDurationTooLong(Unprocessable):
    """The video lasts too long."""

    published = ErrorCode.VIDEO_DURATION_TOO_LONG


class VideoDurationTooShort(Unprocessable):
    """The video does not last long enough."""

    published = ErrorCode.VIDEO_DURATION_TOO_SHORT


class ImageTooLarge(Unprocessable):
    """The image has too many pixels."""

    published = ErrorCode.IMAGE_TOO_LARGE


class ContentPolicyViolation(Unprocessable):
    """The content is forbidden; `suggested_prompt` may be one that is not."""

    published = ErrorCode.CONTENT_POLICY_VIOLATION


class AsrUpstreamValidationFailed(Unprocessable):
    """The audio cannot be transcribed."""

    published = ErrorCode.ASR_UPSTREAM_VALIDATION_FAILED


# --- 429 ----------------------------------------------------------------------------------------


class RateLimitExceeded(RateLimited):
    """The account's requests or tokens per minute are used up."""

    published = ErrorCode.RATE_LIMIT_EXCEEDED


class ModelOverloaded(RateLimited):
    """The model has too much to do."""

    published = ErrorCode.MODEL_OVERLOADED


# --- 500, 502, 503, 504 -------------------------------------------------------------------------


class InferenceFailed(ServerError):
    """The model failed."""

    published = ErrorCode.INFERENCE_FAILED


class UpscaleFailed(ServerError):
    """The image could not be enlarged."""

    published = ErrorCode.UPSCALE_FAILED


class ImageEditError(ServerError):
    """The image could not be edited."""

    published = ErrorCode.IMAGE_EDIT_ERROR


class UnknownError(ServerError):
    """The server failed, and does not say how."""

    published = ErrorCode.UNKNOWN_ERROR


class TeeAttestationFailed(ServerError):
    """A trusted environment gave no attestation."""

    published = ErrorCode.TEE_ATTESTATION_FAILED


class TeeSignatureFailed(ServerError):
    """A trusted environment gave no signature."""

    published = ErrorCode.TEE_SIGNATURE_FAILED


class AsrUpstreamFailed(ServerError):
    """The transcription failed, for now."""

    published = ErrorCode.ASR_UPSTREAM_FAILED


class ModelOffline(Unavailable):
    """Nothing serves the model at the moment."""

    published = ErrorCode.MODEL_OFFLINE


class ModelAtCapacity(Unavailable):
    """No place is free at the model."""

    published = ErrorCode.MODEL_AT_CAPACITY


class RequestTimeout(ServerError):
    """The answer took too long; a stream can take longer."""

    published = ErrorCode.REQUEST_TIMEOUT


# --- from a reading to an exception -------------------------------------------------------------


Raised = type[ApiStatusError]


def _classes(family: Raised = ApiStatusError) -> dict[ErrorCode, Raised]:
    found = {} if family.published is None else {family.published: family}
    for child in family.__subclasses__():
        found |= _classes(child)
    return found


CLASSES: Final = _classes()
"""The class of each published code."""

_FAMILIES: Final[dict[int, Raised]] = {
    row_of(code).status: raised.__mro__[1] for code, raised in CLASSES.items()
}
"""The family of each status that the publication knows."""


def exception_of(reading: Reading, code: str | None) -> ApiStatusError:
    """The exception for an error of this code; of its family, if the code has no class."""
    if code is not None and code in ErrorCode.__members__:
        return CLASSES[ErrorCode[code]](reading, code)
    status = _status(reading, code)
    family = _FAMILIES.get(status)
    if family is None:
        is_server_error = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        family = ServerError if is_server_error else ApiStatusError
    return family(reading, code)


def _status(reading: Reading, code: str | None) -> int:
    """The status of an answer; inside a stream that of the code, or of a failure without one."""
    row = _ROWS.get(code or "", row_of(ErrorCode.INFERENCE_FAILED))
    return row.status if reading.status is None else reading.status


def _retryable(reading: Reading, code: str | None) -> bool:
    """What the server says; without a word of it, what the contract says (C.3.4).

    Money, keys and the request itself do not mend by waiting, whatever a header says.
    """
    status = _status(reading, code)
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
        return False
    told = reading.headers.get("x-should-retry")
    if told in {"true", "false"} and reading.status is not None:
        return told == "true"
    if code in _ROWS and code != ErrorCode.UNKNOWN_ERROR.name:
        return _ROWS[code].should_retry
    # Our own gateway says of each unknown error that it stays; of another's nobody knows (A.1 #34).
    return status in _TEMPORARY


_TEMPORARY: Final = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""Statuses after which the contract lets a caller try again."""


def _charged(reading: Reading, code: str | None) -> bool | None:
    if reading.credits_refunded is not None:
        return not reading.credits_refunded
    if reading.status is None or code not in _ROWS:
        return None
    return _CHARGED.get(code, False)


def _recommended_model(reading: Reading) -> str | None:
    """The model that the server names instead: in the body, a header, or its sentence."""
    named = _DID_YOU_MEAN.search(reading.message)
    return (
        reading.text("recommended_model")
        or reading.headers.get("x-venice-deprecated-replacement")
        or (named[1] if named else None)
    )
