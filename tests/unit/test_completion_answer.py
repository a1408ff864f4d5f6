"""Whole answers and token counts of backends: what is accepted, clamped, doubted and refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.wire.completion import (
    TOKENS_MAX,
    BackendUsage,
    decode_answer,
    parse_completion,
    parse_usage,
)

MESSAGE = {"role": "assistant", "content": "Hi \u00e9"}


def answer(**members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]} | members


def choice(**members: Any) -> dict[str, Any]:
    return answer(choices=[{"message": MESSAGE, "finish_reason": "stop"} | members])


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


@pytest.mark.parametrize(
    "value",
    [
        answer(),
        choice(message={"content": None}),
        choice(message={"role": "assistant", "content": None, "tool_calls": [CALL]}),
        choice(message={"content": "x", "tool_calls": []}),
        choice(message={"content": "x", "tool_calls": None, "unknown": 1}, logprobs=None),
    ],
)
def test_a_finished_answer_is_accepted(value: Any) -> None:
    """Text, tool calls, or both; unknown members do not matter."""
    assert parse_completion(value).answer is value


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {}, {"choices": None}, {"choices": []}, {"choices": ["x"]},
        choice(finish_reason=None), choice(finish_reason=5), choice(message=None),
        choice(message="x"), choice(message={"content": 5}), choice(message={"content": ["x"]}),
        choice(message={"content": "x", "tool_calls": "f"}),
        choice(message={"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}),
        choice(message={"tool_calls": [{"id": "c"}]}),
        {"choices": [{"message": MESSAGE}]},
    ],
)  # fmt: skip
def test_an_unfinished_or_malformed_answer_is_refused(value: Any) -> None:
    """Clients depend on this structure, so that half of it is no answer."""
    with pytest.raises(ValueError, match="the answer"):
        parse_completion(value)


@pytest.mark.parametrize(
    ("claimed", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, BackendUsage(5, 2)),
        ({"prompt_tokens": 5.0, "completion_tokens": 0}, BackendUsage(5, 0)),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 3},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            BackendUsage(5, 4, 3, 2),
        ),
        (
            {
                "prompt_tokens": 5,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 9},
                "completion_tokens_details": {"reasoning_tokens": 9},
            },
            BackendUsage(5, 4, 5, 4),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "prompt_cache_hit_tokens": 2},
            BackendUsage(5, 4, 2),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 4, "prompt_tokens_details": None},
            BackendUsage(5, 4),
        ),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": -5, "completion_tokens": 4}, None),
        ({"prompt_tokens": 5, "completion_tokens": TOKENS_MAX + 1}, None),
        ({"prompt_tokens": 5, "completion_tokens": 2.5}, None),
        ({"prompt_tokens": 5, "completion_tokens": float("inf")}, None),
        ({"prompt_tokens": False, "completion_tokens": 4}, None),
        ({"prompt_tokens": "5", "completion_tokens": 4}, None),
        ([], None),
        (None, None),
    ],
)
def test_token_counts_are_believed_or_not(claimed: Any, usage: BackendUsage | None) -> None:
    """Whole, plausible numbers only; details never exceed their total."""
    assert parse_usage(claimed) == usage


def test_llama_cpps_cache_counter_is_understood() -> None:
    """It stands outside `usage`."""
    claimed = {"prompt_tokens": 5, "completion_tokens": 1}
    assert parse_usage(claimed, {"cache_n": 4}) == BackendUsage(5, 1, 4)


def test_the_size_of_an_answer_counts_all_that_the_model_wrote() -> None:
    """UTF-8 bytes of contents, reasoning and tool calls, over the choices asked for."""
    message = MESSAGE | {"reasoning_content": "why", "tool_calls": [CALL]}
    both = [{"message": message, "finish_reason": "stop"}, choice()["choices"][0]]
    assert parse_completion(answer(choices=both)).output_bytes(2) == (5 + 3 + 1 + 7) + 5


def test_a_choice_that_nobody_asked_for_is_not_counted() -> None:
    """A backend that gives more than `n` choices and no usage costs the caller no more for it."""
    both = choice()["choices"] * 2
    completion = parse_completion(answer(choices=both))
    assert completion.output_bytes(1) == completion.output_bytes(2) // 2 > 0


def test_numbers_that_json_does_not_have_become_null() -> None:
    """NaN in a number's place is mended; the same letters in a string are left alone."""
    body = b'{"a": NaN, "b": -Infinity, "c": [Infinity], "d": "NaN \\" Infinity"}'
    assert decode_answer(body) == {"a": None, "b": None, "c": [None], "d": 'NaN " Infinity'}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"NaNa", b'{"a": NaN', b'"\xff"', b'{"x":NaN,"y":"\xff"}']
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Mending one fault does not let others through."""
    with pytest.raises(ValueError, match="not JSON"):
        decode_answer(body)


def test_nesting_without_end_is_refused() -> None:
    """A backend cannot exhaust the stack."""
    with pytest.raises(ValueError, match="not JSON"):
        decode_answer(b"[" * 1_000_000)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "message",
                        "finish_reason",
                        "content",
                        "usage",
                        "tool_calls",
                        "prompt_tokens",
                        "completion_tokens",
                        "prompt_tokens_details",
                        "function",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_value_is_a_completion_or_refused(value: Any) -> None:
    """Junk raises ValueError and nothing else; usage never raises."""
    parse_usage(value, value)
    try:
        completion = parse_completion(value)
    except ValueError:
        return
    assert completion.output_bytes(1) >= 0
