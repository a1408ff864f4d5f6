"""Refused bodies are explained in the vocabulary of Zod 3."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traghetto.errors import ApiError, ErrorCode
from traghetto.wire import zod
from traghetto.wire.schema import Validator, compile_schema, to_json_schema, validator_for
from traghetto.wire.zod import details_of, issues_of, refusal, require_valid

CHAT = validator_for("ChatCompletionRequest")
USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "m", "messages": [USER]}


def validator(schema: dict[str, Any]) -> Validator:
    document = to_json_schema(schema, {})
    return Validator("test", document, compile_schema(document))


def issues(schema: dict[str, Any], value: Any) -> list[dict[str, Any]]:
    made = validator(schema)
    assert not made.is_valid(value)
    return issues_of(made, value)


def member(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"]}


STRING = {"type": "string"}
VOCABULARY: list[tuple[str, dict[str, Any], Any, dict[str, Any]]] = [
    (
        "missing",
        member(STRING),
        {},
        {
            "code": "invalid_type",
            "expected": "string",
            "received": "undefined",
            "path": ["x"],
            "message": "Field is required",
        },
    ),
    (
        "missing union",
        member({"anyOf": [STRING, {"type": "array"}]}),
        {},
        {
            "code": "invalid_type",
            "expected": "string | array",
            "received": "undefined",
            "path": ["x"],
            "message": "Field is required",
        },
    ),
    (
        "type",
        member(STRING),
        {"x": 1},
        {
            "code": "invalid_type",
            "expected": "string",
            "received": "number",
            "path": ["x"],
            "message": "Expected string, received number",
        },
    ),
    (
        "null",
        member(STRING),
        {"x": None},
        {
            "code": "invalid_type",
            "expected": "string",
            "received": "null",
            "path": ["x"],
            "message": "Expected string, received null",
        },
    ),
    (
        "boolean is no number",
        member({"type": "number"}),
        {"x": True},
        {
            "code": "invalid_type",
            "expected": "number",
            "received": "boolean",
            "path": ["x"],
            "message": "Expected number, received boolean",
        },
    ),
    (
        "float",
        member({"type": "integer"}),
        {"x": 1.5},
        {
            "code": "invalid_type",
            "expected": "integer",
            "received": "float",
            "path": ["x"],
            "message": "Expected integer, received float",
        },
    ),
    (
        "text for an integer",
        member({"type": "integer"}),
        {"x": "1"},
        {
            "code": "invalid_type",
            "expected": "number",
            "received": "string",
            "path": ["x"],
            "message": "Expected number, received string",
        },
    ),
    (
        "enum",
        member({"type": "string", "enum": ["a", "b"]}),
        {"x": "c"},
        {
            "code": "invalid_enum_value",
            "options": ["a", "b"],
            "received": "c",
            "path": ["x"],
            "message": "Invalid enum value. Expected 'a' | 'b', received 'c'",
        },
    ),
    (
        "type of an enum",
        member({"type": "string", "enum": ["a", "b"]}),
        {"x": 1},
        {
            "code": "invalid_type",
            "expected": "'a' | 'b'",
            "received": "number",
            "path": ["x"],
            "message": "Expected 'a' | 'b', received number",
        },
    ),
    (
        "literal",
        member({"type": "string", "enum": ["a"]}),
        {"x": "b"},
        {
            "code": "invalid_literal",
            "expected": "a",
            "received": "b",
            "path": ["x"],
            "message": 'Invalid literal value, expected "a"',
        },
    ),
    (
        "literal true",
        member({"type": "boolean", "enum": [True]}),
        {"x": 1},
        {
            "code": "invalid_literal",
            "expected": True,
            "received": 1,
            "path": ["x"],
            "message": "Invalid literal value, expected true",
        },
    ),
    (
        "unknown keys",
        {"type": "object", "properties": {}, "additionalProperties": False},
        {"b": 1, "a": 2},
        {
            "code": "unrecognized_keys",
            "keys": ["b", "a"],
            "path": [],
            "message": "Unrecognized key(s) in object: 'b', 'a'",
        },
    ),
    (
        "short text",
        member({"type": "string", "minLength": 1}),
        {"x": ""},
        {
            "code": "too_small",
            "type": "string",
            "minimum": 1,
            "inclusive": True,
            "exact": False,
            "path": ["x"],
            "message": "String must contain at least 1 character(s)",
        },
    ),
    (
        "long text",
        member({"type": "string", "maxLength": 2}),
        {"x": "abc"},
        {
            "code": "too_big",
            "type": "string",
            "maximum": 2,
            "inclusive": True,
            "exact": False,
            "path": ["x"],
            "message": "String must contain at most 2 character(s)",
        },
    ),
    (
        "small number",
        member({"type": "number", "minimum": 0}),
        {"x": -1},
        {
            "code": "too_small",
            "type": "number",
            "minimum": 0,
            "inclusive": True,
            "exact": False,
            "path": ["x"],
            "message": "Number must be greater than or equal to 0",
        },
    ),
    (
        "not above",
        member({"type": "integer", "minimum": 0, "exclusiveMinimum": True}),
        {"x": 0},
        {
            "code": "too_small",
            "type": "number",
            "minimum": 0,
            "inclusive": False,
            "exact": False,
            "path": ["x"],
            "message": "Number must be greater than 0",
        },
    ),
    (
        "big number",
        member({"type": "number", "maximum": 2}),
        {"x": 2.5},
        {
            "code": "too_big",
            "type": "number",
            "maximum": 2,
            "inclusive": True,
            "exact": False,
            "path": ["x"],
            "message": "Number must be less than or equal to 2",
        },
    ),
    (
        "not below",
        member({"type": "number", "maximum": 2, "exclusiveMaximum": True}),
        {"x": 2},
        {
            "code": "too_big",
            "type": "number",
            "maximum": 2,
            "inclusive": False,
            "exact": False,
            "path": ["x"],
            "message": "Number must be less than 2",
        },
    ),
    (
        "short array",
        member({"type": "array", "minItems": 1}),
        {"x": []},
        {
            "code": "too_small",
            "type": "array",
            "minimum": 1,
            "inclusive": True,
            "exact": False,
            "path": ["x"],
            "message": "Array must contain at least 1 element(s)",
        },
    ),
    (
        "long array",
        member({"type": "array", "maxItems": 1}),
        {"x": [1, 2]},
        {
            "code": "too_big",
            "type": "array",
            "maximum": 1,
            "inclusive": True,
            "exact": False,
            "path": ["x"],
            "message": "Array must contain at most 1 element(s)",
        },
    ),
    (
        "url",
        member({"type": "string", "format": "uri"}),
        {"x": "nope"},
        {"code": "invalid_string", "validation": "url", "path": ["x"], "message": "Invalid url"},
    ),
    (
        "date and time",
        member({"type": "string", "format": "date-time"}),
        {"x": "soon"},
        {
            "code": "invalid_string",
            "validation": "datetime",
            "path": ["x"],
            "message": "Invalid datetime",
        },
    ),
    (
        "pattern",
        member({"type": "string", "pattern": "^\\d+$"}),
        {"x": "1\n"},
        {"code": "invalid_string", "validation": "regex", "path": ["x"], "message": "Invalid"},
    ),
]


@pytest.mark.parametrize(
    ("schema", "value", "issue"),
    [row[1:] for row in VOCABULARY],
    ids=[row[0] for row in VOCABULARY],
)
def test_the_vocabulary(schema: dict[str, Any], value: Any, issue: dict[str, Any]) -> None:
    """One row per situation: the code, its keys, the path and the exact sentence."""
    assert issues(schema, value) == [issue]


def test_every_violation_is_reported_in_the_order_of_the_body() -> None:
    """Members as they stand, then what is missing, then what is unknown."""
    body = {"top_p": 2, "thinking": 1, "stop": [], "temperature": "hot", "model": "m"}
    found = [(each["code"], each["path"]) for each in issues_of(CHAT, body)]
    assert found == [
        ("too_big", ["top_p"]),
        ("too_small", ["stop"]),
        ("invalid_type", ["temperature"]),
        ("invalid_type", ["messages"]),
        ("unrecognized_keys", []),
    ]


def test_the_details_are_a_tree() -> None:
    """Every node has `_errors`; indexes are numbers in a path and texts in the tree."""
    found = issues_of(CHAT, {**BODY, "messages": [USER, {"role": "tool", "content": "x"}], "x": 1})
    assert found[0]["path"] == ["messages", 1, "tool_call_id"]
    assert details_of(found) == {
        "_errors": ["Unrecognized key(s) in object: 'x'"],
        "messages": {
            "_errors": [],
            "1": {"_errors": [], "tool_call_id": {"_errors": ["Field is required"]}},
        },
    }


def test_a_union_that_is_clear_is_told_as_its_branch() -> None:
    """The role, the type of a part or the type of the value says which branch was meant."""
    for change, path in (
        ({"messages": [{"role": "system"}]}, ["messages", 0, "content"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            ["messages", 0, "content", 0, "text"],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
                ]
            },
            ["messages", 0, "content", 0, "image_url", "url"],
        ),
        ({"response_format": {"type": "json_schema"}}, ["response_format", "json_schema"]),
        ({"tools": [{"type": "function", "function": {}}]}, ["tools", 0, "function", "name"]),
        ({"tool_choice": "any"}, ["tool_choice"]),
        ({"stop": ["a", 1]}, ["stop", 1]),
    ):
        (issue,) = issues_of(CHAT, {**BODY, **change})
        assert issue["code"] != "invalid_union"
        assert issue["path"] == path


def test_a_union_that_is_not_clear_carries_every_branch() -> None:
    """`Invalid input` with the issues of each branch, and these, not it, in the tree."""
    found = issues_of(CHAT, {**BODY, "stop": 5})
    (issue,) = found
    assert (issue["code"], issue["message"], issue["path"]) == (
        "invalid_union",
        "Invalid input",
        ["stop"],
    )
    assert [branch["name"] for branch in issue["unionErrors"]] == ["ZodError", "ZodError"]
    assert [branch["issues"][0]["message"] for branch in issue["unionErrors"]] == [
        "Expected string, received number",
        "Expected array, received number",
    ]
    assert details_of(found)["stop"]["_errors"] == [
        "Expected string, received number",
        "Expected array, received number",
    ]
    (issue,) = issues_of(CHAT, {**BODY, "messages": [{"role": "robot", "content": "x"}]})
    assert (issue["code"], issue["path"], len(issue["unionErrors"])) == (
        "invalid_union",
        ["messages", 0],
        5,
    )


def test_a_branch_that_is_ruled_out_says_by_what() -> None:
    """A wrong role is told five times as a wrong role, not as all that each role would need."""
    (issue,) = issues_of(CHAT, {**BODY, "messages": [{"role": "robot", "content": [1, 2]}]})
    assert [
        [(each["code"], each["path"]) for each in branch["issues"]]
        for branch in issue["unionErrors"]
    ] == [[("invalid_literal", ["messages", 0, "role"])]] * 5


def test_a_refusal_has_a_size() -> None:
    """Issues within unions count, so that no body is answered with a long one."""
    parts = [{"type": "riddle"}] * 20
    body = {**BODY, "messages": [{"role": "user", "content": parts}] * 100}
    found = issues_of(CHAT, body)
    assert len(json.dumps([found, details_of(found)])) < 50_000


def test_a_member_named_errors_does_not_break_the_tree() -> None:
    """A key `_errors` in the body is told at its parent."""
    found = issues_of(CHAT, {**BODY, "metadata": {"_errors": 1}})
    assert found[0]["path"] == ["metadata", "_errors"]
    assert details_of(found)["metadata"] == {"_errors": ["Expected string, received number"]}


def test_what_is_repeated_of_the_caller_is_short() -> None:
    """Rejected members of enumerations and unknown keys are cut to 200 characters."""
    long = "k" * 100_000
    body = {**BODY, long: 1, "verbosity": long, "metadata": {long: 1}, "messages": [{"role": long}]}
    assert len(json.dumps(issues_of(CHAT, body))) < 8_000


def test_the_number_of_issues_is_bounded() -> None:
    """A body with a thousand violations is answered with the first hundred."""
    found = issues_of(CHAT, {**BODY, "stop_token_ids": ["x"] * 1000})
    assert len(found) == zod.ISSUES_MAX
    assert found[-1]["path"] == ["stop_token_ids", 99]


def test_a_body_too_large_to_walk_still_names_the_place() -> None:
    """Past the bound of work the compiled validator says where, and the issue is plain."""
    count = zod.STEPS_MAX
    found = issues_of(CHAT, {**BODY, "stop_token_ids": [1] * count + ["x"]})
    assert found == [
        {"code": "custom", "path": ["stop_token_ids", count], "message": "Invalid input"}
    ]


def test_a_refusal_is_the_validation_body() -> None:
    """`require_valid` raises INVALID_REQUEST with both members; a valid body passes."""
    require_valid(CHAT, BODY)
    with pytest.raises(ApiError) as caught:
        require_valid(CHAT, {"model": "m"})
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.details == {"_errors": [], "messages": {"_errors": ["Field is required"]}}
    assert caught.value.unsupported_feature is False
    assert refusal([], unsupported_feature=True).unsupported_feature is True


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
WORDS = st.sampled_from(
    [
        "user",
        "assistant",
        "tool",
        "system",
        "text",
        "image_url",
        "file",
        "function",
        "json_schema",
        "auto",
        "on",
    ]
)
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "type",
        "text",
        "url",
        "image_url",
        "function",
        "name",
        "json_schema",
        "tool_calls",
        "id",
        "effort",
    ]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)
MEMBERS = st.sampled_from(sorted(CHAT.document["properties"]))


@given(st.dictionaries(MEMBERS | st.text(max_size=3), VALUES, max_size=4), st.booleans())
def test_the_explainer_agrees_with_the_compiled_schema(body: dict[str, Any], whole: bool) -> None:
    """A body is valid exactly if the walk finds no fault, and each fault has a path within reach."""
    if whole:
        body = {**BODY, **body}
    walk = zod._Walk(zod.ISSUES_MAX, zod._Steps())
    walk.visit(CHAT.document, body, ())
    assert CHAT.is_valid(body) is (not walk.issues)
    details = details_of(walk.issues)
    json.dumps(walk.issues)
    assert set(details) <= {"_errors"} | set(body) | {"messages", "model"}


@given(st.data())
def test_every_mutation_is_reported_where_it_is(data: st.DataObject) -> None:
    """Replacing a member by what its schema refuses yields an issue at or below its path."""
    name = data.draw(MEMBERS)
    value = data.draw(VALUES)
    body = {**BODY, name: value}
    if CHAT.is_valid(body):
        return
    found = issues_of(CHAT, body)
    assert found
    assert all(issue["path"][:1] == [name] for issue in found)
