"""Forms of neighbouring services become the contract's before validation."""

from typing import Any

import pytest

from traghetto.wire.chat import parse_chat, rewrite

USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
URL = "https://example.com/a.png"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
NESTED = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

MEMBERS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("input", {"input": [USER]}, {"messages": [USER]}),
    ("input text", {"input": "hi"}, {"messages": [USER]}),
    ("output tokens", {"max_output_tokens": 5}, {"max_tokens": 5}),
    ("cache key", {"promptCacheKey": "k"}, {"prompt_cache_key": "k"}),
    ("search on", {"web_search": True}, {"venice_parameters": {"enable_web_search": "on"}}),
    ("search off", {"web_search": False}, {"venice_parameters": {"enable_web_search": "off"}}),
    (
        "search twice",
        {"web_search": True, "venice_parameters": {"enable_web_search": "auto"}},
        {"venice_parameters": {"enable_web_search": "auto"}},
    ),
    ("no limit", {"max_tokens": 0}, {}),
    ("negative limit", {"max_tokens": -1, "max_completion_tokens": -1.0}, {}),
    (
        "flat tool",
        {
            "tools": [
                {
                    "type": "function",
                    "name": "f",
                    "parameters": {"type": "object"},
                    "description": None,
                }
            ]
        },
        {"tools": [NESTED]},
    ),
    (
        "schema tool",
        {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        {"tools": [NESTED]},
    ),
    ("namespace", {"tools": [{"type": "namespace", "name": "x"}, NESTED]}, {"tools": [NESTED]}),
    ("choice", {"tool_choice": {"type": "auto"}}, {"tool_choice": "auto"}),
    (
        "any",
        {"tool_choice": {"type": "any"}, "tools": [NESTED]},
        {"tool_choice": "required", "tools": [NESTED]},
    ),
    (
        "named choice",
        {"tool_choice": {"type": "tool", "name": "f"}, "tools": [NESTED]},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [NESTED]},
    ),
]


@pytest.mark.parametrize(
    ("sent", "meant"), [row[1:] for row in MEMBERS], ids=[row[0] for row in MEMBERS]
)
def test_members_are_rewritten(sent: dict[str, Any], meant: dict[str, Any]) -> None:
    """One row per form of a top-level member; the result is valid."""
    body = {"model": "m", **({} if "input" in sent else {"messages": [USER]}), **sent}
    expected = {"model": "m", "messages": [USER], **meant}
    assert rewrite(body) == expected
    parse_chat(rewrite(body), {})


MESSAGES: list[tuple[str, list[Any], list[Any]]] = [
    (
        "tool use",
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "a"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
                ],
            }
        ],
        [{"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [CALL]}],
    ),
    (
        "tool use alone",
        [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}],
            }
        ],
        [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
    ),
    (
        "tool result",
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "b"},
                    {"type": "tool_result", "tool_use_id": "1", "content": "ok"},
                ],
            }
        ],
        [
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
        ],
    ),
    (
        "tool results alone",
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "1",
                        "content": [{"type": "text", "text": "ok"}],
                    }
                ],
            }
        ],
        [{"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "ok"}]}],
    ),
    (
        "image",
        [{"role": "user", "content": [{"type": "image", "image": URL}]}],
        [{"role": "user", "content": [IMAGE]}],
    ),
    (
        "image by source",
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
                    }
                ],
            }
        ],
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
                ],
            }
        ],
    ),
    (
        "image by url",
        [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": URL}}]}],
        [{"role": "user", "content": [IMAGE]}],
    ),
    (
        "input text",
        [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    ),
    (
        "silent assistants",
        [USER, {"role": "assistant", "content": ""}, {"role": "assistant", "tool_calls": []}],
        [USER],
    ),
]


@pytest.mark.parametrize(
    ("sent", "meant"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES]
)
def test_messages_are_rewritten(sent: list[Any], meant: list[Any]) -> None:
    """One row per form of a message; the result is valid."""
    body = rewrite({"model": "m", "messages": sent})
    assert body == {"model": "m", "messages": meant}
    parse_chat(body, {})


def test_a_plain_body_comes_back_as_it_is() -> None:
    """Nothing is copied when nothing applies."""
    body = {"model": "m", "messages": [USER], "temperature": 1, "max_tokens": 5}
    assert rewrite(body) is body


def test_the_contract_s_own_member_wins() -> None:
    """A foreign name beside the contract's is left for validation to name."""
    body = {"model": "m", "messages": [USER], "max_tokens": 1, "max_output_tokens": 2}
    assert rewrite(body) == body
    assert "input" in rewrite({"model": "m", "messages": [USER], "input": "x"})
