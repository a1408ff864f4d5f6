"""When a server wants to be asked again is read from all that servers say of it."""

import pytest

from traghetto.client.classification import error_in_stream
from traghetto.client.waits import wait_seconds

DATE = "Wed, 25 Nov 2026 08:00:00 GMT"
NOW = 1_795_593_600.0
"""The same moment."""


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Wed, 25 Nov 2026 08:00:20 GMT"}, 20.0),
        ({"retry-after": "Wed, 25 Nov 2026 08:00:20 GMT", "date": DATE}, 20.0),
        ({"retry-after": "Wed, 25 Nov 2026 07:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"x-ratelimit-reset-requests": str(int(NOW) + 12)}, 12.0),
        ({"x-ratelimit-reset-requests": str((int(NOW) + 12) * 1000)}, 12.0),
        ({"x-ratelimit-reset-requests": "17"}, 17.0),
        (
            {
                "x-ratelimit-remaining-requests": "4",
                "x-ratelimit-reset-requests": str(int(NOW) + 50),
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "9",
            },
            9.0,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-resets": str(int(NOW) + 30)}, 30.0),
        ({"retry-after": "2", "x-ratelimit-reset-requests": "17"}, 2.0),
        ({"x-ratelimit-reset-requests": str(int(NOW) - 5)}, 0.0),
        ({}, None),
    ],
    ids=str,
)
def test_wait_of_a_rate_limit(headers: dict[str, str], wait: float | None) -> None:
    """`Retry-After` first, in any form, then the windows that are used up."""
    assert wait_seconds(headers, 429, NOW) == wait


def test_the_servers_clock_counts() -> None:
    """A clock that is an hour off here does not make a wait of an hour."""
    headers = {"date": DATE, "retry-after": "Wed, 25 Nov 2026 08:00:05 GMT"}
    assert wait_seconds(headers, 503, NOW + 3600) == 5.0


def test_limits_matter_to_429_only() -> None:
    """Every answer carries the state of the limits; a failure of the server does not wait for them."""
    assert wait_seconds({"x-ratelimit-reset-requests": "17"}, 503, NOW) is None


@pytest.mark.parametrize(
    ("value", "wait"),
    [(30, 30.0), (1.5, 1.5), (-1, None), (10**400, None), (True, None), ("30", None)],
)
def test_wait_inside_a_stream(value: object, wait: float | None) -> None:
    """An error frame says it in its body."""
    frame = {"error": {"message": "x", "code": "model_overloaded", "retry_after": value}}
    assert error_in_stream({"x-ratelimit-reset-requests": "9"}, frame).retry_after == wait
