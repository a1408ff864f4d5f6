"""The API for people: a page made of the document that programs read, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from traghetto.guide.markup import Content, Markup, code_name, element, prose
from traghetto.guide.pages import heading_row, page

Json = Mapping[str, Any]

_KEY_NEEDED: Final = {
    "none": "Needs no key.",
    "optional": "Needs no key; one narrows what is shown.",
    "needed": "Needs an API key.",
}
_BOUNDS: Final = (
    ("minimum", "at least {}"),
    ("maximum", "at most {}"),
    ("minLength", "characters: at least {}"),
    ("maxLength", "characters: at most {}"),
    ("minItems", "items: at least {}"),
    ("maxItems", "items: at most {}"),
)
_OPTIONS_SHOWN: Final = 12
_TYPES_SHOWN: Final = 4


def api_page(document: Json) -> str:
    """The page of an OpenAPI document."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    rows = [_index_row(*operation) for operation in operations]
    index = element(
        "table",
        element("caption", "Every operation, below /api/v1 and below /v1."),
        element("thead", heading_row("Method", "Path and purpose")),
        element("tbody", *rows),
        class_="codes",
    )
    schemas = document["components"]["schemas"]
    return page(
        "en",
        "API",
        element("h1", "API"),
        element(
            "p",
            "The same for programs: ",
            element("a", "openapi.json", href="openapi.json"),
            ". What each error means: ",
            element("a", "the errors", href="errors"),
            ".",
            class_="lead",
        ),
        index,
        *(_operation(method, path, found, schemas) for method, path, found in operations),
        in_languages=("en",),
    )


def _index_row(method: str, path: str, operation: Json) -> Markup:
    link = element("a", element("code", path), href=f"#{operation['operationId']}")
    purpose = element("span", prose(operation["summary"]), class_="message")
    return element(
        "tr",
        element("td", element("code", method)),
        element("th", link, " ", purpose, scope="row"),
    )


def _operation(method: str, path: str, operation: Json, schemas: Json) -> Markup:
    heading = element("h2", element("code", f"{method} {path}", translate="no"))
    parts: list[Content] = [
        heading,
        element("p", prose(operation["summary"]), " ", _KEY_NEEDED[_need_of(operation)]),
    ]
    parts += _parameters(operation)
    parts += _bodies(operation, schemas)
    parts += _answers(operation)
    return element("section", *parts, id=operation["operationId"], class_="operation")


def _need_of(operation: Json) -> str:
    security = operation["security"]
    if not security:
        return "none"
    return "optional" if {} in security else "needed"


def _parameters(operation: Json) -> Iterator[Markup]:
    rows = [
        _member_row(p["name"], p["schema"], p.get("required", False), place=p["in"])
        for p in operation["parameters"]
    ]
    if rows:
        yield _table("Parameters", ("Name", "What it is"), rows)


def _bodies(operation: Json, schemas: Json) -> Iterator[Markup]:
    """The members of the body, once for all media types that share them."""
    contents = operation.get("requestBody", {}).get("content", {})
    by_members: dict[str, tuple[list[str], list[Markup]]] = {}
    for media_type, content in contents.items():
        schema = _resolved(content["schema"], schemas)
        required = set(schema.get("required", ()))
        rows = [
            _member_row(name, _resolved(member, schemas), name in required)
            for name, member in schema.get("properties", {}).items()
        ]
        text = "".join(row.html for row in rows)
        by_members.setdefault(text, ([], rows))[0].append(media_type)
    for media_types, rows in by_members.values():
        yield _table(f"Body, {' or '.join(media_types)}", ("Member", "What it is"), rows)


def _answers(operation: Json) -> Iterator[Markup]:
    """Successes with their media types, and errors with links to their pages."""
    rows = []
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            told: list[Content] = [", ".join(answer["content"])]
        else:
            told = list(_error_links(answer))
        number = element("span", status, class_=f"status of-{status[0]}xx")
        rows.append(element("tr", element("th", number, scope="row"), element("td", *told)))
    yield _table("Answers", ("Status", "What"), rows)


def _error_links(answer: Json) -> Iterator[Content]:
    published = set(answer["description"].split(", "))
    examples = answer["content"]["application/json"]["examples"]
    for place, (name, example) in enumerate(examples.items()):
        if place:
            yield element("br")
        label: Content = code_name(name)
        yield element("a", label, href=f"errors/{name}") if name in published else label
        yield " "
        yield element("span", example["summary"], class_="message")


def _member_row(name: str, schema: Json, required: bool, place: str = "") -> Markup:
    told: list[Content] = [", ".join(filter(None, (_type_of(schema), place)))]
    if required:
        told += ["; ", element("strong", "required")]
    if limits := "; ".join(_limits(schema)):
        told.append(f"; {limits}")
    return element("tr", element("th", element("code", name), scope="row"), element("td", *told))


def _type_of(schema: Json) -> str:
    """The kind of a value, in a few words."""
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        kinds = list(dict.fromkeys(_type_of(alternative) for alternative in alternatives))
        more = " or more" if len(kinds) > _TYPES_SHOWN else ""
        return " or ".join(kinds[:_TYPES_SHOWN]) + more
    kind = str(schema.get("type") or ("object" if "properties" in schema else "any value"))
    if kind == "array":
        items = schema.get("items", {})
        return f"list of {_type_of(items)}" if "$ref" not in items else "list of objects"
    return f"{kind} or null" if schema.get("nullable") else kind


def _limits(schema: Json) -> Iterator[str]:
    if options := schema.get("enum"):
        shown = ", ".join(map(str, options[:_OPTIONS_SHOWN]))
        yield f"one of {shown}{' and others' if len(options) > _OPTIONS_SHOWN else ''}"
    for name, words in _BOUNDS:
        if name in schema:
            yield words.format(f"{schema[name]:,}")
    if "default" in schema and not isinstance(schema["default"], dict | list):
        default = schema["default"]
        yield f"usually {str(default).lower() if isinstance(default, bool) else default}"


def _resolved(schema: Json, schemas: Json) -> Json:
    """A schema without references at its top, its alternatives of one object put together."""
    if "$ref" in schema:
        return _resolved(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "allOf" not in schema:
        return schema
    properties: dict[str, Any] = {}
    required: list[str] = []
    for part in (_resolved(part, schemas) for part in schema["allOf"]):
        properties |= part.get("properties", {})
        required += part.get("required", ())
    return {"type": "object", "properties": properties, "required": required}


def _table(heading: str, columns: tuple[str, ...], rows: list[Markup]) -> Markup:
    body = element("tbody", *rows)
    caption = element("caption", element("h3", heading))
    return element("table", caption, element("thead", heading_row(*columns)), body, class_="facts")
