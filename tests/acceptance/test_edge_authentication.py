"""Who may call what: every endpoint is called without a key, with a wrong one and with right ones.

An endpoint says who may call it in its `authentication`; these tests are what makes that true.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator

import pytest

from support.gateway import RunningGateway, running_gateway
from traghetto.endpoints.spec import BASES, Authentication, Endpoint
from traghetto.ids import INFERENCE_KEY_PREFIX, new_api_key

FROM_AFAR = {"X-Forwarded-For": "203.0.113.7"}
"""What a proxy adds: a request that carries it does not come from this machine."""

UNAUTHORISED = 401

REFUSED = {
    (Authentication.KEY, "none"),
    (Authentication.KEY, "wrong"),
    (Authentication.ADMIN, "none"),
    (Authentication.ADMIN, "wrong"),
    (Authentication.ADMIN, "inference"),
    (Authentication.ADMIN_FROM_AFAR, "none"),
    (Authentication.ADMIN_FROM_AFAR, "wrong"),
    (Authentication.ADMIN_FROM_AFAR, "inference"),
}
"""Who gets nothing but 401 when calling from another machine; everybody else is let in."""

ADMITTED = {200, 400, 404, 410}
"""What those who are let in get: an answer, a refusal of what they did not say, or the news that
a route is not served, or not any more."""

PUBLIC = {
    "/health/live",
    "/health/ready",
    "/docs",
    "/errors",
    "/errors/{code}",
    "/openapi.json",
    *(
        base + path
        for base in BASES
        for path in (
            "/models",
            "/models/traits",
            "/models/compatibility_mapping",
            "/models/{id}",
            "/billing/usage",
            "/api_keys/generate_web3_key",
            "/image/styles",
        )
    ),
}
"""What anybody may read. A route that is added here is a decision."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with its simulator, where failed requests are not the matter."""
    with running_gateway(tmp_path_factory.mktemp("edge"), failed_requests_max=10_000) as running:
        yield running


@pytest.fixture(scope="module")
def keys(gateway: RunningGateway) -> dict[str, str | None]:
    """A key of each kind of caller."""
    return {
        "none": None,
        "wrong": new_api_key(INFERENCE_KEY_PREFIX),
        "inference": gateway.new_key(),
        "admin": gateway.new_key(admin=True),
    }


def status(
    gateway: RunningGateway, endpoint: Endpoint, path: str, key: str | None, **headers: str
) -> int:
    """The status of a call that lacks nothing but, perhaps, its key."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=10)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    body = None
    if endpoint.method in {"PATCH", "POST"}:
        headers["Content-Type"] = "application/json"
        body = '{"model": "simulator", "messages": [{"role": "user", "content": "Hello"}]}'
    try:
        connection.request(
            endpoint.method, re.sub("{.*}", "simulator", path), body, headers=headers
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@pytest.mark.parametrize("caller", ["none", "wrong", "inference", "admin"])
def test_every_endpoint_admits_whom_it_says(
    gateway: RunningGateway, keys: dict[str, str | None], caller: str
) -> None:
    """The declared authentication decides, for every path of every endpoint, from afar."""
    routes = list(gateway.gateway.dispatch.routes())
    assert len(routes) > len(PUBLIC)
    for path, endpoint in routes:
        answered = status(gateway, endpoint, path, keys[caller], **FROM_AFAR)
        refused = (endpoint.authentication, caller) in REFUSED
        assert (path, answered == UNAUTHORISED) == (path, refused)
        assert answered in {UNAUTHORISED, *ADMITTED}


def test_an_admin_key_is_not_needed_on_this_machine(gateway: RunningGateway) -> None:
    """What asks for an admin key from afar is open to a scraper next to the gateway."""
    guarded = [
        (path, endpoint)
        for path, endpoint in gateway.gateway.dispatch.routes()
        if endpoint.authentication is Authentication.ADMIN_FROM_AFAR
    ]
    assert [path for path, _ in guarded] == ["/metrics"]
    for path, endpoint in guarded:
        assert status(gateway, endpoint, path, None) == 200


def test_nothing_else_is_public(gateway: RunningGateway) -> None:
    """The routes that ask for no key are these, and a key is the rule for any other."""
    open_to_all = {Authentication.NONE, Authentication.OPTIONAL}
    public = {
        path
        for path, endpoint in gateway.gateway.dispatch.routes()
        if endpoint.authentication in open_to_all
    }
    assert public == PUBLIC
