"""Dates and times: the same as the calendar's, to the nanosecond, or none."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.wire.dates import DATE_MAX, INSTANT_NS_MAX, date_ns, instant_ns
from traghetto.wire.schema import is_date_time

DAY_NS = 86_400 * 10**9
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

digits = st.integers(0, 99).map("{:02d}".format)
years = st.integers(0, 9999).map("{:04d}".format)
offsets = st.one_of(
    st.sampled_from(["Z", "z"]), st.builds("{}{}:{}".format, st.sampled_from("+-"), digits, digits)
)
fractions = st.one_of(st.just(""), st.from_regex(r"\A\.[0-9]{1,12}\Z"))


@given(st.dates())
def test_a_date_is_its_first_moment(day: date) -> None:
    """Every date that the calendar has, before 1970 too."""
    assert date_ns(day.isoformat()) == (day.toordinal() - date(1970, 1, 1).toordinal()) * DAY_NS


@given(st.builds("{}-{}-{}".format, years, digits, digits))
def test_a_day_that_does_not_exist_is_none(text: str) -> None:
    """Ten characters that look like a date are one if the calendar has it."""
    year, month, day = (int(part) for part in text.split("-"))
    try:
        expected = (date(year, month, day) - date(1970, 1, 1)).days * DAY_NS
    except ValueError:
        expected = None
    assert date_ns(text) == expected


@given(
    st.datetimes(),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.integers(0, 999_999_999),
    st.integers(0, 9),
)
def test_an_instant_is_exact(moment: datetime, offset: int, fraction: int, places: int) -> None:
    """Any offset, any fraction up to nanoseconds: what integers make of it, nothing rounded."""
    moment = moment.replace(year=min(max(moment.year, 2), 9998), day=min(moment.day, 28))
    moment = moment.replace(microsecond=0)
    shown = f"{fraction:09d}"[:places]
    sign, minutes = "-" if offset < 0 else "+", abs(offset)
    text = moment.isoformat() + (f".{shown}" if shown else "")
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    between = zoned - EPOCH
    seconds = between.days * 86_400 + between.seconds
    expected = seconds * 10**9 + int(shown.ljust(9, "0"))
    assert instant_ns(f"{text}{sign}{minutes // 60:02d}:{minutes % 60:02d}") == expected


@given(
    st.builds(
        "{}-{}-{}{}{}:{}:{}{}{}".format,
        years, digits, digits, st.sampled_from("Tt"), digits, digits, digits, fractions, offsets,
    )
)  # fmt: skip
def test_what_looks_like_an_instant_is_one_or_none(text: str) -> None:
    """Nothing that the published format admits raises, and what exists is read."""
    found = instant_ns(text)
    if not is_date_time(text):
        assert found is None
        return
    offset = re.search(r"[+-](\d\d):(\d\d)\Z", text)
    in_range = offset is None or (int(offset[1]) < 24 and int(offset[2]) < 60)
    if in_range and "0002" <= text[:4] <= "9998":
        assert found is not None
    if not in_range:
        assert found is None


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_none(text: str) -> None:
    """Whatever is written: a whole number, or none."""
    for read in (date_ns, instant_ns):
        assert isinstance(read(text), int | None)


def test_the_last_date_begins_before_the_last_instant() -> None:
    """The bounds that clients are told of are those of the column."""
    last = date_ns(DATE_MAX)
    assert last is not None
    assert last <= INSTANT_NS_MAX < last + DAY_NS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026",
        "2026-11-23",
        "2026-11-23T10:00",
        "2026-11-23T24:00:00Z",
        "2026-11-23T10:00:60Z",
        "2026-02-29T10:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2026-11-23T10:00:00+24:00",
        "2026-11-23T10:00:00.1.2Z",
    ],
)
def test_what_is_no_instant(text: str) -> None:
    """Parts that are missing, days and hours that do not exist, moments before the first year."""
    assert instant_ns(text) is None
