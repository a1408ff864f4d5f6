"""Errors as OpenAI objects, for a whole gateway or for one key, and never by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.client import PUBLISHED, Answer, ask, chat, chat_body
from support.configuration import PRICED_MODEL, model_toml
from support.gateway import RunningGateway, raw_exchange, running_gateway

TOML = PRICED_MODEL + "".join(
    model_toml(name, **members)
    for name, members in (
        ("overloaded", {"fault": '"overloaded"'}),
        ("broken", {"fault": '"broken"'}),
        ("gone", {"offline": "true"}),
        ("prudish", {"fault": '"content-policy"'}),
        ("small", {"context_tokens": "10"}),
        ("gated", {"feature": '"beta"'}),
        ("cut", {"fault": '"cut-after"'}),
    )
)
FAILURES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("nobody", {}, "MODEL_NOT_FOUND", "not_found_error"),
    ("overloaded", {}, "MODEL_OVERLOADED", "rate_limit_error"),
    ("broken", {}, "INFERENCE_FAILED", "api_error"),
    ("gone", {}, "MODEL_OFFLINE", "api_error"),
    ("prudish", {}, "CONTENT_POLICY_VIOLATION", "invalid_request_error"),
    ("gated", {}, "UNAUTHORIZED", "permission_error"),
)
"""Model, members, code, and the type that OpenAI clients know."""


def expected(code: str, kind: str) -> bytes:
    """The body of an error object, with a space after `:` and `,`."""
    member = {
        "message": PUBLISHED[code].message,
        "type": kind,
        "param": None,
        "code": code,
    }
    return json.dumps({"error": member}, ensure_ascii=False).encode()


@pytest.mark.parametrize("by", ["setting", "key"])
@pytest.mark.parametrize(("model", "members", "code", "kind"), FAILURES)
def test_every_error_is_an_object(
    tmp_path: Path, by: str, model: str, members: dict[str, Any], code: str, kind: str
) -> None:
    """Status and headers stay; the body is the object whose message OpenAI clients print."""
    settings = {"openai_error_objects": True} if by == "setting" else {}
    with running_gateway(tmp_path, TOML, **settings) as gateway:
        key = gateway.new_key(**({"openai_errors": True} if by == "key" else {}))
        answer = chat(gateway, key, model, **members)
        assert answer.body == expected(code, kind)
        assert answer.status == PUBLISHED[code].status
        assert answer.headers["x-error-code"] == code
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        plain = chat(gateway, gateway.new_key(), model, **members)
        if by == "key":
            assert plain.json == {"error": PUBLISHED[code].message}
        else:
            assert plain.body == answer.body


def test_a_validation_error_keeps_its_details(tmp_path: Path) -> None:
    """`details` and `issues` move into the object."""
    with running_gateway(tmp_path, TOML) as gateway:
        plain = chat(gateway, gateway.new_key(), temperature=9)
        answer = chat(gateway, gateway.new_key(openai_errors=True), temperature=9)
        error = answer.json["error"]
        assert (error["message"], error["type"], error["code"]) == (
            "Invalid request parameters",
            "invalid_request_error",
            "INVALID_REQUEST",
        )
        assert (error["details"], error["issues"]) == (plain.json["details"], plain.json["issues"])


def test_too_many_tokens_is_the_same_in_both_modes(tmp_path: Path) -> None:
    """The code that clients look for is `context_length_exceeded` everywhere."""
    with running_gateway(tmp_path, TOML) as gateway:
        plain = chat(gateway, gateway.new_key(), "small")
        answer = chat(gateway, gateway.new_key(openai_errors=True), "small")
        assert answer.body == plain.body
        assert b'"code": "context_length_exceeded"' in answer.body


def test_a_stream_error_is_the_same_in_both_modes(tmp_path: Path) -> None:
    """The frame inside a stream is an object anyway."""
    with running_gateway(tmp_path, TOML) as gateway:
        frames = [
            chat(gateway, gateway.new_key(**members), "cut", stream=True).frames[-2:]
            for members in ({}, {"openai_errors": True})
        ]
        assert frames[0] == frames[1]
        assert json.loads(frames[0][0])["error"]["code"] == "upstream_error"


def _refusals(gateway: RunningGateway, key: str) -> list[Answer]:
    """Answers given before a key was looked at."""
    return [
        ask(gateway, key, chat_body(), path="/v1/nothing"),
        ask(gateway, key, chat_body(), method="PUT"),
        ask(gateway, key, b"{"),
        ask(gateway, key, b"{}", headers={"content-type": "text/plain"}),
        ask(gateway, None, chat_body()),
        ask(gateway, "wrong", chat_body()),
    ]


def test_before_a_key_is_known_the_setting_decides(tmp_path: Path) -> None:
    """A key's own wish cannot hold before the key has been looked up."""
    with running_gateway(tmp_path, TOML) as gateway:
        for answer in _refusals(gateway, gateway.new_key(openai_errors=True)):
            assert isinstance(answer.json["error"], str)
    with running_gateway(tmp_path, TOML, openai_error_objects=True) as gateway:
        for answer in _refusals(gateway, gateway.new_key()):
            error = answer.json["error"]
            assert list(error)[:4] == ["message", "type", "param", "code"]
            assert error["code"] == answer.headers["x-error-code"]
        malformed = raw_exchange(gateway.address, b"GET / HTTP/1.1\r\n\r\n")
        assert b'{"error": {"message": "Invalid request parameters", "type": ' in malformed


def test_the_code_header_can_be_switched_off(tmp_path: Path) -> None:
    """`error_code_header = false` leaves only what the published service sends."""
    with running_gateway(tmp_path, TOML, error_code_header=False) as gateway:
        answer = chat(gateway, gateway.new_key(), "nobody")
        assert answer.body == b'{"error":"Specified model not found"}'
        assert "x-error-code" not in answer.headers
