"""Operators' commands, run as their program runs them, but in this process: it starts at once."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import traghetto.cli


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)

    def assert_refused(self, status: int, sentence: str) -> None:
        """One sentence on standard error and nothing else, with that exit status.

        A usage error (2) shows how the command is called before its sentence.
        """
        assert (self.status, self.out) == (status, ""), self
        lines = self.err.splitlines()
        if status == 2:
            assert lines.pop(0).startswith("Usage: traghetto "), self.err
            lines = [line for line in lines if line and not line.startswith("Try 'traghetto ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith(("Error: ", "traghetto: ")), self.err
        assert sentence in lines[0], self.err


def run_command(*arguments: str | Path) -> Done:
    """Run `traghetto ARGUMENTS`; a defect raises what it raised."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            traghetto.cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
    return Done(status, _text_of(out), _text_of(err))


def _text_of(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
