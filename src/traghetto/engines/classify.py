"""Conditions of HTTP backends to failure kinds, as tables.

A failure is classified by the first of: a *code* that the backend put into its error object, a
*sentence* by which a known server refuses an over-long prompt (older servers give no code), the
HTTP status. Codes decide contents and context for any status, because servers disagree about
statuses; sentences are only ever matched for the context length, and never decide money: both
outcomes void the hold. Bodies of real servers are kept in tests/engines/fixtures.

Invariant: nothing a backend wrote leaves this module except parameter paths that look like ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.wire.completion import decode_answer

FIELDS_MAX: Final = 5
RETRY_AFTER_SECONDS_MAX: Final = 3600
_MESSAGE_CHARACTERS_MAX: Final = 4096
_PATH_CHARACTERS_MAX: Final = 128

_BY_STATUS: Final[Mapping[int, FailureKind]] = {
    400: FailureKind.REJECTED_INPUT,
    401: FailureKind.MISCONFIGURED,
    402: FailureKind.MISCONFIGURED,
    403: FailureKind.MISCONFIGURED,
    404: FailureKind.MISCONFIGURED,
    408: FailureKind.TIMED_OUT,
    413: FailureKind.TOO_LARGE,
    422: FailureKind.REJECTED_INPUT,
    429: FailureKind.OVERLOADED,
    500: FailureKind.BROKEN,
    502: FailureKind.BROKEN,
    503: FailureKind.AT_CAPACITY,
    504: FailureKind.TIMED_OUT,
    529: FailureKind.OVERLOADED,
}

_BY_CODE: Final[Mapping[str, FailureKind]] = {
    # The prompt does not fit: OpenAI and many; llama.cpp; DwarfStar.
    "context_length_exceeded": FailureKind.CONTEXT_EXCEEDED,
    "exceed_context_size_error": FailureKind.CONTEXT_EXCEEDED,
    "context_exceeded": FailureKind.CONTEXT_EXCEEDED,
    # A content policy: OpenAI, text and images; Azure, outer and inner; DashScope; Google.
    "content_policy_violation": FailureKind.REJECTED_CONTENT,
    "moderation_blocked": FailureKind.REJECTED_CONTENT,
    "content_filter": FailureKind.REJECTED_CONTENT,
    "contentfilter": FailureKind.REJECTED_CONTENT,
    "responsibleaipolicyviolation": FailureKind.REJECTED_CONTENT,
    "data_inspection_failed": FailureKind.REJECTED_CONTENT,
    "datainspectionfailed": FailureKind.REJECTED_CONTENT,
    "prohibited_content": FailureKind.REJECTED_CONTENT,
    "content_filter_error": FailureKind.REJECTED_CONTENT,
    # The operator's account with the provider is empty; it comes with 429, but waiting is no help.
    "insufficient_quota": FailureKind.MISCONFIGURED,
    "insufficient_balance": FailureKind.MISCONFIGURED,
}
"""Codes that mean the same whatever the status says."""

_BY_CODE_WITHOUT_STATUS: Final[Mapping[str, FailureKind]] = {
    "rate_limit_exceeded": FailureKind.OVERLOADED,
    "rate_limit_error": FailureKind.OVERLOADED,
    "overloaded_error": FailureKind.OVERLOADED,
    "engine_overloaded_error": FailureKind.OVERLOADED,
    "model_overloaded": FailureKind.OVERLOADED,
    "overloaded": FailureKind.OVERLOADED,
    "unavailable_error": FailureKind.AT_CAPACITY,
    "service_unavailable": FailureKind.AT_CAPACITY,
    "authentication_error": FailureKind.MISCONFIGURED,
    "invalid_api_key": FailureKind.MISCONFIGURED,
    "permission_error": FailureKind.MISCONFIGURED,
    "model_not_found": FailureKind.MISCONFIGURED,
    "not_found_error": FailureKind.MISCONFIGURED,
    "invalid_request_error": FailureKind.REJECTED_INPUT,
    "badrequesterror": FailureKind.REJECTED_INPUT,
    "validation": FailureKind.REJECTED_INPUT,
    "timeout_error": FailureKind.TIMED_OUT,
    "gatewaytimeouterror": FailureKind.TIMED_OUT,
}
"""Codes that an error inside a 200 may carry in place of a status."""

_CONTEXT_SENTENCES: Final = re.compile(
    "|".join(
        (
            r"maximum context length",  # OpenAI, vLLM, DeepSeek, OpenRouter
            r"longer than the maximum model length",  # vLLM, multimodal prompts
            r"longer than the model's context length",  # SGLang
            r"exceeds? the (?:model's )?context (?:window|length)",  # OpenAI, LM Studio
            r"exceeds? the available context size",  # llama.cpp before it had a code
            r"exceeds? (?:max(?:imum)? )?context (?:length|limit)",  # Ollama, Anthropic
            r"greater than the context length",  # LM Studio
            r"not enough\. try to load the model with a larger context",  # LM Studio, older
            r"context size has been exceeded",  # LM Studio, MLX
            r"exceed context window of",  # llama-cpp-python
            r"exceed n_ctx",  # llama-box
            r"`inputs` tokens \+ `max_new_tokens` must be <=",  # TGI
            r"`inputs` must have less than \d+ tokens",  # TGI
            r"prompt is too long: \d+ tokens",  # Anthropic
        )
    )
)

_REFUSALS: Final = frozenset({400, 403, 413, 422, 500})
"""Statuses with which servers are known to refuse an over-long prompt."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_INDEX: Final = re.compile(r"\[(\d{1,5})\]")


def failure_of_response(
    status: int, headers: Mapping[str, str], body: bytes, *, utc_seconds: float
) -> EngineFailure:
    """What a backend's answer other than 200 means.

    `headers` finds names whatever their case; `body` may be cut short or empty; `utc_seconds` is
    now, for a `Retry-After` that is a date.
    """
    reason = f"the backend answered {status}"
    if 300 <= status < 400:
        return EngineFailure(FailureKind.REDIRECTED, reason)
    try:
        facts = _facts_of(decode_answer(body))
    except ValueError:
        facts = _NO_FACTS
    kind = _kind_by_contents(facts, has_context_status=status in _REFUSALS)
    if kind is None:
        kind = _BY_STATUS.get(status, FailureKind.BROKEN)
    return EngineFailure(
        kind,
        reason,
        retry_after_seconds=retry_after_seconds(headers, utc_seconds),
        fields=facts.fields if kind is FailureKind.REJECTED_INPUT else (),
    )


def failure_of_event(error: Any) -> EngineFailure:
    """What an error object inside a 200 means: the `error` member of an event or of an answer.

    Servers that send the object bare (`{"object": "error", ...}`) are understood too.
    """
    facts = _facts_of(error)
    kind = _kind_by_contents(facts, has_context_status=True)
    if kind is None and facts.status is not None:
        kind = _BY_STATUS.get(facts.status)
    if kind is None:
        kind = next(
            (_BY_CODE_WITHOUT_STATUS[c] for c in facts.codes if c in _BY_CODE_WITHOUT_STATUS),
            FailureKind.BROKEN,
        )
    return EngineFailure(
        kind,
        "the backend reported an error inside its answer",
        retry_after_seconds=facts.retry_after_seconds,
        fields=facts.fields if kind is FailureKind.REJECTED_INPUT else (),
    )


def error_inside(answer: Any) -> EngineFailure | None:
    """The failure that a decoded event or answer carries in-band, or None if it carries none."""
    if isinstance(answer, dict) and (answer.get("error") or answer.get("object") == "error"):
        return failure_of_event(answer.get("error") or answer)
    return None


def retry_after_seconds(headers: Mapping[str, str], utc_seconds: float) -> int | None:
    """`Retry-After` (or `retry-after-ms`) in whole seconds, rounded up; None if absent or junk."""
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and milliseconds.isdecimal() and len(milliseconds) < 12:
        return min(-(-int(milliseconds) // 1000), RETRY_AFTER_SECONDS_MAX)
    value = headers.get("retry-after")
    if value is None:
        return None
    if value.isdecimal() and value.isascii():
        return min(int(value[:9]), RETRY_AFTER_SECONDS_MAX)
    try:
        wait = parsedate_to_datetime(value).timestamp() - utc_seconds
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(-int(-wait // 1), 0), RETRY_AFTER_SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What an error object says, reduced to what the tables need."""

    codes: tuple[str, ...] = ()
    """Lower-case values of `code`, `type`, `error_type` and the inner code."""
    status: int | None = None
    message: str = ""
    fields: tuple[str, ...] = ()
    retry_after_seconds: int | None = None


_NO_FACTS: Final = _Facts()


def _kind_by_contents(facts: _Facts, *, has_context_status: bool) -> FailureKind | None:
    for code in facts.codes:
        if code in _BY_CODE:
            return _BY_CODE[code]
    if has_context_status and _CONTEXT_SENTENCES.search(facts.message):
        return FailureKind.CONTEXT_EXCEEDED
    return None


def _facts_of(body: Any) -> _Facts:
    """Reads any of the shapes in use: OpenAI's, bare, a plain string, FastAPI's, Anthropic's."""
    error = body
    if isinstance(body, dict) and body.get("error"):
        error = body["error"]
        if isinstance(error, str):
            error = {**body, "message": error}
    if isinstance(error, str):
        return _Facts(message=error[:_MESSAGE_CHARACTERS_MAX].lower())
    if not isinstance(error, dict):
        return _NO_FACTS
    inner = error.get("innererror")
    named = [error.get("code"), error.get("type"), error.get("error_type")]
    if isinstance(inner, dict):
        named.append(inner.get("code"))
    detail = error.get("detail")
    message = error.get("message") or detail
    wait = error.get("retry_after")
    return _Facts(
        codes=tuple(name.lower() for name in named if isinstance(name, str)),
        status=_status_of(error.get("code"), error.get("status")),
        message=message[:_MESSAGE_CHARACTERS_MAX].lower() if isinstance(message, str) else "",
        fields=_field_paths(error.get("param"), detail),
        retry_after_seconds=(
            min(wait, RETRY_AFTER_SECONDS_MAX) if type(wait) is int and wait >= 0 else None
        ),
    )


def _status_of(*candidates: Any) -> int | None:
    for candidate in candidates:
        written = isinstance(candidate, str) and len(candidate) == 3 and candidate.isdecimal()
        status = int(candidate) if written else candidate
        if type(status) is int and 400 <= status <= 599:
            return status
    return None


def _field_paths(param: Any, detail: Any) -> tuple[str, ...]:
    """Dotted paths of the members a backend objects to, in its order, at most `FIELDS_MAX`."""
    paths: list[str] = []
    if isinstance(param, str):
        paths.append(_INDEX.sub(r".\1", param))
    if isinstance(detail, list):
        for item in detail[: 4 * FIELDS_MAX]:
            place = item.get("loc") if isinstance(item, dict) else None
            if isinstance(place, list):
                paths.append(".".join(str(part) for part in place if part != "body"))
    return tuple(dict.fromkeys(filter(_is_path, paths)))[:FIELDS_MAX]


def _is_path(path: str) -> bool:
    if len(path) > _PATH_CHARACTERS_MAX:
        return False
    first, *rest = path.split(".")
    return bool(_NAME.fullmatch(first)) and all(
        part.isdecimal() or _NAME.fullmatch(part) for part in rest
    )
