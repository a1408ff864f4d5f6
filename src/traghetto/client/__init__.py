"""A client of any server that speaks the Venice API, and an exception for each published error.

    from traghetto.client import Client, InsufficientBalance

`Client` and `AsyncClient` need the extra `client` (`pip install 'traghetto[client]'`), and are
loaded when they are first named. The exceptions, and `classify`, which makes them of what the
`openai` package or another HTTP client raised, need nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from traghetto.client.answers import Answer, Balance, Completion, Picture
from traghetto.client.classification import classify, error_of
from traghetto.client.events import ChatEvent
from traghetto.client.exceptions import (
    ApiAccessDisabled,
    ApiKeyDiemSpendLimitExceeded,
    ApiKeyUsdSpendLimitExceeded,
    ApiStatusError,
    AsrUpstreamFailed,
    AsrUpstreamValidationFailed,
    AuthenticationError,
    AuthenticationFailed,
    AuthenticationFailedInactiveKey,
    BadRequest,
    CharacterNotFound,
    ConnectionFailed,
    ContentPolicyViolation,
    CorruptedImage,
    ImageEditError,
    ImageTooLarge,
    ImageTooSmall,
    InferenceFailed,
    InsufficientBalance,
    InvalidAnswer,
    InvalidAudioFormat,
    InvalidContentType,
    InvalidModel,
    InvalidRequest,
    InvalidVideoFormat,
    MediaNotFound,
    ModelAtCapacity,
    ModelNotFound,
    ModelOffline,
    ModelOverloaded,
    NotFound,
    PayloadTooLarge,
    PaymentRequired,
    PermissionDenied,
    ProOnlyModel,
    RateLimited,
    RateLimitExceeded,
    RequestIdNotFound,
    RequestTimeout,
    ServerError,
    StreamTruncated,
    TeeAttestationFailed,
    TeeSignatureFailed,
    TimedOut,
    TooManyTokens,
    TraghettoError,
    Unauthorized,
    Unavailable,
    UnknownError,
    Unprocessable,
    UpscaleFailed,
    VideoDurationTooLong,
    VideoDurationTooShort,
    X402InvalidSignIn,
    X402WalletMismatch,
)
from traghetto.client.issues import Issue

if TYPE_CHECKING:
    from traghetto.client.async_client import AsyncChatStream, AsyncClient
    from traghetto.client.sync_client import ChatStream, Client

__all__ = [
    "Answer",
    "ApiAccessDisabled",
    "ApiKeyDiemSpendLimitExceeded",
    "ApiKeyUsdSpendLimitExceeded",
    "ApiStatusError",
    "AsrUpstreamFailed",
    "AsrUpstreamValidationFailed",
    "AsyncChatStream",
    "AsyncClient",
    "AuthenticationError",
    "AuthenticationFailed",
    "AuthenticationFailedInactiveKey",
    "BadRequest",
    "Balance",
    "CharacterNotFound",
    "ChatEvent",
    "ChatStream",
    "Client",
    "Completion",
    "ConnectionFailed",
    "ContentPolicyViolation",
    "CorruptedImage",
    "ImageEditError",
    "ImageTooLarge",
    "ImageTooSmall",
    "InferenceFailed",
    "InsufficientBalance",
    "InvalidAnswer",
    "InvalidAudioFormat",
    "InvalidContentType",
    "InvalidModel",
    "InvalidRequest",
    "InvalidVideoFormat",
    "Issue",
    "MediaNotFound",
    "ModelAtCapacity",
    "ModelNotFound",
    "ModelOffline",
    "ModelOverloaded",
    "NotFound",
    "PayloadTooLarge",
    "PaymentRequired",
    "PermissionDenied",
    "Picture",
    "ProOnlyModel",
    "RateLimitExceeded",
    "RateLimited",
    "RequestIdNotFound",
    "RequestTimeout",
    "ServerError",
    "StreamTruncated",
    "TeeAttestationFailed",
    "TeeSignatureFailed",
    "TimedOut",
    "TooManyTokens",
    "TraghettoError",
    "Unauthorized",
    "Unavailable",
    "UnknownError",
    "Unprocessable",
    "UpscaleFailed",
    "VideoDurationTooLong",
    "VideoDurationTooShort",
    "X402InvalidSignIn",
    "X402WalletMismatch",
    "classify",
    "error_of",
]

_NEEDING_HTTPX2 = {
    "AsyncChatStream": "traghetto.client.async_client",
    "AsyncClient": "traghetto.client.async_client",
    "ChatStream": "traghetto.client.sync_client",
    "Client": "traghetto.client.sync_client",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDING_HTTPX2:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_NEEDING_HTTPX2[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        message = f"{name} needs httpx2: pip install 'traghetto[client]'"
        raise ModuleNotFoundError(message, name="httpx2") from error
