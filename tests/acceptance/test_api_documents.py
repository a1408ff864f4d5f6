"""`/openapi.json` and `/docs`: true, whole, and the same as what is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from conformance.image_recipes import IMAGE_RECIPES
from conformance.recipes import NOT_REACHABLE_YET, RECIPES
from support.client import PUBLISHED, ask, get
from support.gateway import RunningGateway, running_gateway
from traghetto.errors import Adjunct, ErrorCode, public_name, row_of


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway as it is without configuration."""
    with running_gateway(tmp_path_factory.mktemp("documents")) as running:
        yield running


@pytest.fixture(scope="module")
def document(gateway: RunningGateway) -> dict[str, Any]:
    answer = get(gateway, "/openapi.json")
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def examples(operation: dict[str, Any]) -> dict[str, tuple[int, Any]]:
    """Every error of an operation: its status and body."""
    return {
        name: (int(status), example["value"])
        for status, answer in operation["responses"].items()
        if not status.startswith("2")
        for name, example in answer["content"]["application/json"]["examples"].items()
    }


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """By the schema of OpenAPI, and a program that generates requests can use all of it."""
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    assert len(list(schema.get_all_operations())) == len(list(operations(document)))


def test_every_endpoint_is_in_it(gateway: RunningGateway, document: dict[str, Any]) -> None:
    """And nothing else: the exceptions are those of the edge, and a route that must not exist."""
    served = {
        (endpoint.method, endpoint.path)
        for path, endpoint in gateway.gateway.dispatch.routes()
        if path.startswith("/api/v1")
    }
    listed = {(method, path) for method, path, _ in operations(document)}
    web3 = {(method, "/api_keys/generate_web3_key") for method in ("GET", "POST")}
    assert served - listed == web3
    assert listed <= served


def test_examples_are_the_bodies_of_the_contract(document: dict[str, Any]) -> None:
    """Status and sentence of each, under its name."""
    for _, path, operation in operations(document):
        for name, (status, body) in examples(operation).items():
            code = ErrorCode[name] if name in PUBLISHED else Adjunct[name]
            assert status == row_of(code).status, path
            error = body["error"]
            sentence = error["message"] if isinstance(error, dict) else error
            if name in PUBLISHED:
                assert sentence == PUBLISHED[name].message


def test_every_code_is_an_answer_of_an_operation(document: dict[str, Any]) -> None:
    """But for those whose endpoints do not exist yet."""
    found = {name for _, _, operation in operations(document) for name in examples(operation)}
    assert set(PUBLISHED) - found == NOT_REACHABLE_YET
    in_no_operation = {"MALFORMED_HTTP", "ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED"}
    assert set(Adjunct.__members__) - found == in_no_operation


NOT_PROVOKED_BY_RECIPES = {
    "UNKNOWN_ERROR",  # a broken store: test_broken_store.py
    "FAILED_REQUEST_BUDGET",  # once, for a chat
    "PAYMENT_HEADER_NOT_ACCEPTED",
    "NO_CREDENTIALS",
    "API_ACCESS_DISABLED",
    "AUTHENTICATION_FAILED_INACTIVE_KEY",
    "IDEMPOTENCY_KEY_REUSED",
    "IDEMPOTENT_ANSWER_NOT_KEPT",
    "REQUEST_TIMEOUT",  # of a duplicate that waits for the first: test_idempotency.py
    "UPSTREAM_REJECTED",
    "INVALID_JSON",
    "IMAGE_NOT_ACCEPTED",
    "IMAGE_TOO_LARGE",
    "IMAGE_TOO_SMALL",
    "CORRUPTED_IMAGE",
    "MODEL_NOT_A_STRING",
    "MODEL_NOT_FOUND",
    "INVALID_MODEL",
    "INVALID_FORM",
    "PAYLOAD_TOO_LARGE",
    "CONTENT_POLICY_VIOLATION",
}
"""Errors of stages that all endpoints share, which the recipes provoke at some of them only."""


def test_what_the_recipes_provoke_is_listed(document: dict[str, Any]) -> None:
    """At the endpoint where it comes; and what is listed is provoked, or shared with others."""
    at: dict[str, set[str]] = {"chat_completions": {recipe.code for recipe in RECIPES}}
    for recipe in IMAGE_RECIPES:
        at.setdefault(recipe.place.endpoint, set()).add(recipe.code)
    of_the_edge = {"MALFORMED_HTTP", "ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED", "ADMIN_KEY_REQUIRED"}
    listed = {o["operationId"]: set(examples(o)) for _, _, o in operations(document)}
    for endpoint, provoked in at.items():
        assert provoked - of_the_edge <= listed[endpoint], endpoint
        assert listed[endpoint] - provoked <= NOT_PROVOKED_BY_RECIPES, endpoint


def test_headers_of_errors_are_those_that_are_sent(
    gateway: RunningGateway, document: dict[str, Any]
) -> None:
    """A real error has every header that the document promises."""
    answer = ask(gateway, gateway.new_key(), {"model": "nobody", "messages": []})
    operation = document["paths"]["/chat/completions"]["post"]
    promised = operation["responses"][str(answer.status)]["headers"]
    assert set(promised) <= set(answer.headers)
    assert (
        answer.headers["x-error-code"] in operation["responses"][str(answer.status)]["description"]
    )
    assert public_name(ErrorCode.MODEL_NOT_FOUND) == answer.headers["x-error-code"]


def test_documents_are_cached_by_their_tag(gateway: RunningGateway) -> None:
    """Who has one already is told so; a key is not needed, and a method that is not there is 405."""
    for path, media_type in (("/openapi.json", "application/json"), ("/docs", "text/html")):
        first = get(gateway, path)
        assert first.headers["content-type"].startswith(media_type)
        again = ask(
            gateway, None, method="GET", path=path, headers={"if-none-match": first.headers["etag"]}
        )
        assert (again.status, again.body) == (304, b"")
        assert ask(gateway, None, method="HEAD", path=path).headers["etag"] == first.headers["etag"]
        assert ask(gateway, None, method="POST", path=path).status == 405


def test_the_page_has_every_operation_and_no_script(
    gateway: RunningGateway, document: dict[str, Any]
) -> None:
    """Made of the same document; a browser may fetch nothing for it."""
    answer = get(gateway, "/docs")
    page = answer.body.decode()
    for _, path, operation in operations(document):
        assert f'id="{operation["operationId"]}"' in page, path
    assert "<script" not in page
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_models_are_those_of_the_gateway(document: dict[str, Any]) -> None:
    """The published file names the models of another server; this document names none."""
    text = str(document["paths"]["/image/edit"]["post"])
    assert "modelId" in text
    assert "firered" not in text
