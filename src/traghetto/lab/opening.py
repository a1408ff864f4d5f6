"""A lab from its start to its end."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from traghetto.clock import SystemClock
from traghetto.lab.control import lab_endpoints
from traghetto.lab.lab import Lab

_PREFIX: Final = "traghetto-lab-"
_LOCK: Final = "lock"
_ABANDONED_SECONDS_MIN: Final = 60.0
"""A folder that is younger may belong to a lab that is just starting."""


@asynccontextmanager
async def open_lab(flags: Mapping[str, Any]) -> AsyncIterator[Lab]:
    """A started lab with the settings `flags`, in a folder that goes when the context is left."""
    with _folder() as folder:
        lab = Lab(folder, flags)
        await lab.start(lab_endpoints(lab))
        try:
            yield lab
        finally:
            await lab.aclose()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder of this lab's own; those of labs that were killed go on the way."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX) as name,
        (Path(name) / _LOCK).open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders that no living process has locked."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or gone already
            if SystemClock().utc_ns() / 1e9 - folder.stat().st_mtime < _ABANDONED_SECONDS_MIN:
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
