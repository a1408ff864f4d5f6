"""The relay: what a client sees of a backend's events."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.engines.failures import FailureKind
from traghetto.pipeline.relay import Relay
from traghetto.wire.completion import BackendUsage

DONE = b"[DONE]"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def relay(**options: Any) -> Relay:
    return Relay(completion_id="chatcmpl-1", created=7, model="public", **options)


def event(delta: dict[str, Any] | None = None, **members: Any) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None}
    choice |= {k: members.pop(k) for k in ("index", "finish_reason", "logprobs") if k in members}
    return json.dumps({"id": "x", "model": "private", "choices": [choice], **members}).encode()


def frames(sent: bytes) -> list[Any]:
    """The payloads of frames, decoded; every frame must be well formed."""
    assert sent == b"" or sent.endswith(b"\n\n")
    found = []
    for frame in sent.split(b"\n\n")[:-1]:
        assert frame.startswith(b"data: "), frame
        assert b"\n" not in frame
        payload = frame[6:]
        found.append("DONE" if payload == DONE else json.loads(payload))
    return found


def test_choices_are_copied_and_the_rest_is_ours() -> None:
    """The backend's id, model and further members vanish; its choices stay byte for byte."""
    raw = b'[{"index":0, "delta":{"content":"h\\u00e9"} ,"finish_reason":null}]'
    sent = relay().feed([b'{"id":"b","secret":1,"choices":' + raw + b',"model":"m"}'])
    assert raw in sent
    [frame] = frames(sent)
    assert frame.keys() == {"id", "object", "created", "model", "choices"}
    assert (frame["id"], frame["model"]) == ("chatcmpl-1", "public")
    assert b"secret" not in sent


def test_nothing_that_says_complete_is_released_before_the_end() -> None:
    """A finish reason and usage wait for `[DONE]` and for the charge."""
    subject = relay()
    sent = subject.feed([event({"content": "a"}), event(finish_reason="stop"), event(usage=USAGE)])
    assert [f["choices"][0]["delta"] for f in frames(sent)] == [{"content": "a"}]
    assert not subject.complete
    assert subject.feed([DONE]) == b""
    assert subject.complete
    assert subject.usage == BackendUsage(3, 2)
    finish, usage, done = frames(subject.terminal_frames({"total_tokens": 5}, {"usd": 0}))
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"], usage["cost"]) == (
        [],
        {"total_tokens": 5},
        {"usd": 0},
    )
    assert done == "DONE"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"{", FailureKind.BROKEN),
        (b"[1]", FailureKind.BROKEN),
        (b'{"choices":{}}', FailureKind.BROKEN),
        (b'{"choices":[5]}', FailureKind.BROKEN),
        (b'{"choices":[{"delta":{"content":5}}]}', FailureKind.BROKEN),
        (DONE, FailureKind.BROKEN),
        (event(finish_reason="abort"), FailureKind.BROKEN),
        (b'{"error":{"code":429,"message":"x"}}', FailureKind.OVERLOADED),
        (b'{"error":{"code":"content_filter"}}', FailureKind.REJECTED_CONTENT),
    ],
)
def test_a_broken_stream_is_never_complete(payload: bytes, kind: FailureKind) -> None:
    """What came before the break is still sent; the break itself is a failure of its kind."""
    subject = relay()
    sent = subject.feed([event({"content": "a"}), payload, event({"content": "b"}), DONE])
    assert [f["choices"][0]["delta"]["content"] for f in frames(sent)] == ["a"]
    assert subject.failure is not None
    assert subject.failure.kind is kind
    assert not subject.complete


def test_an_end_without_a_terminal_marker_is_a_failure() -> None:
    """A backend that closes after its finish reason has still not said that it was done."""
    subject = relay()
    subject.feed([event({"content": "a"}), event(finish_reason="stop")])
    subject.backend_ended()
    assert subject.failure is not None


def test_one_choice_without_a_finish_reason_breaks_all() -> None:
    """With `n` = 2 both have to end."""
    subject = relay(choices_max=2)
    subject.feed([event({"content": "a"}, index=0), event({"content": "b"}, index=1)])
    subject.feed([event(finish_reason="stop", index=0), DONE])
    assert subject.failure is not None


def test_more_than_was_asked_for_ends_with_length() -> None:
    """Tokens above the bound are not relayed, and the answer says why it ends."""
    subject = relay(tokens_max=2)
    sent = subject.feed([event({"content": text}) for text in "abc"])
    assert len(frames(sent)) == 2
    assert subject.limited
    assert subject.output_tokens == 2
    [finish, _, _] = frames(subject.terminal_frames({}, None))
    assert finish["choices"][0]["finish_reason"] == "length"


def test_choices_nobody_asked_for_are_dropped() -> None:
    """A backend that answers with a third choice of two is not relayed there."""
    subject = relay(choices_max=2)
    assert subject.feed([event({"content": "x"}, index=2)]) == b""


def test_long_deltas_count_for_what_they_hold() -> None:
    """One token a delta is usual; a backend that sends many at once is estimated by size."""
    subject = relay()
    subject.feed([event({"content": "word"}), event({"content": "x" * 400})])
    assert subject.output_tokens == 1 + 100
    call = {"index": 0, "function": {"arguments": "y" * 1200}}
    subject.feed([event({"tool_calls": [call]})])
    assert subject.output_tokens > 101 + 200


def test_stripped_thinking_was_still_written() -> None:
    """A complete answer is counted with the thinking that its caller did not want to see."""
    subject = relay(strip_thinking=True)
    subject.feed([event({"reasoning_content": "hm"}), event({"content": "Yes"})])
    assert (subject.output_tokens, subject.produced_tokens) == (1, 2)


def test_a_finish_reason_with_text_is_taken_apart() -> None:
    """The text goes out at once, the reason waits."""
    subject = relay()
    [frame] = frames(subject.feed([event({"content": "last"}, finish_reason="stop")]))
    assert frame["choices"] == [{"index": 0, "delta": {"content": "last"}, "finish_reason": None}]


def test_unlisted_members_of_a_delta_are_dropped_and_reasoning_is_renamed() -> None:
    """What clients do not know they do not get."""
    [frame] = frames(relay().feed([event({"content": "a", "token_ids": [1], "reasoning": "r"})]))
    assert frame["choices"][0]["delta"] == {"content": "a", "reasoning_content": "r"}


def test_thinking_is_stripped_across_events() -> None:
    """Neither a cut tag nor reasoning members reach the client."""
    subject = relay(strip_thinking=True)
    texts = ["<thi", "nk>secret</th", "ink>\n\nYes", " <"]
    sent = subject.feed([event({"content": text, "reasoning_content": "r"}) for text in texts])
    sent += subject.feed([event(finish_reason="stop"), DONE])
    sent += subject.terminal_frames({}, None)
    contents = [
        choice["delta"].get("content", "")
        for frame in frames(sent)
        if frame != "DONE"
        for choice in frame["choices"]
    ]
    assert "".join(contents) == "Yes <"
    assert b"secret" not in sent
    assert b"reasoning" not in sent


def test_json_over_several_lines_is_relayed_on_one() -> None:
    """A data line break inside an event cannot break our framing."""
    [frame] = frames(relay().feed([b'{"choices":\n[{"index":0,\n"delta":{"content":"a"}}]}']))
    assert frame["choices"][0]["delta"] == {"content": "a"}


def test_a_number_that_is_none_is_null() -> None:
    """Python servers write NaN into log probabilities; that must not cost the stream."""
    payload = b'{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"p":NaN}}]}'
    [frame] = frames(relay().feed([payload]))
    assert frame["choices"][0]["logprobs"] == {"p": None}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "choices": JSON
        | st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "index": JSON,
                    "finish_reason": JSON,
                    "delta": JSON
                    | st.dictionaries(
                        st.sampled_from(["role", "content", "tool_calls", "reasoning"]), JSON
                    ),
                },
            )
        ),
        "usage": JSON,
        "error": JSON,
    },
)


@given(
    st.lists(
        st.one_of(
            st.binary(),
            JSON.map(lambda v: json.dumps(v).encode()),
            NEARLY.map(lambda v: json.dumps(v).encode()),
        )
    ),
    st.booleans(),
)
def test_no_backend_can_break_the_framing(payloads: list[bytes], strip: bool) -> None:
    """Whatever arrives, what is sent is whole frames of our own form, or a failure is known."""
    subject = relay(strip_thinking=strip)
    for frame in frames(subject.feed([*payloads, DONE])):
        assert frame["id"] == "chatcmpl-1"
    assert subject.complete or subject.failure is not None or subject.limited
