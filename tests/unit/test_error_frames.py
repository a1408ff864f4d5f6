"""What the renderer of errors makes of a wait."""

from __future__ import annotations

import json

import pytest

from traghetto.errors import ApiError, ErrorCode, ErrorStyle, render_error, render_stream_error


@pytest.mark.parametrize(("known", "told"), [(None, 30), (0, 0), (7, 7)])
def test_a_wait_is_the_same_in_an_answer_and_in_a_stream(known: int | None, told: int) -> None:
    """The default stands in where nothing is known; no wait at all is known."""
    error = ApiError(ErrorCode.MODEL_OVERLOADED, retry_after_seconds=known)
    headers = dict(render_error(error, "r", ErrorStyle()).headers)
    assert headers[b"retry-after"] == b"%d" % told
    frame = render_stream_error(error, "r").partition(b"\n\n")[0]
    assert json.loads(frame.removeprefix(b"data: "))["error"]["retry_after"] == told
