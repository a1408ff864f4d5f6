"""Which errors an endpoint can answer with: those of the stages that its requests pass.

The dispatcher holds every answer against these sets, the document of the API lists them, and what
the tests provoke must be in them.
"""

from __future__ import annotations

from typing import Final

from traghetto.errors import Adjunct, Code, ErrorCode
from traghetto.pipeline.failures import CHAT_CODES
from traghetto.pipeline.images.operations import NAMED_MODEL_CODES, ImageOperation
from traghetto.pipeline.stages.pictures import FAULT_CODES

Codes = frozenset[Code]

ALWAYS: Final[Codes] = frozenset({ErrorCode.UNKNOWN_ERROR})
"""A defect of our own can come anywhere."""
BODY: Final[Codes] = frozenset(
    {
        ErrorCode.PAYLOAD_TOO_LARGE,
        ErrorCode.INVALID_CONTENT_TYPE,
        Adjunct.INVALID_JSON,
        ErrorCode.MODEL_AT_CAPACITY,
    }
)
"""The last one where other bodies take all the memory that there is for them."""
CALLER: Final[Codes] = frozenset(
    {
        Adjunct.PAYMENT_HEADER_NOT_ACCEPTED,
        Adjunct.NO_CREDENTIALS,
        ErrorCode.AUTHENTICATION_FAILED,
        Adjunct.FAILED_REQUEST_BUDGET,
        ErrorCode.API_ACCESS_DISABLED,
        ErrorCode.AUTHENTICATION_FAILED_INACTIVE_KEY,
    }
)
ADMIN: Final[Codes] = CALLER | {Adjunct.ADMIN_KEY_REQUIRED}
METRICS: Final[Codes] = frozenset(
    {
        Adjunct.NO_CREDENTIALS,
        ErrorCode.AUTHENTICATION_FAILED,
        Adjunct.ADMIN_KEY_REQUIRED,
        Adjunct.FAILED_REQUEST_BUDGET,
        ErrorCode.UNKNOWN_ERROR,
    }
)
CLAIM: Final[Codes] = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.RATE_LIMIT_EXCEEDED,
        ErrorCode.REQUEST_TIMEOUT,
        Adjunct.IDEMPOTENCY_KEY_REUSED,
        Adjunct.IDEMPOTENT_ANSWER_NOT_KEPT,
    }
)
ACCESS: Final[Codes] = frozenset(
    {ErrorCode.PRO_ONLY_MODEL, ErrorCode.UNAUTHORIZED, ErrorCode.MODEL_OFFLINE}
)
ADMISSION: Final[Codes] = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INSUFFICIENT_BALANCE,
        ErrorCode.API_KEY_DIEM_SPEND_LIMIT_EXCEEDED,
        ErrorCode.API_KEY_USD_SPEND_LIMIT_EXCEEDED,
        ErrorCode.RATE_LIMIT_EXCEEDED,
        ErrorCode.MODEL_AT_CAPACITY,
    }
)
PICTURES: Final[Codes] = frozenset({*FAULT_CODES.values(), Adjunct.IMAGE_NOT_ACCEPTED})
"""Of images that come with a request."""

CHAT: Final[Codes] = (
    (ALWAYS | BODY | CALLER | CLAIM | NAMED_MODEL_CODES | ACCESS | ADMISSION | PICTURES)
    | {Adjunct.MODEL_REQUIRED}
    | frozenset(CHAT_CODES.values())
)


def codes_of(operation: ImageOperation) -> Codes:
    """The errors of an endpoint for images."""
    codes = ALWAYS | BODY | CALLER | CLAIM | operation.model_codes | ACCESS | ADMISSION
    codes |= frozenset(operation.codes.values())
    if operation.takes_forms:
        codes |= {Adjunct.INVALID_FORM}
    if operation.takes_pictures:
        codes |= PICTURES
    if not operation.refuses_content:
        codes -= {ErrorCode.CONTENT_POLICY_VIOLATION}
    return codes
