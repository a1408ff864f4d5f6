"""The one exception that becomes an error answer."""

from __future__ import annotations

from typing import Any

from traghetto.errors.catalogue import Code, ErrorCode, public_name, row_of


class ApiError(Exception):
    """A failure that the client is told about: a row of the catalogue and its extras.

    Raise it as `raise ApiError(ErrorCode.MODEL_NOT_FOUND)`. It is logged once, where it is
    answered, because until then it may be caught and retried.
    """

    def __init__(  # noqa: PLR0913 - all but one are keywords with defaults
        self,
        code: Code,
        *,
        details: dict[str, Any] | None = None,
        issues: list[dict[str, Any]] | None = None,
        fields: tuple[str, ...] = (),
        retry_after_seconds: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        unsupported_feature: bool = False,
        is_final: bool = False,
        reason: str | None = None,
    ) -> None:
        """`details` and `issues` are the validation members (shape B3), `fields` the paths of the
        caller's own body that a backend named (shape B11), `headers` ready ASGI headers,
        `unsupported_feature` whether it counts in that budget instead of the failed one,
        `is_final` that no retry can help where one usually does, and `reason` an operator's
        explanation for the log: never sent, never user content.
        """
        super().__init__(public_name(code))
        self.code = code
        self.details = details
        self.issues = issues
        self.fields = fields
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers
        self.unsupported_feature = unsupported_feature
        self.is_final = is_final
        self.reason = reason

    @property
    def should_retry(self) -> bool:
        """Whether the same request can succeed later, without a change by anybody."""
        return row_of(self.code).should_retry and not self.is_final

    @property
    def status(self) -> int:
        """The HTTP status of the row."""
        return row_of(self.code).status

    @property
    def counts_as_failed(self) -> bool:
        """Whether the failed-request budget counts it (contract A.3): 4xx except 429."""
        row = row_of(self.code)
        return row.counted and 400 <= row.status < 500 and row.status != 429


class LimitReached(ApiError):
    """A refusal by a limit of the caller's: `limit_type` is what the log of refusals calls it."""

    def __init__(
        self,
        code: Code,
        *,
        limit_type: str,
        details: dict[str, Any] | None = None,
        retry_after_seconds: int,
        headers: tuple[tuple[bytes, bytes], ...],
    ) -> None:
        super().__init__(
            code,
            details=details,
            retry_after_seconds=retry_after_seconds,
            headers=headers,
            reason=limit_type,
        )
        self.limit_type = limit_type


def invalid_request(
    details: dict[str, Any], issues: list[dict[str, Any]], *, unsupported_feature: bool = False
) -> ApiError:
    """INVALID_REQUEST with its validation members (shape B3)."""
    return ApiError(
        ErrorCode.INVALID_REQUEST,
        details=details,
        issues=issues,
        unsupported_feature=unsupported_feature,
    )
