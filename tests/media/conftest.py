"""A reader with its workers, for the tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from traghetto.media.images import Finish, ImageFormat, ImageReader, ImageRules, ReadImage
from traghetto.workers.limits import WorkerLimits
from traghetto.workers.pool import Workers

Value = TypeVar("Value")


class Desk:
    """An event loop with a reader, for tests that are not coroutines themselves."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.workers = Workers(WorkerLimits(), processes_max=1, idle_seconds_max=60)
        # A busy machine must not make a good image a bad one.
        self.reader = ImageReader(self.workers, seconds_max=60)

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        return self.runner.run(work)

    def read(self, data: bytes, **rules: int) -> ReadImage:
        return self.run(self.reader.read(data, ImageRules(**rules)))

    def finish(self, data: bytes, to: ImageFormat = "png", **finish: Any) -> bytes:
        return self.run(self.reader.finish(data, format=to, finish=Finish(**finish)))

    def worker_bytes_max(self) -> int:
        """The most memory that the worker has had so far; 0 if there is none now."""
        for pid in self.workers.process_ids:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                continue  # it has ended between the two questions
            if "VmHWM:" in status:  # a process that has just ended has none
                return int(status.split("VmHWM:")[1].split()[0]) * 1024
        return 0


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    desk = Desk()
    try:
        yield desk
    finally:
        desk.run(desk.workers.aclose())
        desk.runner.close()
