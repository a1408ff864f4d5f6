"""How an operator asked for a gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traghetto.catalog.config_file import Configuration, read_configuration
from traghetto.settings import Upstream


@dataclass(frozen=True, slots=True)
class Launch:
    """How an operator asked for a gateway: a configuration, and what only a command line says."""

    config_path: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Settings given as flags, by name."""
    upstreams: tuple[Upstream, ...] = ()
    """Servers all of whose models are to be served."""
    gguf_files: tuple[Path, ...] = ()

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """Where settings that no flag gives are looked for."""
    is_lab: bool = False
    """Whether it is for tests: backends that fail on purpose are not left alone for it, and no
    operator's command has to reach it."""

    @property
    def adds_models(self) -> bool:
        """Whether models come from elsewhere than the file."""
        return bool(self.upstreams or self.gguf_files)

    def configuration(self) -> Configuration:
        """Read the file, the environment and the flags. Raises ConfigInvalid, OSError."""
        return read_configuration(
            self.config_path,
            self.environ,
            self.flags,
            backends_required=not self.adds_models,
            must_run_here=True,
        )
