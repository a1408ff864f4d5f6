"""The pepper: the secret under which key digests are made, kept outside the books.

Whoever steals the books alone can neither use nor check a key.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

PEPPER_BYTES: Final = 32
FILE_NAME: Final = "pepper"


class PepperUnusable(ValueError):
    """The pepper file cannot be used; the message says why and what to do."""


def read_or_create_pepper(path: Path) -> bytes:
    """The pepper in `path`; created (0600) if the file does not exist.

    Raises PepperUnusable for a file that others may read or that is too short.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read(path)
    with os.fdopen(file, "wb") as stream:
        pepper = secrets.token_bytes(PEPPER_BYTES)
        stream.write(pepper)
        stream.flush()
        os.fsync(stream.fileno())
    return pepper


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise PepperUnusable(f"{path} can be read by others: run `chmod 600 {path}`")
    pepper = path.read_bytes()
    if len(pepper) < PEPPER_BYTES:
        raise PepperUnusable(
            f"{path} has {len(pepper)} bytes, a pepper has at least {PEPPER_BYTES}: restore it "
            "from a backup, or remove it and create new keys"
        )
    return pepper
