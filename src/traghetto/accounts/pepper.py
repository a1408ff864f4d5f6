"""The pepper: the secret under which key digests are made, kept outside the books.

Whoever steals the books alone can neither use nor check a key.

Invariant: the books hold a proof of the pepper that their keys were made with, so a wrong or
missing pepper is a refusal at the start and never a key that is turned away without a reason.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from traghetto.ids import key_digester
from traghetto.storage.connector import Store
from traghetto.storage.facts import PepperProved, StoredState

PEPPER_BYTES: Final = 32
FILE_NAME: Final = "pepper"
FILE_VARIABLE: Final = "TRAGHETTO_PEPPER_FILE"

_PROOF_OF: Final = "the pepper of these books"
"""What the proof is the digest of; not well formed as a key, so no key has the same digest."""

_ADVICE: Final = (
    f"name the right file with {FILE_VARIABLE} or the setting `pepper_file`, or restore it from a "
    "backup; if it is lost, revoke every key"
)


class PepperUnusable(ValueError):
    """The pepper file cannot be used; the message says why and what to do."""


def open_pepper(path: Path, store: Store, state: StoredState) -> bytes:
    """The pepper in `path`; created (0600) if the file does not exist and no key depends on it.

    Its proof is submitted to `store` if the books (`state`) have none, so it is durable before the
    first key made with it. Raises PepperUnusable for a file that others may read, that is too
    short, or that is not the pepper of the keys in the books. Revoked keys need no pepper.
    """
    needed = any(not key.revoked for key in state.keys)
    try:
        pepper = _read(path)
    except FileNotFoundError:
        if needed:
            raise PepperUnusable(
                f"{path} does not exist, but the keys in these books need their pepper: {_ADVICE}"
            ) from None
        pepper = _create(path)
    proof = key_digester(pepper)(_PROOF_OF)
    known = state.pepper_proof
    if known is None or not hmac.compare_digest(proof, known):
        if needed and known is not None:
            raise PepperUnusable(
                f"the keys in these books were made with another pepper than {path}: {_ADVICE}"
            )
        store.submit((PepperProved(proof),))
    return pepper


def _create(path: Path) -> bytes:
    """A new pepper, on disk with its directory entry: what depends on it is durable soon after."""
    pepper = secrets.token_bytes(PEPPER_BYTES)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(pepper)
        stream.flush()
        os.fsync(stream.fileno())
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return pepper


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise PepperUnusable(f"{path} can be read by others: run `chmod 600 {path}`")
    pepper = path.read_bytes()
    if len(pepper) < PEPPER_BYTES:
        raise PepperUnusable(
            f"{path} has {len(pepper)} bytes, a pepper has at least {PEPPER_BYTES}: restore it "
            "from a backup"
        )
    return pepper
