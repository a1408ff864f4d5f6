"""A plain client of the gateway: what came over the wire, and what the contract says it must be.

The expected bytes are built from `spec/errors.json` and the shapes of contract A.0, not with the
product's own renderer, so that the two can disagree.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SPEC = Path(__file__).parents[2] / "spec"
DONE = b"data: [DONE]\n\n"
CHAT = "/api/v1/chat/completions"
UPSTREAM_REJECTED = (
    "Invalid request parameters. For assistance, please reach out to support@venice.ai and "
    "reference request ID: {request_id}"
)


@dataclass(frozen=True)
class Reply:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def frames(self) -> list[bytes]:
        """The events of a stream, comments left out, each with its blank line."""
        assert self.body.endswith(b"\n\n"), "a stream ends with a whole event"
        frames = [frame + b"\n\n" for frame in self.body.split(b"\n\n")[:-1]]
        return [frame for frame in frames if not frame.startswith(b":")]

    @property
    def chunks(self) -> list[Any]:
        """The decoded events of a stream, without its `[DONE]`."""
        assert self.frames[-1] == DONE
        return [json.loads(frame.removeprefix(b"data: ")) for frame in self.frames[:-1]]


@dataclass(frozen=True)
class Published:
    """A row of `spec/errors.json`."""

    code: str
    status: int
    message: str
    log_level: str | None

    def body(self, request_id: str) -> bytes:
        """The exact bytes of its answer on the chat endpoint."""
        if self.code == "TOO_MANY_TOKENS":
            member = {
                "message": self.message,
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
            return json.dumps({"error": member}, ensure_ascii=False).encode()
        body: dict[str, str] = {"error": self.message}
        if self.code == "PAYLOAD_TOO_LARGE":
            body = {"code": self.code, "error": self.message}
        elif self.code == "INVALID_REQUEST":
            body = {
                "error": UPSTREAM_REJECTED.format(request_id=request_id),
                "request_id": request_id,
            }
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()

    def stream_frame(self, retry_after: int = 30) -> bytes:
        """The exact error event of a stream that had begun (contract B.1.7)."""
        kind, code = {
            "MODEL_OVERLOADED": ("server_error", "model_overloaded"),
            "CONTENT_POLICY_VIOLATION": ("content_filter_error", "content_blocked_by_provider"),
        }.get(self.code, ("api_error", "upstream_error"))
        member: dict[str, Any] = {
            "message": self.message,
            "type": kind,
            "code": code,
            "param": None,
        }
        if self.code == "MODEL_OVERLOADED":
            member["retry_after"] = retry_after
        frame = json.dumps({"error": member}, ensure_ascii=False, separators=(",", ":"))
        return b"data: " + frame.encode() + b"\n\n"


@cache
def published() -> dict[str, Published]:
    """The rows of `spec/errors.json`, by code."""
    rows = json.loads((SPEC / "errors.json").read_text())
    return {row["code"]: Published(**row) for row in rows}


def chat_body(model: str, *, stream: bool = False, **members: Any) -> dict[str, Any]:
    """A small chat request."""
    messages = [{"role": "user", "content": "Hello there"}]
    return {"model": model, "messages": messages, "stream": stream, **members}


def raw_chat(body: dict[str, Any], key: str) -> bytes:
    """The bytes of a chat request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def send(
    address: tuple[str, int],
    body: Any,
    key: str | None = None,
    *,
    method: str = "POST",
    path: str = CHAT,
    headers: dict[str, str] | None = None,
    seconds: float = 30.0,
) -> Reply:
    """The answer to one request on a connection of its own; fails if it is cut short."""
    connection = http.client.HTTPConnection(*address, timeout=seconds)
    try:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        connection.request(method, path, content, sent | (headers or {}))
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, received, response.read())
    finally:
        connection.close()


def assert_published(reply: Reply, code: str) -> None:
    """`reply` is the error of that code to the byte, with every header that clients need."""
    row = published()[code]
    assert (reply.status, reply.body) == (row.status, row.body(reply.request_id)), reply
    assert reply.headers["x-error-code"] == code
    assert reply.headers["content-type"] == "application/json; charset=utf-8"
    assert reply.headers["cf-ray"] == reply.request_id
    assert reply.headers["x-should-retry"] in {"true", "false"}
    assert ("retry-after" in reply.headers) == (row.status in {429, 503})
