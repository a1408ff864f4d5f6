"""What is wrong with a request is told one by one, in whatever form it came."""

from typing import Any

import pytest

from traghetto.client import Issue, error_of

DETAILS = {
    "_errors": ["Unrecognized key(s) in object: 'x'"],
    "messages": {"_errors": [], "0": {"_errors": [], "role": {"_errors": ["Field is required"]}}},
}
OF_DETAILS = (
    Issue((), "Unrecognized key(s) in object: 'x'"),
    Issue(("messages", 0, "role"), "Field is required"),
)


def issues(body: Any) -> tuple[Issue, ...]:
    return error_of(400, {}, body).issues


@pytest.mark.parametrize(
    "body",
    [
        {"error": "Invalid request parameters", "details": DETAILS},
        {"error": "Invalid request parameters", "details": DETAILS, "issues": []},
        {"details": DETAILS},
        {"error": {"message": "Invalid request parameters", "details": DETAILS}},
        DETAILS,
    ],
    ids=["details", "no issues", "details alone", "OpenAI object", "bare"],
)
def test_issues_of_details(body: Any) -> None:
    """A body without `issues` has them in its tree of `details`."""
    assert issues(body) == OF_DETAILS


@pytest.mark.parametrize("wrapped", [True, False])
def test_issues_as_they_came(wrapped: bool) -> None:
    """`issues` win over `details`, and may be all there is."""
    listed = [{"code": "invalid_type", "path": ["messages", 0], "message": "Expected object"}]
    body = {"error": "x", "details": DETAILS, "issues": listed} if wrapped else listed
    assert issues(body) == (Issue(("messages", 0), "Expected object", "invalid_type"),)


def test_issues_of_a_union_are_those_of_its_branches() -> None:
    """`Invalid input` helps nobody; what is wrong with each branch does, and is said once."""
    branch = {"issues": [{"code": "custom", "path": ["input"], "message": "Expected string"}]}
    union = {
        "code": "invalid_union",
        "path": ["input"],
        "message": "Invalid input",
        "unionErrors": [branch, branch],
    }
    assert issues({"issues": [union]}) == (Issue(("input",), "Expected string", "custom"),)


def test_details_may_be_a_sentence() -> None:
    """Some failures have a plain text there."""
    assert issues({"error": "x", "details": "The image is odd"}) == (Issue((), "The image is odd"),)
    voices = {"error": "x", "details": {"supported_voices": ["a"]}}
    assert issues(voices) == ()
    assert error_of(400, {}, voices).details == {"supported_voices": ["a"]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"X402_CODE","message":"Words"}', "Words"),
        (b'{"detail":"Words"}', "Words"),
        (b'"Words"', "Words"),
        (b"Words\n", "Words"),
        (b"<p>Words</p>", "Bad Request"),
        (b"", "Bad Request"),
        (b"\xff" * 1000, "Bad Request"),
    ],
)
def test_a_message_is_found_or_made(body: bytes, message: str) -> None:
    """There is always a sentence, and never a page."""
    assert error_of(400, {}, body).message == message


def test_no_tree_is_too_deep_or_odd() -> None:
    """A hostile server cannot break the one who reads its errors."""
    tree: Any = {"_errors": ["deep"]}
    union: Any = []
    for _ in range(500):
        tree = {"9" * 5000: tree, "_errors": []}
        union = [{"message": "m", "unionErrors": [{"issues": union}]}]
    assert issues({"details": tree}) == ()
    assert [issue.message for issue in issues({"issues": union})] == ["m"]
    assert issues({"issues": [{"path": [None, [], 1, "a"], "message": "m"}, None, {}]}) == (
        Issue((1, "a"), "m"),
    )
