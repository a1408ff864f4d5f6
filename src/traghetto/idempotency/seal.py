"""What only a caller can open: keys derived from its API key and its idempotency key.

From the two, three secrets are derived that are of no use for one another: the handle under which
an answer is found, the key that it is encrypted under, and the key of the request's fingerprint. An
API key has 256 random bits, so whoever has the books, and even the idempotency key, can neither
open an answer nor test a guess of the request it belongs to.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_SECRET_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"traghetto idempotency 1\n"


@dataclass(frozen=True, slots=True)
class Seal:
    """The secrets of one API key and one idempotency key; they are never stored together.

    Of the three only the handle, and what the other two make, is ever written down.
    """

    handle: bytes
    _encryption_key: bytes
    _fingerprint_key: bytes

    def fingerprint(self, request: bytes) -> bytes:
        """What tells from another request whether it is the same."""
        return hmac.digest(self._fingerprint_key, request, hashlib.sha256)

    def close(self, answer: bytes) -> bytes:
        """`answer`, encrypted (AES-256-GCM) and bound to the handle; the nonce stands before it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._encryption_key).encrypt(nonce, answer, self.handle)

    def open(self, sealed: bytes) -> bytes:
        """The answer that `close` was given; raises InvalidTag if the books were tampered with."""
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return AESGCM(self._encryption_key).decrypt(nonce, encrypted, self.handle)


def seal_of(api_key: str, idempotency_key: str) -> Seal:
    """The seal of a caller's request (HKDF-SHA256, RFC 5869)."""
    derivation = HKDF(SHA256(), 3 * _SECRET_BYTES, None, _PURPOSE + idempotency_key.encode())
    derived = derivation.derive(api_key.encode())
    first, second = _SECRET_BYTES, 2 * _SECRET_BYTES
    return Seal(derived[:first], derived[first:second], derived[second:])
