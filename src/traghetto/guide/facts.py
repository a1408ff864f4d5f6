"""Everything that can be asked about one code, gathered from the catalogue and the explanations.

These values are what programs get, from `GET /errors` and `traghetto errors show --json`, and what
the pages and the reference are made of. Nothing here is written twice: each member is derived.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from traghetto.errors import (
    Adjunct,
    ApiError,
    Code,
    ErrorCode,
    ErrorStyle,
    LogLevel,
    Shape,
    invalid_request,
    public_name,
    render_error,
    row_of,
    text_of,
)
from traghetto.guide.coverage import NOT_SERVED_YET
from traghetto.guide.explanations import (
    LANGUAGES,
    Charged,
    Explanation,
    Language,
    charged,
    explanation_of,
    retry_advice,
)
from traghetto.guide.recipes import recipe_of

SHAPES: Final = {
    Shape.PLAIN: '{"error"}',
    Shape.CODED: '{"code", "error"}',
    Shape.OPENAI: 'OpenAI object {"error": {"message", "type", "param", "code"}}',
}
"""How a person is told about a body shape."""

_EXAMPLE_REQUEST_ID: Final = "5f2c9d0e8b7a46138e21c4d7f0a9b365"
_EXAMPLE_DETAILS: Final[dict[Code, dict[str, Any]]] = {
    Adjunct.FAILED_REQUEST_BUDGET: {"failed_requests_max": 20, "block_seconds": 30},
}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sees of any code and how it is treated, in reading order."""

    code: str
    status: int
    message: str
    """As this server sends it; the numbers of a request stand as names in braces."""
    log_level: LogLevel | None
    header: str | None
    """The header that carries the code's public name; None where the operator switched it off."""
    body_shape: str
    body_example: str
    """The exact text of a body, which is JSON."""
    retry: str
    should_retry: bool
    """What `x-should-retry` says."""
    counted_as_failed: bool
    """Whether the failed-request budget of the caller counts it."""


class PublishedFacts(Facts, frozen=True, kw_only=True):
    """One of the 40: its facts, and what is to be said about it."""

    other_messages: tuple[str, ...]
    """Sentences that stand in the place of `message` in particular cases of this code."""
    charged: Charged
    served: bool
    """Whether any endpoint of this server gives it yet."""
    explanation: dict[Language, Explanation]
    recipe: str | None = None
    """Commands that bring it about in a lab; None while no endpoint gives it."""


def facts_of(code: Code, style: ErrorStyle) -> Facts:
    """What is known of any code, as a server with this `style` answers."""
    return Facts(**_facts(code, style))


def published_facts(code: ErrorCode, style: ErrorStyle) -> PublishedFacts:
    """What is known of a published code, its explanations and its recipe included."""
    recipe = recipe_of(code)
    return PublishedFacts(
        **_facts(code, style),
        other_messages=tuple(row_of(other).message for other in _wordings(code)),
        charged=charged(code),
        served=code not in NOT_SERVED_YET,
        explanation={language: explanation_of(code, language) for language in LANGUAGES},
        recipe=None if recipe is None else recipe.commands(),
    )


def _facts(code: Code, style: ErrorStyle) -> dict[str, Any]:
    """The members of `Facts`."""
    row = row_of(code)
    error = _example_of(code)
    rendered = render_error(error, _EXAMPLE_REQUEST_ID, style)
    return {
        "code": code.name,
        "status": row.status,
        "message": text_of(code, style),
        "log_level": row.log_level,
        "header": f"x-error-code: {public_name(code)}" if style.code_header else None,
        "body_shape": SHAPES[Shape.OPENAI if style.openai_objects else row.shape],
        "body_example": rendered.body.decode(),
        "retry": retry_advice(code),
        "should_retry": error.should_retry,
        "counted_as_failed": error.counts_as_failed,
    }


def _example_of(code: Code) -> ApiError:
    """An instance of `code` with whatever its text needs."""
    if code is ErrorCode.INVALID_REQUEST:
        issue = {"code": "custom", "message": "Invalid input", "path": ["field"]}
        return invalid_request({"_errors": [], "field": {"_errors": ["Invalid input"]}}, [issue])
    return ApiError(code, details=_EXAMPLE_DETAILS.get(code))


def _wordings(code: ErrorCode) -> list[Adjunct]:
    """The rows that word particular cases of `code` in sentences of their own."""
    return [
        adjunct
        for adjunct in Adjunct
        if public_name(adjunct) == code.name and row_of(adjunct).message != row_of(code).message
    ]
