"""Rate limits of models: exact windows, true waits, bounded memory."""

from __future__ import annotations

import pytest

from traghetto.clock import ManualClock
from traghetto.errors import ApiError, ErrorCode
from traghetto.limits.rates import TIERS, RateLimiter
from traghetto.settings import RateNumbers

START_SECONDS = 1_767_225_600


def limiter(requests: int | None = 2, tokens: int | None = 100, **options):
    clock = ManualClock()
    own = {"xs": RateNumbers(requests, tokens)}
    return RateLimiter(clock, own_numbers=own, **options), clock


def admit(limits: RateLimiter, tokens: int = 10, account: str = "a", model: str = "m"):
    return limits.admit(account, model, tier="standard", size_class="xs", tokens_bound=tokens)


def refused(limits: RateLimiter, tokens: int = 10) -> ApiError:
    with pytest.raises(ApiError) as caught:
        admit(limits, tokens)
    assert caught.value.code is ErrorCode.RATE_LIMIT_EXCEEDED
    return caught.value


def test_requests_beyond_the_limit_are_refused_until_the_reset():
    """The wait that a refusal names is long enough, and no longer than needed."""
    limits, clock = limiter(requests=2, tokens=None)
    admit(limits)
    clock.advance(20.5)
    admit(limits)
    error = refused(limits)
    assert error.retry_after_seconds == 40
    clock.advance(39)
    assert refused(limits).retry_after_seconds == 1
    clock.advance(1)
    admit(limits)


def test_refused_requests_count_for_nothing():
    """However often a caller tries too early, the reset stays where it was."""
    limits, clock = limiter(requests=1, tokens=None)
    admit(limits)
    for _ in range(59):
        refused(limits)
        clock.advance(1)
    clock.advance(1)
    admit(limits)


def test_tokens_are_taken_as_a_bound_and_corrected():
    """What a request did not use is free again as soon as its true number is known."""
    limits, _ = limiter(requests=10, tokens=100)
    admission = admit(limits, 90)
    refused(limits, 20)
    admission.correct(30)
    second = admit(limits, 70)
    refused(limits, 1)
    second.correct(0)
    admission.correct(50)
    admit(limits, 50)


def test_a_request_that_never_reached_a_model_gives_its_bound_back():
    """One that is refused later, for funds or capacity, takes no tokens from those that follow."""
    limits, _ = limiter(requests=10, tokens=100)
    admission = admit(limits, 90)
    admission.release()
    admission = admit(limits, 90)
    admission.correct(40)
    admission.release()
    admit(limits, 60)
    refused(limits, 1)


def test_a_bound_above_the_whole_limit_takes_an_unused_window():
    """A request whose bound exceeds the limit itself could otherwise never be sent."""
    limits, clock = limiter(requests=10, tokens=100)
    admit(limits, 1)
    assert refused(limits, 1000).retry_after_seconds == 60
    clock.advance(60)
    admit(limits, 1000).correct(40)
    admit(limits, 60)


def test_corrections_after_the_window_change_nothing():
    """A long request that is settled in a later window gives that window nothing and takes nothing."""
    limits, clock = limiter(requests=10, tokens=100)
    old = admit(limits, 100)
    clock.advance(60)
    admit(limits, 60)
    old.correct(0)
    refused(limits, 41)
    admit(limits, 40)


def test_headers_say_exactly_what_remains():
    """Six integer headers: limits, what remains, and the reset in the documented units."""
    limits, clock = limiter(requests=2, tokens=100)
    admission = admit(limits, 30)
    clock.advance(10.25)
    assert dict(admission.headers()) == {
        b"x-ratelimit-limit-requests": b"2",
        b"x-ratelimit-remaining-requests": b"1",
        b"x-ratelimit-reset-requests": b"%d" % (START_SECONDS + 60),
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"70",
        b"x-ratelimit-reset-tokens": b"50",
    }
    assert len(admission.headers()) == 6


def test_live_style_resets_are_milliseconds():
    """The `live` style gives both resets as Unix milliseconds."""
    limits, _ = limiter(reset_style="live")
    headers = dict(admit(limits).headers())
    milliseconds = b"%d" % ((START_SECONDS + 60) * 1000)
    assert headers[b"x-ratelimit-reset-requests"] == milliseconds
    assert headers[b"x-ratelimit-reset-tokens"] == milliseconds


def test_a_refusal_carries_the_headers_and_its_type():
    """A 429 tells the same state as a success, and that the limit is the user's."""
    limits, _ = limiter(requests=1)
    admit(limits, 10)
    error = refused(limits)
    headers = dict(error.headers)
    assert len(error.headers) == 7
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    assert headers[b"x-ratelimit-type"] == b"user"
    assert error.limit_type == "RPM"


def test_overuse_never_shows_as_negative():
    """A request that used more than its bound leaves zero, not less."""
    limits, _ = limiter(requests=10, tokens=100)
    admission = admit(limits, 90)
    admission.correct(150)
    assert dict(admission.headers())[b"x-ratelimit-remaining-tokens"] == b"0"
    refused(limits, 0)


def test_accounts_and_models_have_windows_of_their_own():
    """One caller's use of one model limits nobody and nothing else."""
    limits, _ = limiter(requests=1)
    admit(limits)
    admit(limits, account="b")
    admit(limits, model="n")
    refused(limits)


def test_off_means_no_headers_and_no_limits():
    """With limits off nothing is refused and no header is sent."""
    limits = RateLimiter(ManualClock(), enabled=False)
    for _ in range(2000):
        admission = admit(limits, 10**9)
    admission.correct(5)
    assert admission.headers() == []
    assert len(limits) == 0
    assert limits.numbers("standard", "xs") == RateNumbers()


def test_a_class_without_limits_has_no_headers():
    """Job models have no limit per model."""
    limits = RateLimiter(ManualClock())
    admission = limits.admit("a", "m", tier="standard", size_class="none", tokens_bound=10**9)
    assert admission.headers() == []


def test_a_class_without_a_token_limit_has_three_headers():
    """Image models limit requests only."""
    limits = RateLimiter(ManualClock())
    admission = limits.admit("a", "m", tier="partner", size_class="image", tokens_bound=10**9)
    assert dict(admission.headers())[b"x-ratelimit-limit-requests"] == b"60"
    assert len(admission.headers()) == 3


@pytest.mark.parametrize(
    ("tier", "size_class", "requests", "tokens"),
    [
        ("standard", "xs", 500, 1_000_000),
        ("standard", "s", 75, 750_000),
        ("standard", "m", 50, 750_000),
        ("standard", "l", 20, 500_000),
        ("partner", "xs", 500, 2_000_000),
        ("partner", "s", 150, 1_500_000),
        ("partner", "m", 100, 1_500_000),
        ("partner", "l", 60, 1_000_000),
        ("standard", "image", 20, None),
        ("standard", "audio", 60, None),
        ("standard", "embedding", 500, None),
        ("partner", "audio", 120, None),
    ],
)
def test_the_published_numbers_are_the_defaults(tier, size_class, requests, tokens):
    """Every tier and class has the numbers of the contract."""
    assert TIERS[tier][size_class] == RateNumbers(requests, tokens)


def test_the_wall_clock_does_not_move_windows():
    """A step of the wall clock moves the announced reset with it, never the limit."""
    limits, clock = limiter(requests=1, tokens=None)
    admission = admit(limits)
    clock.step_utc(3600)
    refused(limits)
    reset = dict(admission.headers())[b"x-ratelimit-reset-requests"]
    assert reset == b"%d" % (START_SECONDS + 3660)


def test_memory_is_bounded():
    """Windows that ended are forgotten as new ones come, and never are there more than allowed."""
    limits, clock = limiter(windows_max=100)
    for number in range(1000):
        admit(limits, account=str(number))
        assert len(limits) <= 100
    clock.advance(60)
    for number in range(100):
        admit(limits, account=f"new-{number}")
    assert len(limits) == 100
    clock.advance(60)
    for number in range(60):
        admit(limits, account=f"newer-{number}")
    assert len(limits) == 60
