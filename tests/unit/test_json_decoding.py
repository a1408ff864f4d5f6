"""A request body becomes a JSON object within its bounds, or it is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.errors import Adjunct, ApiError
from traghetto.wire.json import decode_object

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=5)


def refusal(body: bytes, **bounds: int) -> str | None:
    with pytest.raises(ApiError) as caught:
        decode_object(body, **bounds)
    assert caught.value.code is Adjunct.INVALID_JSON
    return caught.value.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1} x',
        b'{"a":1}{"b":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":01}',
        b'{"a":.5}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":"\n"}',
        b'{"a":"\x00"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00"}',
        b'{"a":"\\ud800\\u0041"}',
        b'{"\\ud800":1}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\xaf"}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\x00}\x00",
        b"// x\n{}",
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes) -> None:
    """Each of these is Invalid JSON request, whatever laxer parsers make of it."""
    refusal(body)


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null", b"true"])
def test_a_body_is_an_object(body: bytes) -> None:
    """Valid JSON of another type has no members to read."""
    assert refusal(body) == "not an object"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a" :2}',
        b'{"a":1,"a"\n:2}',
        b'{"a":1,"\\u0061":2}',
        b'{"b":{"a":1,"c":2,"a":3}}',
        b'{"b":[{"a":1},{"a":1,"a":1}]}',
        b'{"x":"\\":","a":1,"a":2}',
        b'{"x":":","a":1,"a":2}',
        b'{"a":{"b":1,"c":2},"a":{"b":1}}',
    ],
)
def test_duplicate_keys_are_refused(body: bytes) -> None:
    """No layer may read another member than the one that was validated."""
    assert refusal(body) == "duplicate key"


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":"\\":"}',
        b'{"x":":"}',
        b'{"x":"a\\\\","y":"\\\\\\":"}',
        b'{ "x" : "y" , "z" : [ ":" , "\\":" ] }',
        b'{"a":{"a":{"a":1}}}',
    ],
)
def test_colons_in_strings_are_not_keys(body: bytes) -> None:
    """The cheap count of keys is only a bound; text does not cause a refusal."""
    assert decode_object(body) == json.loads(body)


def test_depth_is_bounded_exactly() -> None:
    """64 levels pass, 65 do not, and brackets in strings are no levels."""
    for levels in (64, 65, 500, 100_000):
        body = b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"
        if levels == 64:
            decode_object(body)
        else:
            refusal(body)
    assert decode_object(b'{"a":"' + b"[{" * 5000 + b'"}')


def test_values_are_bounded_exactly_before_decoding() -> None:
    """The bound counts values, containers included, and commas in strings are no values."""
    body = b'{"a":[' + b"1," * 97 + b"1]}"
    assert len(decode_object(body, nodes_max=100)["a"]) == 98
    assert refusal(body, nodes_max=99) == "more values than allowed"
    text = b'{"a":"' + b"x, {y [z " * 1000 + b'"}'
    assert decode_object(text, nodes_max=10)
    assert refusal(b'{"a":"\\\\","b":"\\"' + b'","c' * 60 + b'"}', nodes_max=10)


@pytest.mark.parametrize(
    "body",
    [
        b'"' * 8_000_000,
        b'{"a":[' + b"{}," * 3_000_000 + b"{}]}",
        b"[" * 8_000_000,
        b'{"a":[' + b'"",' * 3_000_000 + b'""]}',
        b'{"a":"' + b'\\"' * 4_000_000,
        b'{"a":"' + b"\\" * 8_000_000,
    ],
    ids=["quotes", "objects", "arrays", "strings", "escaped quotes", "backslashes"],
)
def test_bombs_cost_little(body: bytes) -> None:
    """Bodies made to be expensive are refused; a scan that is not linear would never end."""
    refusal(body)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_every_object_survives(
    value: dict[str, object], ascii_only: bool, indent: int | None
) -> None:
    """What a JSON writer wrote is what comes out, however it was spaced and escaped."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert decode_object(text) == json.loads(text)


@given(OBJECTS.filter(bool), st.booleans(), st.sampled_from([None, 1]))
def test_every_duplicate_is_found(
    value: dict[str, object], ascii_only: bool, indent: int | None
) -> None:
    """Repeating any first key of any object is refused, however it is spaced and escaped."""
    key = next(iter(value))
    whole = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    again = json.dumps({key: value[key]}, ensure_ascii=not ascii_only)
    doubled = "{" + again[1:-1] + "," + whole[1:]
    assert refusal(doubled.encode()) == "duplicate key"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_refusal(body: bytes) -> None:
    """No bytes make the decoder fail in another way."""
    try:
        outcome: object = decode_object(body)
    except ApiError as error:
        outcome = error.code
    assert outcome is Adjunct.INVALID_JSON or isinstance(outcome, dict)


def test_wide_integers_keep_their_digits() -> None:
    """Integers beyond 64 bits are decoded exactly and encode again."""
    assert (
        decode_object(b'{"a":123456789012345678901234567890}')["a"]
        == 123456789012345678901234567890
    )
