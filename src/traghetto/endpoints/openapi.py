"""The document of the API: what each endpoint takes, gives and fails with (OpenAPI 3.0).

Shapes of requests and answers are those of the published file, for the operations that are served
and nothing more; words are our own. The errors of an operation are exactly those that its endpoint
declares, each with the body that this server sends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from traghetto import CONTRACT_VERSION
from traghetto.endpoints.spec import BASES, Authentication, Endpoint
from traghetto.errors import (
    Adjunct,
    ApiError,
    Code,
    ErrorCode,
    ErrorStyle,
    public_name,
    row_of,
    says_when,
)
from traghetto.guide.facts import facts_of
from traghetto.wire.spec import load_spec

Json = dict[str, Any]

_DROPPED_HEADERS: Final = frozenset({"X-Balance-Remaining", "Content-Encoding"})
_DROPPED_PARAMETERS: Final = frozenset({"Accept-Encoding"})
"""What the published file has and this server does nothing with."""
_MODEL_NAMES: Final = frozenset({"model", "modelId"})
_SECURITY: Final[Mapping[Authentication, list[Json]]] = {
    Authentication.NONE: [],
    Authentication.OPTIONAL: [{}, {"BearerAuth": []}],
    Authentication.KEY: [{"BearerAuth": []}],
    Authentication.ADMIN: [{"BearerAuth": []}],
    Authentication.ADMIN_FROM_AFAR: [{}, {"BearerAuth": []}],
}
_BINARY: Final[Json] = {"schema": {"type": "string", "format": "binary"}}
_FURTHER_ANSWERS: Final[Mapping[str, Json]] = {
    "chat_completions": {"text/event-stream": {"schema": {"type": "string"}}},
    "image_generate": {f"image/{form}": _BINARY for form in ("webp", "png", "jpeg")},
}
"""Forms of a success that the published file does not mention."""
_IDEMPOTENCY_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names the request, so that it is answered again and charged once.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,255}$"},
}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "oneOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": "string", "nullable": True},
                        "code": {"type": "string", "nullable": True},
                    },
                },
            ]
        },
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "details": {"type": "object"},
        "issues": {"type": "array", "items": {"type": "object"}},
    },
}
_HEADERS: Final[Mapping[str, Json]] = {
    "x-error-code": {"description": "The name of the error.", "schema": {"type": "string"}},
    "x-request-id": {"description": "Names this answer.", "schema": {"type": "string"}},
    "x-should-retry": {
        "description": "Whether the same request can succeed later.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "retry-after": {
        "description": "When to try again, in seconds.",
        "schema": {"type": "integer", "minimum": 0},
    },
}


def api_document(endpoints: Iterable[Endpoint], style: ErrorStyle) -> Json:
    """The document of the endpoints that have a summary, as a server with this `style` answers."""
    published = load_spec("openapi")
    paths: defaultdict[str, Json] = defaultdict(dict)
    for endpoint in endpoints:
        if endpoint.summary:
            known = published["paths"].get(endpoint.path, {}).get(endpoint.method.lower(), {})
            operation = _operation(endpoint, _any_model(known), style)
            paths[endpoint.path][endpoint.method.lower()] = operation
    schemas = {**published["components"]["schemas"], "Error": _ERROR}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Traghetto",
            "version": CONTRACT_VERSION,
            "description": "A self-hosted gateway that speaks the Venice API.",
        },
        "servers": [{"url": base} for base in BASES],
        "paths": dict(paths),
        "components": {
            "schemas": dict(_reached(paths, schemas)),
            "headers": dict(_HEADERS),
            "securitySchemes": {"BearerAuth": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, known: Json, style: ErrorStyle) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": known.get("tags") or ["Models"],
        "security": _SECURITY[endpoint.authentication],
        "parameters": list(_parameters(endpoint, known)),
        "responses": {**_success(endpoint, known), **_failures(endpoint.errors, style)},
    }
    if "requestBody" in known:
        operation["requestBody"] = known["requestBody"]
    if known.get("deprecated"):
        operation["deprecated"] = True
    return operation


def _parameters(endpoint: Endpoint, known: Json) -> Iterator[Json]:
    named = [p for p in known.get("parameters", ()) if p["name"] not in _DROPPED_PARAMETERS]
    yield from named
    if Adjunct.IDEMPOTENCY_KEY_REUSED in endpoint.errors:
        yield _IDEMPOTENCY_KEY
    if endpoint.prefix is not None and not any(p["in"] == "path" for p in named):
        name = endpoint.path.rpartition("{")[2].removesuffix("}")
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _success(endpoint: Endpoint, known: Json) -> Json:
    """The answer of a request that went well; none of an endpoint that only refuses."""
    if Adjunct.ENDPOINT_RETIRED in endpoint.errors:
        return {}
    answer = known.get("responses", {}).get("200")
    if answer is None:
        schema = {"$ref": "#/components/schemas/ModelResponse"}
        answer = {"content": {"application/json": {"schema": schema}}}
    headers = {
        name: header
        for name, header in answer.get("headers", {}).items()
        if name not in _DROPPED_HEADERS
    }
    content = {**answer["content"], **_FURTHER_ANSWERS.get(endpoint.name, {})}
    return {"200": {"description": "What was asked for.", "headers": headers, "content": content}}


def _failures(codes: Iterable[Code], style: ErrorStyle) -> Json:
    """The errors, by status, each with an example."""
    by_status: defaultdict[int, list[Code]] = defaultdict(list)
    for code in sorted(codes, key=_in_order):
        by_status[row_of(code).status].append(code)
    return {str(status): _failure(found, style) for status, found in by_status.items()}


def _failure(codes: list[Code], style: ErrorStyle) -> Json:
    names = dict.fromkeys(public_name(code) for code in codes)
    absent = set() if style.code_header else {"x-error-code"}
    absent |= set() if any(says_when(ApiError(code)) for code in codes) else {"retry-after"}
    headers = [name for name in _HEADERS if name not in absent]
    examples = {code.name: _example(code, style) for code in codes}
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": ", ".join(names),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {"application/json": {"schema": schema, "examples": examples}},
    }


def _example(code: Code, style: ErrorStyle) -> Json:
    body = msgspec.json.decode(facts_of(code, style).body_example)
    error = body["error"]
    return {"summary": error["message"] if isinstance(error, dict) else error, "value": body}


def _in_order(code: Code) -> tuple[int, int]:
    """By status, then as the catalogue has them, the published ones first."""
    table: type[ErrorCode | Adjunct] = type(code)
    place = list(table).index(code)
    return row_of(code).status, place + (0 if isinstance(code, ErrorCode) else len(ErrorCode))


def _any_model(value: Any) -> Any:
    """`value` without the list of models of the published file: a gateway has its own."""
    if isinstance(value, list):
        return [_any_model(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {name: _any_model(member) for name, member in value.items()}
    if isinstance(properties := made.get("properties"), dict):
        for name in _MODEL_NAMES & properties.keys():
            properties[name].pop("enum", None)
    return made


def _reached(paths: Json, schemas: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    """The schemas that the operations refer to, and those that these refer to."""
    waiting, seen = [_any_model(paths)], set()
    while waiting:
        for name in _references(waiting.pop()):
            if name not in seen:
                seen.add(name)
                schema = _any_model(schemas[name])
                waiting.append(schema)
                yield name, schema


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, dict):
        target = value.get("$ref")
        if isinstance(target, str) and target.startswith("#/components/schemas/"):
            yield target.rpartition("/")[2]
        for member in value.values():
            yield from _references(member)
