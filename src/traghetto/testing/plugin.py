"""The pytest plugin: `lab` and `lab_url`.

One lab serves a whole test run (each worker of pytest-xdist has its own), and every test begins
with a new one: resetting takes some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from traghetto.testing.lab import Lab, start_lab


@pytest.fixture(scope="session")
def lab_of_session() -> Iterator[Lab]:
    """The lab behind `lab`, which goes on through all tests."""
    with start_lab() as lab:
        yield lab


@pytest.fixture
def lab(lab_of_session: Lab) -> Lab:
    """A lab without accounts, faults or passed time."""
    lab_of_session.reset()
    return lab_of_session


@pytest.fixture
def lab_url(lab: Lab) -> str:
    """The base URL of the API of `lab`, such as `http://127.0.0.1:43210/api/v1`."""
    return lab.url
