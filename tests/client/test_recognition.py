"""A code is recognised on any server of the Venice API, whatever shape its errors have."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.client import BUDGET_USED_UP, PUBLISHED, UPSTREAM_REJECTED
from traghetto.client import error_of
from traghetto.client.classification import error_in_stream
from traghetto.errors import Adjunct, public_name

ROWS = [pytest.param(row, id=row.code) for row in PUBLISHED.values()]


@pytest.mark.parametrize("row", ROWS)
def test_by_header(row: Any) -> None:
    """`x-error-code` is enough, and wins over what the body says."""
    assert error_of(row.status, {"X-Error-Code": row.code}, b"").code == row.code
    other = json.dumps({"error": "Something else entirely"}).encode()
    assert error_of(row.status, {"x-error-code": row.code}, other).code == row.code


@pytest.mark.parametrize("row", ROWS)
def test_by_bare_body(row: Any) -> None:
    """Status and sentence are enough: venice.ai sends nothing else."""
    error = error_of(row.status, {}, json.dumps({"error": row.message}).encode())
    assert (error.code, error.status, error.message) == (row.code, row.status, row.message)
    # As one OpenAI client hands it on: the member alone.
    assert error_of(row.status, {}, {"error": row.message}).code == row.code


@pytest.mark.parametrize("row", ROWS)
def test_by_openai_object(row: Any) -> None:
    """An error object is read like a plain one, and its `code` is enough where its text is not."""
    member = {"message": row.message, "type": "api_error", "param": None, "code": None}
    assert error_of(row.status, {}, {"error": member}).code == row.code
    coded = {"error": {"message": "In other words", "type": "x", "code": row.code}}
    assert error_of(row.status, {}, coded).code == row.code


@pytest.mark.parametrize("row", ROWS)
def test_by_sentence_that_goes_on(row: Any) -> None:
    """Live servers append to a published sentence, and change its case and stop."""
    longer = row.message.rstrip(".").upper() + ": and here is why"
    assert error_of(row.status, {}, {"error": longer}).code == row.code


@pytest.mark.parametrize("row", ROWS)
def test_inside_a_stream(row: Any) -> None:
    """A frame has no status; its sentence still has its code, which has one."""
    error = error_in_stream({}, json.loads(row.stream_frame()))
    assert (error.code, error.status, error.in_stream) == (row.code, row.status, True)


@pytest.mark.parametrize("code", Adjunct, ids=lambda code: code.name)
def test_adjuncts_keep_their_names(code: Adjunct) -> None:
    """Other wordings of the contract are recognised as well, as the code that they belong to."""
    text = code.value.message
    text = text.format(request_id="r", failed_requests_max=20, block_seconds=30)
    recognised = error_of(code.value.status, {}, {"error": text}).code
    # Where several have one sentence, it is that of the published code.
    same = {row.code for row in PUBLISHED.values() if row.message == text}
    assert recognised in (same or {public_name(code)})


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": "Invalid model id"}, "INVALID_MODEL"),
        (400, {"error": "'Content-Type' must be 'application/json'"}, "INVALID_CONTENT_TYPE"),
        (400, {"error": "No audio file provided"}, "INVALID_REQUEST"),
        (400, {"error": UPSTREAM_REJECTED.format(request_id="7")}, "INVALID_REQUEST"),
        (400, {"issues": [{"path": ["a"], "message": "Required"}]}, "INVALID_REQUEST"),
        (400, {"details": {"_errors": ["No"]}}, "INVALID_REQUEST"),
        (
            400,
            {"error": {"message": "m", "code": "context_length_exceeded"}},
            "TOO_MANY_TOKENS",
        ),
        (
            400,
            {"object": "error", "message": "This model's maximum context length is 9 tokens."},
            "TOO_MANY_TOKENS",
        ),
        (401, {"error": "x", "code": "X402_SIGN_IN_EXPIRED"}, "X402_INVALID_SIGN_IN"),
        (
            402,
            {"error": "Payment required", "code": "PAYMENT_REQUIRED",
             "reason": "insufficient_balance"},
            "INSUFFICIENT_BALANCE",
        ),
        (
            402,
            {"error": "Insufficient USD or Diem balance to complete request. Visit "
             "https://ours.example/credits to add credits."},
            "INSUFFICIENT_BALANCE",
        ),
        (402, {"x402Version": 2, "accepts": [], "authOptions": {}}, None),
        (
            403,
            {"error": "This API key is set to 'PRIVATE_ONLY', but `x` is an Anonymous model."},
            "UNAUTHORIZED",
        ),
        (403, {"error": "This API key is restricted to configured IP addresses"}, None),
        (
            403,
            {"error": "You can only access transaction history for your own wallet"},
            "X402_WALLET_MISMATCH",
        ),
        (404, {"error": "Character not found"}, "CHARACTER_NOT_FOUND"),
        (404, {"error": {"message": "The model `x` does not exist."}}, "MODEL_NOT_FOUND"),
        (
            404,
            {"error": "Media could not be found. Request may be invalid, expired, or deleted."},
            "MEDIA_NOT_FOUND",
        ),
        (404, {"error": "Not found"}, "ROUTE_NOT_FOUND"),
        (
            413,
            {"error": "File exceeds the maximum allowed size of 25 MB."},
            "PAYLOAD_TOO_LARGE",
        ),
        (413, b"<html>413 Request Entity Too Large</html>", "PAYLOAD_TOO_LARGE"),
        (422, {"error": "Your input was blocked by content moderation."},
         "CONTENT_POLICY_VIOLATION"),
        (429, {"error": "Rate limit exceeded. Please try again later."}, "RATE_LIMIT_EXCEEDED"),
        (429, {"error": BUDGET_USED_UP}, "FAILED_REQUEST_BUDGET"),
        (429, {"error": "Too many concurrent requests", "code": "X402_CONCURRENCY_LIMIT"},
         "X402_CONCURRENCY_LIMIT"),
        (400, {"error": "X402_INVALID_PAYMENT", "message": "No"}, "X402_INVALID_PAYMENT"),
        (502, {"error": {"message": "m", "code": "upstream_error"}}, None),
        (500, {"error": "Stream error"}, None),
        (502, {"error": "Speech synthesis failed due to a temporary upstream error."}, None),
        (504, b"<html>504 Gateway Time-out</html>", None),
    ],
    ids=str,
)  # fmt: skip
def test_wordings_of_live_servers(status: int, body: Any, code: str | None) -> None:
    """Wordings that differ from the publication have its codes; what is no code of it has none."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert error_of(status, {}, encoded).code == code


def test_a_sentence_under_another_status_is_another_error() -> None:
    """A sentence alone does not make a code."""
    assert error_of(500, {}, {"error": "Authentication failed"}).code is None


def test_a_header_that_is_no_name_is_ignored() -> None:
    """Some other product's `x-error-code` is not taken for ours."""
    error = error_of(404, {"x-error-code": "1020"}, {"error": "Specified model not found"})
    assert error.code == "MODEL_NOT_FOUND"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["error", "message", "code", "details", "issues", "_errors", "path",
                         "unionErrors", "retry_after", "credits_refunded", "x"]),
        inner, max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.sampled_from([*range(399, 430), 500, 502, 503, 504, 599]), json_values | st.binary())
def test_no_body_is_too_strange(status: int, body: Any) -> None:
    """Whatever a server sends becomes an exception that can be printed."""
    error = error_of(status, {}, body)
    assert str(error)
    assert error.status == status
    assert str(error_in_stream({}, body))
