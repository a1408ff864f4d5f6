"""A lab from its start to its end."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from traghetto.lab.control import lab_endpoints
from traghetto.lab.lab import Lab


@asynccontextmanager
async def open_lab(flags: Mapping[str, Any]) -> AsyncIterator[Lab]:
    """A started lab with the settings `flags`, in a folder that goes when the context is left."""
    with tempfile.TemporaryDirectory(prefix="traghetto-lab-") as folder:
        lab = Lab(Path(folder), flags)
        await lab.start(lab_endpoints(lab))
        try:
            yield lab
        finally:
            await lab.aclose()
