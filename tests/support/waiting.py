"""Waiting for what happens on another thread, or in another process."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], object], seconds: float = 5.0) -> None:
    """Return as soon as it is so; fails after `seconds`."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.005)
