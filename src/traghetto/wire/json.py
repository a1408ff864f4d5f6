"""From the bytes of a request body to a JSON object, bounded before anything is allocated.

Invariants of what comes out: strict UTF-8, no lone surrogate, finite numbers, no duplicate key in
any object, at most `depth_max` levels and `nodes_max` values. Integers keep every digit; the
schemas bound those that mean something.

Large bodies are bounded by their *gaps*, the bytes outside strings: there every comma, bracket,
brace and colon is structure, so that counting them is exact, and it is done at memory speed. The
parser itself stops at some hundred levels, which bounds what the exact depth is measured on.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from traghetto.errors import Adjunct, ApiError

JSON_DEPTH_MAX: Final = 64
JSON_NODES_MAX: Final = 200_000

_FEW_STRINGS: Final = 1000
_WHITE_SPACE: Final = b" \t\n\r"
_decode: Final = msgspec.json.Decoder().decode


def decode_object(
    body: bytes, *, depth_max: int = JSON_DEPTH_MAX, nodes_max: int = JSON_NODES_MAX
) -> dict[str, Any]:
    """The JSON object that `body` is.

    `depth_max` counts nested containers (the object itself is the first), `nodes_max` counts
    values, containers included. Raises `ApiError(INVALID_JSON)` for everything else, too large or
    too deep included: a body that may not be decoded has no syntax to speak of.
    """
    gaps = None
    if len(body) > nodes_max:  # a value takes a byte at least
        gaps = _gaps(body, nodes_max)
        if 1 + gaps.count(b",") + gaps.count(b"{") + gaps.count(b"[") > nodes_max:
            raise _invalid("more values than allowed")
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The parser's own text may quote the body, so only the kind of failure is kept.
        raise _invalid(type(error).__name__) from None
    if type(value) is not dict:
        raise _invalid("not an object")
    members, depth = _measure(value, depth_max)
    if depth > depth_max:
        raise _invalid("nested too deeply")
    if gaps is None and members != _keys_at_most(body):
        gaps = _gaps(body, nodes_max)
    if gaps is not None and members != gaps.count(b":"):
        raise _invalid("duplicate key")
    return value


def _keys_at_most(body: bytes) -> int:
    """A cheap upper bound of the keys in `body`: quotes followed by a colon, white space apart.

    Text such as `":` inside strings only raises it. Where it equals the members that were kept,
    no key can have been dropped; the exact count decides the rest.
    """
    return body.translate(None, _WHITE_SPACE).count(b'":')


def _gaps(body: bytes, nodes_max: int) -> bytes:
    """What stands outside strings; exact for valid JSON, and of no consequence for the rest.

    Backslashes come in pairs or before the character they escape, so removing the pairs and then
    the escaped quotes leaves exactly the quotes that open and close strings.
    """
    if b"\\" in body:
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if (gaps := _gaps_of_few_strings(body)) is not None:
        return gaps
    # A value brings at most its own string and one key: four quotes. More cannot pass the bound,
    # and splitting at millions of quotes would itself be the attack.
    if len(body) > nodes_max and body.count(b'"') > 4 * nodes_max:
        raise _invalid("more strings than allowed")
    return b"".join(body.split(b'"')[::2])


def _gaps_of_few_strings(body: bytes) -> bytes | None:
    """What stands outside strings, found without a copy of them; None if they are many.

    Bodies of tens of megabytes are a few files in base64.
    """
    gaps = []
    start = 0
    for _ in range(_FEW_STRINGS):
        opened = body.find(b'"', start)
        gaps.append(body[start:] if opened < 0 else body[start:opened])
        closed = -1 if opened < 0 else body.find(b'"', opened + 1)
        if closed < 0:
            return b"".join(gaps)
        start = closed + 1
    return None


def _measure(root: dict[str, Any], depth_max: int) -> tuple[int, int]:
    """The number of object members in `root` and its depth, level by level (no recursion).

    Stops one level below `depth_max`; the members are then of no interest.
    """
    members, depth = 0, 0
    level: list[Any] = [root]
    while level and depth <= depth_max:
        depth += 1
        below: list[Any] = []
        for container in level:
            children = container
            if type(container) is dict:
                members += len(container)
                children = container.values()
            for child in children:
                kind = type(child)
                if kind is dict or kind is list:
                    below.append(child)
        level = below
    return members, depth


def _invalid(reason: str) -> ApiError:
    return ApiError(Adjunct.INVALID_JSON, reason=reason)
