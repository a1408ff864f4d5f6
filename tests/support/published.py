"""The published form of answers: schemas compiled from `spec/openapi.json`."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema_rs

from support.repository import ROOT
from traghetto.wire.schema import to_json_schema

OPENAPI = json.loads((ROOT / "spec" / "openapi.json").read_text())


@cache
def _validator(method: str, path: str) -> jsonschema_rs.Validator:
    operation = OPENAPI["paths"][path][method.lower()]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    components = OPENAPI["components"]["schemas"]
    return jsonschema_rs.Draft202012Validator(to_json_schema(schema, components))


def assert_answer_is_published(method: str, path: str, body: Any) -> None:
    """`body` has the form that the publication gives a 200 of that operation, and no more."""
    problems = [
        f"{error.instance_path}: {error.message}"
        for error in _validator(method, path).iter_errors(body)
    ]
    assert problems == []
