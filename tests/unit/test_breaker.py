"""The circuit breaker: when it opens, for how long, and what closes it again."""

from __future__ import annotations

import random

import pytest

from traghetto.clock import ManualClock
from traghetto.engines.breaker import SINGLE_USER, Breaker, BreakerState, Evidence, Guard
from traghetto.engines.failures import BreakerEffect, EngineFailure, FailureKind

BROKEN = EngineFailure(FailureKind.BROKEN, "x")


class Centre(random.Random):
    """No spread: 0.5 is the middle of the jitter."""

    def random(self) -> float:
        return 0.5


def breaker(guard: Guard = SINGLE_USER) -> tuple[Breaker, ManualClock]:
    clock = ManualClock()
    return Breaker(clock, Centre(), lambda: guard), clock


def fail(subject: Breaker, times: int = 1, principal: str = "a", request: int = 1) -> None:
    for _ in range(times):
        subject.failed(BROKEN, Evidence(principal, request))


def probe(subject: Breaker, failure: EngineFailure | None = None) -> None:
    assert subject.admits()
    assert subject.begin()
    if failure is None:
        subject.succeeded(is_probe=True)
    else:
        subject.failed(failure, Evidence("a", 1), is_probe=True)


def test_five_failures_in_a_row_open_it() -> None:
    """Four do not, and a success between starts the count again."""
    subject, _ = breaker()
    fail(subject, 4)
    subject.succeeded()
    fail(subject, 4)
    assert subject.admits()
    fail(subject)
    assert subject.state is BreakerState.OPEN
    assert not subject.admits()


def test_half_of_twenty_calls_in_ten_seconds_open_it() -> None:
    """The share counts only with twenty calls, and only those of the last ten seconds."""
    subject, clock = breaker()
    for _ in range(9):
        subject.succeeded()
        fail(subject)
    assert subject.state is BreakerState.CLOSED
    clock.advance(11)
    for _ in range(9):
        subject.succeeded()
        fail(subject)
    assert subject.state is BreakerState.CLOSED
    subject.succeeded()
    fail(subject)
    assert subject.state is BreakerState.OPEN


def test_one_callers_poisonous_request_does_not_open_it() -> None:
    """Evidence must come from two principals or three different requests."""
    subject, _ = breaker(Guard())
    fail(subject, 40)
    assert subject.state is BreakerState.CLOSED
    fail(subject, 1, principal="b")
    assert subject.state is BreakerState.OPEN
    subject, _ = breaker(Guard())
    fail(subject, 10, request=1)
    fail(subject, 10, request=2)
    assert subject.state is BreakerState.CLOSED
    fail(subject, 1, request=3)
    assert subject.state is BreakerState.OPEN


def test_a_second_user_is_protected_from_the_first() -> None:
    """What one caller has done to a server that was its own does not count once it is shared."""
    guards = [SINGLE_USER]
    subject = Breaker(ManualClock(), Centre(), lambda: guards[-1])
    fail(subject, 4)
    guards.append(Guard())
    fail(subject, 40)
    assert subject.state is BreakerState.CLOSED
    fail(subject, 1, principal="b")
    assert subject.state is BreakerState.OPEN


def test_old_evidence_does_not_help_the_share() -> None:
    """A principal who saw a failure long ago is no witness of today's."""
    subject, clock = breaker(Guard())
    fail(subject, 1, principal="b")
    subject.succeeded()
    clock.advance(30)
    for _ in range(20):
        subject.succeeded()
        fail(subject, 1)
    assert subject.state is BreakerState.CLOSED


def test_rests_double_up_to_five_minutes() -> None:
    """5, 10, 20 ... 300 seconds, as each probe fails; recovery starts again at 5."""
    subject, clock = breaker()
    fail(subject, 5)
    rests = []
    for _ in range(8):
        rests.append(subject.wait_seconds())
        clock.advance(rests[-1])
        assert subject.state is BreakerState.HALF_OPEN
        probe(subject, BROKEN)
    assert rests == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300])
    clock.advance(300)
    for _ in range(3):
        probe(subject)
    assert subject.state is BreakerState.CLOSED
    fail(subject, 5)
    assert subject.wait_seconds() == pytest.approx(5)


def test_rests_are_spread_by_a_fifth() -> None:
    """Many gateways do not come back in step."""
    rests = set()
    for seed in range(50):
        subject = Breaker(ManualClock(), random.Random(seed), lambda: SINGLE_USER)
        fail(subject, 5)
        rests.add(subject.wait_seconds())
    assert 4.0 <= min(rests) < 4.4
    assert 5.6 < max(rests) <= 6.0


def test_half_open_lets_one_probe_through_and_three_close_it() -> None:
    """While a probe is out nobody else goes; an abandoned probe gives its place back."""
    subject, clock = breaker()
    fail(subject, 5)
    clock.advance(5)
    assert subject.begin()
    assert not subject.admits()
    subject.abandoned(is_probe=True)
    probe(subject)
    probe(subject)
    assert subject.state is BreakerState.HALF_OPEN
    probe(subject)
    assert subject.state is BreakerState.CLOSED


def test_calls_that_come_home_late_change_nothing() -> None:
    """Fifty calls under way when it opened neither lengthen the rest nor close it."""
    subject, _ = breaker()
    assert not subject.begin()
    fail(subject, 5)
    fail(subject, 50)
    subject.failed(EngineFailure(FailureKind.MISCONFIGURED, "x"), Evidence("a", 1))
    for _ in range(3):
        subject.succeeded()
    assert subject.state is BreakerState.OPEN
    assert subject.wait_seconds() == pytest.approx(5)


def test_a_probe_that_is_refused_for_its_own_sake_is_a_success() -> None:
    """A 400 shows that the backend works."""
    subject, clock = breaker()
    fail(subject, 5)
    clock.advance(5)
    for _ in range(3):
        probe(subject, EngineFailure(FailureKind.REJECTED_INPUT, "x"))
    assert subject.state is BreakerState.CLOSED


@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_failure_does_what_its_kind_says(kind: FailureKind) -> None:
    """One failure of a kind: ignored, counted, cooling, or opening at once."""
    subject, clock = breaker()
    subject.failed(EngineFailure(kind, "x", retry_after_seconds=3), Evidence("a", 1))
    effect = kind.value.breaker
    assert (subject.state is BreakerState.OPEN) is (effect is BreakerEffect.OPEN)
    assert subject.admits() is (effect in (BreakerEffect.IGNORE, BreakerEffect.COUNT))
    assert subject.is_cooling is (effect is BreakerEffect.COOL)
    clock.advance(3)
    assert subject.admits() is (effect is not BreakerEffect.OPEN)


def test_cooling_lasts_as_long_as_asked_but_at_most_a_minute() -> None:
    """Without a time the backend is only the last choice for a second."""
    subject, clock = breaker()
    busy = FailureKind.OVERLOADED
    subject.failed(EngineFailure(busy, "x", retry_after_seconds=3600), Evidence("a", 1))
    assert subject.wait_seconds() == pytest.approx(60)
    clock.advance(60)
    assert subject.admits()
    subject.failed(EngineFailure(busy, "x"), Evidence("a", 1))
    assert subject.admits()
    assert subject.is_shunned
    clock.advance(1)
    assert not subject.is_shunned
