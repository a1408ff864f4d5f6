"""What is asked again, when, and what never is."""

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.client import PUBLISHED
from traghetto.client import ConnectionFailed, TimedOut, TraghettoError, error_of
from traghetto.client.attempts import Attempts, Persistence
from traghetto.client.calls import Call, chat_call, multi_edit_call
from traghetto.client.retry import RetryPolicy

POLICY = RetryPolicy()


def wait(error: TraghettoError, policy: RetryPolicy = POLICY, **known: Any) -> float | None:
    usual: dict[str, Any] = {"retries": 0, "elapsed_seconds": 0.0, "repeatable": True}
    return policy.wait_seconds(error, random=Random(7), **(usual | known))


def coded(code: str, **headers: str) -> TraghettoError:
    row = PUBLISHED[code]
    return error_of(row.status, {"x-error-code": code, **headers}, b"")


OVERLOADED = coded("MODEL_OVERLOADED")
LOST = ConnectionFailed("the connection broke")
REFUSED = ConnectionFailed("nobody listens", charged=False)


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=lambda row: row.code)
def test_what_only_a_person_can_mend_is_not_asked_again(row: Any) -> None:
    """Neither keys nor money nor the request itself mend by waiting, whatever a header says."""
    never = row.status < 500 and row.status != 429
    told = coded(row.code, **{"x-should-retry": "true"})
    assert (wait(told) is None) is never


def test_what_may_have_been_paid_is_repeated_only_if_that_is_safe() -> None:
    """A connection that broke leaves open what happened; one that was refused does not."""
    assert wait(LOST, repeatable=False) is None
    assert wait(TimedOut("too slow"), repeatable=False) is None
    assert wait(LOST) is not None
    assert wait(REFUSED, repeatable=False) is not None
    assert wait(OVERLOADED, repeatable=False) is not None
    assert wait(error_of(502, {}, b"<html>"), repeatable=False) is None


def test_the_server_has_the_last_word() -> None:
    """`x-should-retry: false` ends it; an error that does not say is decided by its code."""
    assert wait(coded("INFERENCE_FAILED")) is not None
    assert wait(coded("INFERENCE_FAILED", **{"x-should-retry": "false"})) is None
    assert wait(coded("REQUEST_TIMEOUT")) is None


@given(st.integers(0, 4), st.integers(0, 2**32), st.floats(0, 40))
def test_waits_are_jittered_within_their_bounds(retries: int, seed: int, asked: float) -> None:
    """At least what the server asked for, at most the doubled bound more."""
    policy = RetryPolicy(retries_max=5)
    error = coded("MODEL_AT_CAPACITY", **{"retry-after": f"{asked:.3f}"})
    waited = policy.wait_seconds(
        error, retries=retries, elapsed_seconds=0.0, repeatable=True, random=Random(seed)
    )
    assert waited is not None
    assert error.retry_after is not None
    assert 0 <= waited - error.retry_after <= min(0.5 * 2**retries, 8.0) + 1e-9


def test_waits_can_be_replayed() -> None:
    """The same seed draws the same waits."""
    assert wait(OVERLOADED) == wait(OVERLOADED)


def test_retries_and_time_are_bounded() -> None:
    """No more attempts than allowed, and no wait that would end after the budget."""
    assert wait(OVERLOADED, retries=1) is not None
    assert wait(OVERLOADED, retries=2) is None
    assert wait(OVERLOADED, RetryPolicy(retries_max=0)) is None
    assert wait(coded("MODEL_OVERLOADED", **{"retry-after": "61"})) is None
    assert wait(coded("MODEL_OVERLOADED", **{"retry-after": "30"}), elapsed_seconds=31.0) is None


# --- the attempts of one call -------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "Hello"}]


def attempts(
    call: Call | None = None,
    *,
    fallback: bool | Mapping[str, str] = False,
    idempotency_keys: bool = True,
) -> Attempts:
    persistence = Persistence(POLICY, fallback, idempotency_keys, Random(7), lambda: 0.0)
    return persistence.attempts(call or chat_call("a", MESSAGES, {}, key=None, stream=False))


def test_a_call_has_one_key_for_all_its_attempts() -> None:
    """What is repeated is recognised by the server, because its key stays."""
    tries = attempts()
    key = tries.call.idempotency_key
    assert key
    assert tries.wait_seconds(LOST) is not None
    assert tries.call.idempotency_key == key
    assert attempts().call.idempotency_key != key


def test_no_key_where_nobody_honours_it() -> None:
    """On such a server only what cannot have been charged is repeated."""
    tries = attempts(idempotency_keys=False)
    assert tries.call.idempotency_key is None
    assert tries.wait_seconds(LOST) is None
    assert tries.wait_seconds(OVERLOADED) is not None


def test_a_callers_own_key_is_kept() -> None:
    """Who gives a key knows why, whatever the client thinks of the server."""
    call = chat_call("a", MESSAGES, {}, key="order-17", stream=False)
    assert attempts(call, idempotency_keys=False).call.idempotency_key == "order-17"


def test_reading_is_repeated_and_needs_no_key() -> None:
    """A GET changes nothing; another method that costs nothing is not repeated on a doubt."""
    assert attempts(Call("GET", "/models")).wait_seconds(LOST) is not None
    assert attempts(Call("POST", "/api_keys", {})).call.idempotency_key is None
    assert attempts(Call("POST", "/api_keys", {})).wait_seconds(LOST) is None


@pytest.mark.parametrize(
    "code", ["MODEL_OFFLINE", "MODEL_AT_CAPACITY", "MODEL_OVERLOADED", "MODEL_NOT_FOUND"]
)
def test_another_model_is_asked_once_and_at_once(code: str) -> None:
    """The one that the server recommends; it is another thing to do, and has another key."""
    row = PUBLISHED[code]
    body = {"error": {"message": row.message, "recommended_model": "b"}}
    error = error_of(row.status, {"retry-after": "50"}, body)
    tries = attempts(fallback=True)
    key = tries.call.idempotency_key
    assert tries.wait_seconds(error) == 0.0
    assert tries.call.model == "b"
    assert tries.call.idempotency_key not in {key, None}
    again = error_of(row.status, {}, {"error": {"message": "x", "recommended_model": "c"}})
    tries.wait_seconds(again)
    assert tries.call.model == "b"
    without = attempts()
    without.wait_seconds(error)
    assert without.call.model == "a"


def test_a_caller_names_other_models() -> None:
    """A mapping says which model stands in for which, before what the server says."""
    tries = attempts(fallback={"a": "b"})
    assert tries.wait_seconds(coded("MODEL_OFFLINE")) == 0.0
    assert tries.call.model == "b"
    unnamed = attempts(fallback={"x": "y"})
    unnamed.wait_seconds(coded("MODEL_OFFLINE"))
    assert unnamed.call.model == "a"


def test_no_other_model_for_other_failures() -> None:
    """Money, content and time are the same with every model."""
    for code in ("INSUFFICIENT_BALANCE", "CONTENT_POLICY_VIOLATION", "RATE_LIMIT_EXCEEDED"):
        tries = attempts(fallback={"a": "b"})
        tries.wait_seconds(coded(code))
        assert tries.call.model == "a"


def test_another_model_is_named_where_the_endpoint_names_it() -> None:
    """`/image/multi-edit` calls it `modelId`, and so does its fallback."""
    tries = attempts(multi_edit_call([b"x"], "mix", {"model": "a"}, None), fallback={"a": "b"})
    tries.wait_seconds(coded("MODEL_OFFLINE"))
    assert tries.call.json["modelId"] == "b"
    assert "model" not in tries.call.json
