"""The error contract: the catalogue, the exception that names a row, and the renderer."""

from traghetto.errors.catalogue import (
    Adjunct,
    Code,
    ErrorCode,
    LogLevel,
    Row,
    Shape,
    public_name,
    row_of,
)
from traghetto.errors.exception import ApiError, LimitReached, invalid_request
from traghetto.errors.render import (
    PUBLISHED_STYLE,
    ErrorStyle,
    RenderedError,
    message_of,
    render_error,
    render_stream_error,
    says_when,
    text_of,
)

__all__ = [
    "PUBLISHED_STYLE",
    "Adjunct",
    "ApiError",
    "Code",
    "ErrorCode",
    "ErrorStyle",
    "LimitReached",
    "LogLevel",
    "RenderedError",
    "Row",
    "Shape",
    "invalid_request",
    "message_of",
    "public_name",
    "render_error",
    "render_stream_error",
    "row_of",
    "says_when",
    "text_of",
]
