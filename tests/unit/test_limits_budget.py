"""The failed-request budget: the 21st failure blocks, and nothing else does."""

from __future__ import annotations

import pytest

from traghetto.clock import ManualClock
from traghetto.errors import (
    Adjunct,
    ApiError,
    ErrorCode,
    ErrorStyle,
    invalid_request,
    message_of,
    render_error,
)
from traghetto.limits.budget import FailedRequestBudget, address_bucket, key_bucket

FAILURE = ApiError(ErrorCode.MODEL_NOT_FOUND)
UNSUPPORTED = invalid_request({}, [], unsupported_feature=True)
START_SECONDS = 1_767_225_600


def budget(**options) -> tuple[FailedRequestBudget, ManualClock]:
    clock = ManualClock()
    return FailedRequestBudget(clock, **options), clock


def fail(budgets: FailedRequestBudget, times: int, error: ApiError = FAILURE) -> None:
    for _ in range(times):
        budgets.count("k", error)


def blocked(budgets: FailedRequestBudget, bucket: str = "k") -> ApiError | None:
    try:
        budgets.check(bucket)
    except ApiError as error:
        return error
    return None


def test_the_21st_failure_in_30_seconds_blocks():
    """Twenty failures are allowed; one more starts a block with the published text."""
    budgets, _ = budget()
    fail(budgets, 20)
    assert blocked(budgets) is None
    fail(budgets, 1)
    error = blocked(budgets)
    assert error.code is Adjunct.FAILED_REQUEST_BUDGET
    assert (error.status, error.retry_after_seconds) == (429, 30)
    assert message_of(error, "") == (
        "Too many failed attempts (> 20) resulting in a non-success status code. "
        "Please wait 30s and try again."
    )
    assert dict(error.headers) == {
        b"x-ratelimit-remaining": b"0",
        b"x-ratelimit-resets": b"%d" % (START_SECONDS + 30),
    }


def test_the_block_ends_when_it_says():
    """The wait shrinks as time passes, and after it the budget is whole again."""
    budgets, clock = budget()
    fail(budgets, 21)
    clock.advance(29.5)
    assert blocked(budgets).retry_after_seconds == 1
    clock.advance(0.5)
    assert blocked(budgets) is None
    fail(budgets, 20)
    assert blocked(budgets) is None


def test_the_block_neither_counts_nor_extends_itself():
    """Requests that fail while the block lasts, the block itself among them, change nothing."""
    budgets, clock = budget()
    fail(budgets, 21)
    clock.advance(15)
    budgets.count("k", blocked(budgets))
    fail(budgets, 100)
    assert blocked(budgets).retry_after_seconds == 15
    clock.advance(15)
    assert blocked(budgets) is None
    assert dict(budgets.headers("k"))[b"x-ratelimit-remaining"] == b"20"


def test_failures_leave_the_window_one_by_one():
    """A failure counts for 30 seconds from its own moment, not from the first one's."""
    budgets, clock = budget()
    for _ in range(100):
        fail(budgets, 1)
        clock.advance(1.5)
        assert blocked(budgets) is None
    fail(budgets, 1)
    assert blocked(budgets) is None
    fail(budgets, 1)
    assert blocked(budgets) is not None


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ApiError(ErrorCode.AUTHENTICATION_FAILED), True),
        (ApiError(ErrorCode.INSUFFICIENT_BALANCE), True),
        (ApiError(ErrorCode.INVALID_REQUEST), True),
        (ApiError(ErrorCode.CONTENT_POLICY_VIOLATION), True),
        (ApiError(Adjunct.ADMIN_KEY_REQUIRED), True),
        (ApiError(ErrorCode.PAYLOAD_TOO_LARGE), False),
        (ApiError(ErrorCode.INVALID_CONTENT_TYPE), False),
        (ApiError(Adjunct.INVALID_JSON), False),
        (ApiError(Adjunct.NO_CREDENTIALS), False),
        (ApiError(Adjunct.ROUTE_NOT_FOUND), False),
        (ApiError(ErrorCode.RATE_LIMIT_EXCEEDED), False),
        (ApiError(ErrorCode.MODEL_OVERLOADED), False),
        (ApiError(ErrorCode.INFERENCE_FAILED), False),
        (ApiError(ErrorCode.MODEL_AT_CAPACITY), False),
        (ApiError(ErrorCode.REQUEST_TIMEOUT), False),
    ],
)
def test_only_the_callers_own_failures_count(error, counts):
    """4xx answers count, except 429 and what is refused before the caller is known."""
    budgets, _ = budget(failed_requests_max=1)
    fail(budgets, 2, error)
    assert (blocked(budgets) is not None) is counts


def test_unsupported_features_have_a_budget_of_their_own():
    """Capability refusals block after 200 and leave the failed-request budget alone."""
    budgets, _ = budget()
    fail(budgets, 200, UNSUPPORTED)
    assert blocked(budgets) is None
    assert dict(budgets.headers("k"))[b"x-ratelimit-remaining"] == b"20"
    fail(budgets, 1, UNSUPPORTED)
    error = blocked(budgets)
    assert error.details["failed_requests_max"] == 200
    assert error.limit_type == "UNSUPPORTED_FEATURE_REQUESTS"


def test_headers_tell_what_is_left():
    """An answer carries the failures left and the second at which the oldest is forgotten."""
    budgets, clock = budget()
    assert dict(budgets.headers("k")) == {
        b"x-ratelimit-remaining": b"20",
        b"x-ratelimit-resets": b"%d" % START_SECONDS,
    }
    fail(budgets, 1)
    clock.advance(10)
    fail(budgets, 2)
    assert dict(budgets.headers("k")) == {
        b"x-ratelimit-remaining": b"17",
        b"x-ratelimit-resets": b"%d" % (START_SECONDS + 30),
    }


def test_the_block_renders_with_a_true_wait():
    """The answer of a block carries its own Retry-After, not the general one."""
    budgets, clock = budget(failed_requests_max=3, block_seconds=45)
    fail(budgets, 4)
    clock.advance(40)
    answer = render_error(blocked(budgets), "r", ErrorStyle())
    assert (b"retry-after", b"5") in answer.headers
    assert b"(> 3)" in answer.body
    assert b"wait 45s" in answer.body


def test_buckets_do_not_touch_each_other():
    """One key's failures block that key only."""
    budgets, _ = budget()
    fail(budgets, 21)
    assert blocked(budgets, "other") is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::2", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "nonsense", True),
    ],
)
def test_addresses_are_grouped_as_their_owners_are(one, other, same):
    """An IPv4 address is a caller; of IPv6 it is the /64 network that one host can roam in."""
    assert (address_bucket(one) == address_bucket(other)) is same
    assert address_bucket(one) != key_bucket(one)


def test_memory_is_bounded():
    """An attacker with many addresses fills a bounded table, for failures and for blocks."""
    budgets, clock = budget(failed_requests_max=1, buckets_max=50)
    for number in range(500):
        budgets.count(str(number), FAILURE)
    for number in range(500):
        budgets.count(f"b{number}", FAILURE)
        budgets.count(f"b{number}", FAILURE)
    assert len(budgets._failed.failures) <= 50
    assert len(budgets._failed.blocks) <= 50
    assert blocked(budgets, "b499") is not None
    clock.advance(30)
    budgets.count("later", FAILURE)
    budgets.count("later", FAILURE)
    assert blocked(budgets, "b499") is None


def test_a_bucket_whose_failures_are_over_disturbs_nobody():
    """Looking at an old bucket must not spoil the next failure of another one."""
    budgets, clock = budget()
    budgets.count("a", FAILURE)
    clock.advance(31)
    assert budgets.headers("a")[0] == (b"x-ratelimit-remaining", b"20")
    budgets.count("b", FAILURE)
    budgets.count("a", FAILURE)
    assert budgets.headers("b")[0] == (b"x-ratelimit-remaining", b"19")
