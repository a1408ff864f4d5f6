"""Every test of a client is one of both."""

import pytest

from client.fronts import Front


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def front(request: pytest.FixtureRequest) -> Front:
    return Front(request.param)
