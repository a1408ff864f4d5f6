"""Cursors of a usage history: what was signed comes back, and nothing else is accepted."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.money import Currency
from traghetto.wire.billing import Page, Sign, cursor_of, parse_page
from traghetto.wire.dates import INSTANT_NS_MAX

ALPHABET = string.ascii_letters + string.digits + "-_"

pages = st.builds(
    Page,
    after_ns=st.integers(0, INSTANT_NS_MAX),
    after_seq=st.integers(0, 2**63 - 1),
    end_ns=st.integers(-INSTANT_NS_MAX, INSTANT_NS_MAX),
    rows=st.integers(10, 1000),
    currency=st.sampled_from([None, *Currency]),
)

instants = st.datetimes().map(lambda moment: f"{moment.replace(microsecond=0).isoformat()}Z")


def signer(account: str) -> Sign:
    """Signs for one account, as the directory does."""
    return lambda payload: hmac.digest(account.encode(), payload, hashlib.sha256)


def opened(cursor: str, account: str = "a") -> Page:
    """The page that a cursor leads to."""
    return parse_page(f"cursor={cursor}".encode(), signer(account))


@given(pages)
def test_a_cursor_leads_back_to_its_page(page: Page) -> None:
    """Every page survives its cursor, which fits into the published bounds."""
    cursor = cursor_of(page, signer("a"))
    assert len(cursor) <= 512
    assert set(cursor) <= set(ALPHABET)
    assert opened(cursor) == page


@given(pages, st.data())
def test_an_altered_cursor_is_refused(page: Page, data: st.DataObject) -> None:
    """One character replaced, added or taken away, wherever it is: the cursor is not ours."""
    cursor = cursor_of(page, signer("a"))
    place = data.draw(st.one_of(st.just(len(cursor) - 1), st.integers(0, len(cursor) - 1)))
    piece = data.draw(st.text(ALPHABET, max_size=4))
    end = place + data.draw(st.integers(0, 4))
    altered = cursor[:place] + piece + cursor[end:]
    if altered == cursor:
        return
    with pytest.raises(ApiError) as refused:
        opened(altered)
    assert refused.value.code.name in {"INVALID_CURSOR", "INVALID_REQUEST"} or not altered


@given(pages, st.sampled_from(ALPHABET))
def test_a_cursor_has_one_spelling(page: Page, last: str) -> None:
    """The bits behind the last byte count too."""
    cursor = cursor_of(page, signer("a"))
    if cursor[-1] == last:
        return
    with pytest.raises(ApiError) as refused:
        opened(cursor[:-1] + last)
    assert refused.value.code is Adjunct.INVALID_CURSOR


@given(pages, st.text("ab", max_size=3))
def test_a_cursor_is_one_accounts(page: Page, account: str) -> None:
    """Whoever else presents it is refused."""
    cursor = cursor_of(page, signer("owner"))
    with pytest.raises(ApiError) as refused:
        opened(cursor, account)
    assert refused.value.code is Adjunct.INVALID_CURSOR


@given(st.binary(max_size=200))
def test_what_nobody_signed_is_refused(forged: bytes) -> None:
    """Any bytes in the right letters, a page without its signature among them."""
    cursor = base64.urlsafe_b64encode(forged).decode().rstrip("=") or "A"
    with pytest.raises(ApiError) as refused:
        opened(cursor)
    assert refused.value.code is Adjunct.INVALID_CURSOR


@given(instants, instants)
def test_any_two_instants_are_within_the_books_or_refused(start: str, end: str) -> None:
    """The year 1 and the year 9999 can be asked for, although no row can be of either."""
    query = f"startTimestamp={start}&endTimestamp={end}"
    try:
        page = parse_page(query.encode(), signer("a"))
    except ApiError as error:
        assert error.code is ErrorCode.INVALID_REQUEST  # noqa: PT017 - refused or not, both are right
        return
    assert 0 <= page.after_ns <= page.end_ns <= INSTANT_NS_MAX
