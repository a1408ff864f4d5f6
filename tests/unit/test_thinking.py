"""Thinking is taken out of texts, wherever a stream cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from traghetto.pipeline.thinking import ThinkingFilter, strip_thinking

PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "th", "ink>", "a", " b", "\n", "</"])
)


def test_a_block_goes_with_the_space_after_it() -> None:
    """The answer begins where the model began it."""
    assert strip_thinking("<think>hm</think>\n\nYes. <think>no</think> Sure") == "Yes. Sure"


def test_a_block_that_never_closes_is_thinking_to_its_end() -> None:
    """A model cut off in the middle of its thoughts has said nothing."""
    assert strip_thinking("Well <think>I was about") == "Well "


def test_what_only_looks_like_a_tag_stays() -> None:
    """A held-back beginning is given back at the end."""
    assert strip_thinking("a < b <thin") == "a < b <thin"


@given(PIECES, st.integers(1, 7))
def test_cutting_a_text_changes_nothing(pieces: list[str], width: int) -> None:
    """The same text in other pieces has the same answer, and no tag survives."""
    text = "".join(pieces)
    stripper = ThinkingFilter()
    streamed = "".join(stripper.feed(text[i : i + width]) for i in range(0, len(text), width))
    assert streamed + stripper.flush() == strip_thinking(text)
