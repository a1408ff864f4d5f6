"""Errors of real servers have the failure kinds they should; nothing of their text gets through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from traghetto.engines.classify import (
    FIELDS_MAX,
    error_inside,
    failure_of_event,
    failure_of_response,
    retry_after_seconds,
)
from traghetto.engines.failures import FailureKind

FIXTURES = Path(__file__).parent / "fixtures"
NOW = 1_767_225_600.0


def rows(*names: str) -> list[Any]:
    found = [row for name in names for row in json.loads((FIXTURES / f"{name}.json").read_text())]
    return [pytest.param(row, id=row["name"]) for row in found]


def of_response(status: int, body: Any, headers: dict[str, str] | None = None) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return failure_of_response(status, CIMultiDict(headers or {}), raw, utc_seconds=NOW)


@pytest.mark.parametrize("row", rows("llama_cpp", "transcribed"))
def test_the_error_of_a_real_server_has_its_kind(row: dict[str, Any]) -> None:
    """Status and body give the kind and the parameter paths; no word of the server is kept."""
    failure = of_response(row["status"], row["body"])
    assert failure.kind is FailureKind[row["kind"]]
    assert list(failure.fields) == row["fields"]
    assert failure.reason == f"the backend answered {row['status']}"


@pytest.mark.parametrize("row", rows("in_band"))
def test_an_error_inside_an_answer_has_its_kind(row: dict[str, Any]) -> None:
    """Without a status the object itself decides."""
    failure = error_inside(row["body"])
    assert failure is not None
    assert failure.kind is FailureKind[row["kind"]]


def test_an_error_that_a_stream_names_the_time_for_keeps_it() -> None:
    """`retry_after` inside an error object is understood."""
    assert failure_of_event({"code": 429, "retry_after": 30}).retry_after_seconds == 30


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, "REDIRECTED"), (302, "REDIRECTED"), (303, "REDIRECTED"), (307, "REDIRECTED"),
        (308, "REDIRECTED"), (400, "REJECTED_INPUT"), (401, "MISCONFIGURED"),
        (402, "MISCONFIGURED"), (403, "MISCONFIGURED"), (404, "MISCONFIGURED"),
        (405, "BROKEN"), (408, "TIMED_OUT"), (409, "BROKEN"), (413, "TOO_LARGE"),
        (422, "REJECTED_INPUT"), (429, "OVERLOADED"), (500, "BROKEN"), (502, "BROKEN"),
        (503, "AT_CAPACITY"), (504, "TIMED_OUT"), (520, "BROKEN"), (529, "OVERLOADED"),
        (204, "BROKEN"), (206, "BROKEN"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"{", b"null", b"[]", b'"x"', b"\xff"])
def test_a_status_alone_has_a_kind(status: int, kind: str, body: bytes) -> None:
    """A body that says nothing leaves the decision to the status."""
    assert of_response(status, body).kind is FailureKind[kind]


def test_a_users_words_in_a_message_decide_nothing_about_contents() -> None:
    """A policy refusal is recognised by codes only, never by sentences."""
    body = {"error": {"message": "bad value 'content_filter: content_policy_violation'"}}
    assert of_response(400, body).kind is FailureKind.REJECTED_INPUT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "999999999999"}, 3600),
        ({"Retry-After": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30),
        ({"Retry-After": "Wed, 31 Dec 2025 23:59:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "\u0665"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"retry-after-ms": "1200", "Retry-After": "9"}, 2),
        ({"retry-after-ms": "x", "Retry-After": "9"}, 9),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: int | None) -> None:
    """Seconds, a date, or milliseconds; junk is no time."""
    assert retry_after_seconds(CIMultiDict(headers), NOW) == seconds


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "code", "type", "message", "param", "detail", "loc", "status"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.integers(100, 999), json_values)
def test_any_json_is_classified(status: int, body: Any) -> None:
    """No body breaks the classification, and the paths it lets through look like paths."""
    failure = of_response(status, body)
    assert len(failure.fields) <= FIELDS_MAX
    assert all(len(path) <= 128 and path.isascii() and " " not in path for path in failure.fields)
    error_inside(body)
    failure_of_event(body)
