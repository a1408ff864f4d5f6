"""Identifiers: request ids, record ids, and API keys with their checksum.

An API key is a prefix, 32 random bytes in base62 and a CRC-32 of both in base62 (6 characters),
so that a mistyped key is refused without a look-up. Keys are shown once and stored as a digest.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import uuid
import zlib
from collections.abc import Callable
from typing import Final

INFERENCE_KEY_PREFIX: Final = "VENICE_INFERENCE_KEY_"
ADMIN_KEY_PREFIX: Final = "VENICE_ADMIN_KEY_"
KEY_CHARACTERS_MAX: Final = 128
_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = [first + second for first in _BASE62 for second in _BASE62]
_SECRET_CHARACTERS: Final = 43
_CHECKSUM_CHARACTERS: Final = 6
_REQUEST_ID_RANDOM_BYTES: Final = 10
_REQUEST_IDS_PER_DRAW: Final = 256


class _RequestIds:
    """Request ids: 48 bits of time in milliseconds, then 80 random bits.

    The time keeps the rows of one moment together in the books, whose indexes would otherwise be
    written all over. It is the machine's, not an injected clock's: it places rows and nothing is
    ever decided by it. The random bits of many ids are drawn at once, because asking the operating
    system costs more than everything else that is done for an id.
    """

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def __call__(self) -> str:
        if not self._drawn:
            digits = secrets.token_hex(_REQUEST_ID_RANDOM_BYTES * _REQUEST_IDS_PER_DRAW)
            width = 2 * _REQUEST_ID_RANDOM_BYTES
            self._drawn = [digits[i : i + width] for i in range(0, len(digits), width)]
        milliseconds = time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF
        return f"{milliseconds:012x}{self._drawn.pop()}"


_request_ids: Final = _RequestIds()


def new_request_id() -> str:
    """A fresh request id: 32 hexadecimal digits, made by us and never taken over from a client."""
    return _request_ids()


def new_record_id() -> str:
    """A fresh id of an account, key or hold: a random UUID in its usual form."""
    return str(uuid.uuid4())


def new_api_key(prefix: str) -> str:
    """A fresh API key with `prefix` (one of the two constants above)."""
    body = prefix + _base62(int.from_bytes(secrets.token_bytes(32), "big"), _SECRET_CHARACTERS)
    return body + _checksum(body)


def is_well_formed_key(key: str) -> bool:
    """Whether `key` has a known prefix, a plausible length and a right checksum."""
    if len(key) > KEY_CHARACTERS_MAX or not key.isascii():
        return False
    if not key.startswith((INFERENCE_KEY_PREFIX, ADMIN_KEY_PREFIX)):
        return False
    body, checksum = key[:-_CHECKSUM_CHARACTERS], key[-_CHECKSUM_CHARACTERS:]
    return _checksum(body) == checksum


def key_digester(pepper: bytes) -> Callable[[str], bytes]:
    """What turns a key into what the store keeps of it: HMAC-SHA256 under a pepper that lives
    outside the store.

    A fast hash is safe here: the secret has 256 random bits, so there is nothing to guess, and a
    slow hash would let anybody spend the server's time with wrong keys. The keyed state is copied
    for each key: the one-shot function would let go of the interpreter lock every time.
    """
    keyed = hmac.new(pepper, digestmod=hashlib.sha256)

    def digest(key: str) -> bytes:
        state = keyed.copy()
        state.update(key.encode())
        return state.digest()

    return digest


def _checksum(body: str) -> str:
    """The CRC-32 of `body`, two digits at a time, because every request asks for it."""
    rest, low = divmod(zlib.crc32(body.encode()), len(_PAIRS))
    high, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
