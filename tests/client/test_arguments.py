"""What is wrong with the arguments of a client is said at once, and nothing is sent."""

from __future__ import annotations

import pytest

from traghetto.client import Client


@pytest.mark.parametrize("key", ["a\nb", "\u00e9", "a\x00b"])
def test_a_key_that_fits_in_no_header(key: str) -> None:
    """It would otherwise look like trouble of the network."""
    with pytest.raises(ValueError, match="a line of ASCII"):
        Client(api_key=key, base_url="http://127.0.0.1:9/v1")


def test_a_stream_that_nobody_would_read() -> None:
    """Before it is paid for."""
    client = Client(api_key="key", base_url="http://127.0.0.1:9/v1")
    with client, pytest.raises(TypeError, match="stream_chat"):
        client.chat("m", [{"role": "user", "content": "x"}], stream=True)
