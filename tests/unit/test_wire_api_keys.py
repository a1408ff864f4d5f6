"""The limits of a key: every digit that a client writes counts, or is refused."""

from __future__ import annotations

import json
from decimal import MAX_EMAX, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from traghetto.errors import ApiError, ErrorCode, row_of
from traghetto.money import LIMIT_NANO_USD_MAX, SpendLimits
from traghetto.wire.api_keys import limits_member, parse_key_change, parse_new_key
from traghetto.wire.dates import INSTANT_NS_MAX
from traghetto.wire.json import decode_object

NOW_NS = 1_000

unsigned = st.one_of(
    st.integers(0, 10**12).map(str),
    st.integers(9_999_999_998, 10_000_000_000).map(str),
    st.integers(0, 10**40).map(str),
)
fractions = st.one_of(
    st.just(""),
    st.from_regex(r"\A\.[0-9]{1,9}\Z"),
    st.from_regex(r"\A\.[0-9]{1,60}\Z"),
    st.builds(".{}{}".format, st.just("0" * 40), st.integers(0, 9)),
)
exponents = st.one_of(
    st.just(""),
    st.builds(
        "{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 40)
    ),
    st.builds("e{}{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**22)),
)
literals = st.builds(
    "{}{}{}{}".format, st.sampled_from(["", "", "-"]), unsigned, fractions, exponents
)
names = st.sampled_from(["usd", "diem", "vcu"])


def exact_nano_usd(literal: str) -> int | None:
    """What a JSON number says, in nano_usd; None for what no limit can be."""
    digits, _, exponent = literal.lower().partition("e")
    if abs(int(exponent or 0)) > 10_000:
        return 0 if not Decimal(digits) else None
    with localcontext(prec=20_000, Emax=MAX_EMAX, Emin=-MAX_EMAX):
        amount = Decimal(literal) * 10**9
        if amount < 0 or amount > LIMIT_NANO_USD_MAX or amount != amount.to_integral_value():
            return None
        return int(amount)


def limit_asked(text: str, name: str) -> Any:
    """The limit in a body that is written like this; None if it is refused with a 400."""
    raw = text.encode()
    try:
        body = decode_object(raw, depth_max=10, nodes_max=100)
        _, change = parse_new_key(body, raw, NOW_NS)
    except ApiError as error:
        assert row_of(error.code).status == 400  # noqa: PT017 - refused or not, both are right
        return None
    return change.usd_limit if name == "usd" else change.diem_limit


@given(literals, names)
@example("1.00000000000000000000000000000001", "usd")
@example("1e-999999999", "usd")
@example("0.1e-99999999999999999999", "usd")
@example("0e99999999999999999999", "usd")
@example("1e999999999", "usd")
@example("9999999999.000000000", "diem")
@example("9999999999.000000001", "vcu")
@example("-0", "usd")
@example("-0.0", "usd")
def test_a_limit_is_exact_or_refused(literal: str, name: str) -> None:
    """A number is kept to its last digit; what has a digit too many, or is too large, is a 400."""
    text = f'{{"apiKeyType":"ADMIN","description":"","consumptionLimit":{{"{name}":{literal}}}}}'
    expected = exact_nano_usd(literal)
    found = limit_asked(text, name)
    # What is 0 or infinite as a float may be refused, too, if its exponent is beyond reason.
    assert found == expected or (found is None and len(literal.lower().partition("e")[2]) > 3)


@given(st.integers(0, LIMIT_NANO_USD_MAX), st.integers(0, LIMIT_NANO_USD_MAX))
def test_what_is_told_can_be_asked_for(usd: int, diem: int) -> None:
    """A client that sends back the limits it was shown changes nothing."""
    shown = limits_member(SpendLimits(diem_nano_usd=diem, usd_nano_usd=usd))
    members = ",".join(f'"{name}":{bytes(value).decode()}' for name, value in shown.items())
    raw = f'{{"id":"k","consumptionLimit":{{{members}}}}}'.encode()
    body = decode_object(raw, depth_max=10, nodes_max=100)
    _, change = parse_key_change(body, raw, NOW_NS)
    assert (change.usd_limit, change.diem_limit) == (usd, diem)


@pytest.mark.parametrize("written", ['"usd":1,"\\u0075sd":2', '"usd":1,"usd":2'])
def test_a_limit_that_is_said_twice_is_read_once(written: str) -> None:
    """What was validated is what is kept, however a member is spelled."""
    text = f'{{"apiKeyType":"ADMIN","description":"","consumptionLimit":{{{written}}}}}'
    assert limit_asked(text, "usd") in {None, 2 * 10**9}


@given(st.text("0123456789-TZ:.", max_size=24) | st.datetimes().map("{:%Y-%m-%dT%H:%M:%SZ}".format))
def test_an_expiry_is_a_moment_to_come_or_refused(text: str) -> None:
    """What no calendar has, what is past, and what no column holds is a 400."""
    raw = json.dumps({"id": "k", "expiresAt": text}).encode()
    body = decode_object(raw, depth_max=10, nodes_max=100)
    try:
        _, change = parse_key_change(body, raw, NOW_NS)
    except ApiError as error:
        assert error.code is ErrorCode.INVALID_REQUEST  # noqa: PT017 - likewise
        return
    expires = change.expires_at_ns
    assert isinstance(expires, int | None)
    assert (expires is None) is (text == "")
    assert expires is None or NOW_NS < expires <= INSTANT_NS_MAX
