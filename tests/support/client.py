"""A plain client of the gateway: what came over the wire, and what the contract says it must be.

Bodies and headers are kept as they were on the wire. The expected bytes are built from
`spec/errors.json` and the shapes of contract A.0, not with the product's own renderer, so that
the two can disagree.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from support.gateway import GatewayProcess, RunningGateway
from support.repository import ROOT
from support.upstream import DONE
from traghetto.client import error_of

CHAT = "/api/v1/chat/completions"
QUESTION = "What is a ferry?"
QUESTION_TOKENS = 12
"""What the simulator counts for `chat_body()`: 3, 4 for the message, 5 for the text."""
SECONDS_MAX = 20.0
UPSTREAM_REJECTED = (
    "Invalid request parameters. For assistance, please reach out to support@venice.ai and "
    "reference request ID: {request_id}"
)
BUDGET_USED_UP = (
    "Too many failed attempts (> 20) resulting in a non-success status code. Please wait 30s and "
    "try again."
)

Gateway = RunningGateway | GatewayProcess


@dataclass(frozen=True)
class Answer:
    """One whole answer."""

    status: int
    reason: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @classmethod
    def read(cls, response: http.client.HTTPResponse) -> Answer:
        """The rest of `response`; fails if it is cut short."""
        content = response.read()
        found = [(name.lower(), value) for name, value in response.getheaders()]
        assert len(dict(found)) == len(found), "no header comes twice"
        return cls(response.status, response.reason, dict(found), content)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def frames(self) -> list[bytes]:
        """The payloads of a stream, comments left out."""
        assert self.body.endswith(b"\n\n"), "a stream ends with a whole frame"
        frames = [f for f in self.body.split(b"\n\n")[:-1] if not f.startswith(b":")]
        assert all(frame.startswith(b"data: ") for frame in frames)
        return [frame.removeprefix(b"data: ") for frame in frames]

    @property
    def chunks(self) -> list[Any]:
        """The decoded chunks of a stream that ended with `[DONE]`, which is left out."""
        *chunks, done = self.frames
        assert done == DONE
        return [json.loads(chunk) for chunk in chunks]

    @property
    def text(self) -> str:
        """The content of the first choice, whole or streamed."""
        if self.headers["content-type"].startswith("text/event-stream"):
            return "".join(
                choice["delta"].get("content") or ""
                for chunk in self.chunks
                for choice in chunk["choices"]
                if choice["index"] == 0
            )
        content: str = self.json["choices"][0]["message"]["content"]
        return content


# --- what is expected ---------------------------------------------------------------------------


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
        """The exact payload of the error event of a stream that had begun (contract B.1.7)."""
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
        return json.dumps({"error": member}, ensure_ascii=False, separators=(",", ":")).encode()


PUBLISHED = {
    row["code"]: Published(**row) for row in json.loads((ROOT / "spec" / "errors.json").read_text())
}
"""By code."""


def assert_published(answer: Answer, code: str) -> None:
    """`answer` is the error of that code to the byte, with every header that clients need."""
    row = PUBLISHED[code]
    assert (answer.status, answer.body) == (row.status, row.body(answer.request_id)), answer
    assert answer.headers["x-error-code"] == code
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["cf-ray"] == answer.request_id
    assert answer.headers["x-should-retry"] in {"true", "false"}
    may_wait = row.status in {429, 503} and answer.headers["x-should-retry"] == "true"
    assert ("retry-after" in answer.headers) == may_wait


def assert_recognised(answer: Answer) -> None:
    """Our own client raises the exception of its code, also where the server does not name it."""
    named = answer.headers["x-error-code"]
    bare = {name: value for name, value in answer.headers.items() if name != "x-error-code"}
    for headers in (answer.headers, bare):
        error = error_of(answer.status, headers, answer.body)
        # A request that is no HTTP is answered in the words of a published code.
        known = named if "x-error-code" in headers or named != "MALFORMED_HTTP" else error.code
        assert error.code == known
        assert (type(error).published is None) == (error.code not in PUBLISHED)
        assert error.request_id == answer.request_id
        assert error.retryable is (answer.headers["x-should-retry"] == "true")
        waits = answer.headers.get("retry-after")
        assert error.retry_after == (None if waits is None else float(waits))
        assert len(error.issues) >= bool(answer.json.get("issues"))


# --- asking -------------------------------------------------------------------------------------


def chat_body(
    model: Any = "priced", *, max_tokens: int | None = 16, **members: Any
) -> dict[str, Any]:
    """A sound chat request, with no limit of its answer if `max_tokens` is None."""
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": model, **limit, "messages": messages, **members}


def ask(
    gateway: Gateway,
    key: str | None = None,
    body: Any = None,
    *,
    method: str = "POST",
    path: str = CHAT,
    headers: dict[str, str | None] | None = None,
    source: str | None = None,
) -> Answer:
    """Send one request over a connection of its own; `body` is bytes, or encoded as JSON.

    `headers` replace the usual ones (None removes one); `source` is the address to come from.
    """
    sent: dict[str, str | None] = {"content-type": "application/json"} if body is not None else {}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    sent |= headers or {}
    payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(
        *gateway.address,
        timeout=SECONDS_MAX,
        source_address=None if source is None else (source, 0),
    )
    with contextlib.closing(connection):
        connection.request(method, path, payload, {k: v for k, v in sent.items() if v is not None})
        return Answer.read(connection.getresponse())


def get(gateway: Gateway, path: str, key: str | None = None) -> Answer:
    """What is found there, with a key or as anybody."""
    return ask(gateway, key, method="GET", path=path)


def chat(gateway: Gateway, key: str | None, model: str = "priced", **members: Any) -> Answer:
    """The answer to a sound chat request with `members`."""
    return ask(gateway, key, chat_body(model, **members))


def raw_chat(body: dict[str, Any], key: str) -> bytes:
    """The bytes of a chat request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@contextlib.contextmanager
def pending_chat(gateway: Gateway, key: str, model: str, **members: Any) -> Iterator[None]:
    """A chat request has been sent, and its client waits; it leaves at the end of the context."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=SECONDS_MAX)
    with contextlib.closing(connection):
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request("POST", CHAT, json.dumps(chat_body(model, **members)), headers)
        yield
