"""What many of these tests stand on: a clock that they move, and a backend that they script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.upstream import FaultUpstream, upstream_in_thread
from traghetto.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def upstream() -> Iterator[FaultUpstream]:
    with upstream_in_thread() as running:
        yield running
