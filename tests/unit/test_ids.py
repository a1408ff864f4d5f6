"""Identifiers and API keys."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.ids import (
    ADMIN_KEY_PREFIX,
    INFERENCE_KEY_PREFIX,
    is_well_formed_key,
    key_digester,
    new_api_key,
    new_record_id,
    new_request_id,
)


@pytest.mark.parametrize("prefix", [INFERENCE_KEY_PREFIX, ADMIN_KEY_PREFIX])
def test_a_new_key_is_well_formed(prefix: str) -> None:
    """Prefix, 43 random characters, 6 of checksum; each key is new."""
    keys = {new_api_key(prefix) for _ in range(50)}
    assert len(keys) == 50
    for key in keys:
        assert re.fullmatch(prefix + "[0-9A-Za-z]{49}", key)
        assert is_well_formed_key(key)


@given(st.integers(0, 68), st.characters())
def test_a_mistyped_key_is_noticed(position: int, character: str) -> None:
    """Any one changed character breaks the checksum (or the form)."""
    key = new_api_key(INFERENCE_KEY_PREFIX)
    position %= len(key)
    changed = key[:position] + character + key[position + 1 :]
    assert is_well_formed_key(changed) == (changed == key)


@given(st.text(max_size=300))
def test_junk_is_no_key(text: str) -> None:
    """Arbitrary text is refused without an exception."""
    assert not is_well_formed_key(text)


def test_a_digest_depends_on_key_and_pepper() -> None:
    """32 bytes, different for every key and every pepper."""
    key = new_api_key(ADMIN_KEY_PREFIX)
    digests = {
        key_digester(b"p" * 32)(key),
        key_digester(b"q" * 32)(key),
        key_digester(b"p" * 32)(key + "x"),
    }
    assert {len(digest) for digest in digests} == {32}
    assert len(digests) == 3


def test_request_and_record_ids() -> None:
    """32 hexadecimal digits; a UUID."""
    assert re.fullmatch("[0-9a-f]{32}", new_request_id())
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", new_record_id())


def test_a_request_id_begins_with_the_time_at_which_it_was_asked_for() -> None:
    """Rows of one moment lie together in the books, however long ids were in stock before."""
    new_request_id()
    time.sleep(0.005)
    before = time.time_ns() // 1_000_000
    assert before <= int(new_request_id()[:12], 16) <= time.time_ns() // 1_000_000
