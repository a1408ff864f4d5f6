"""A plain HTTP client for facts about bytes: what was sent, and exactly what came back.

It knows nothing of the product; bodies and headers are compared as they were on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from support.gateway import RunningGateway
from support.upstream import FaultUpstream

CHAT = "/api/v1/chat/completions"
QUESTION = "What is a ferry?"
QUESTION_TOKENS = 12
"""What the simulator counts for `chat_body()`: 3, 4 for the message, 5 for the text."""
SECONDS_MAX = 20.0


@dataclass(frozen=True)
class Answer:
    """One answer; header names in lower case."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

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
        assert done == b"[DONE]"
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


def chat_body(model: str = "priced", **members: Any) -> dict[str, Any]:
    """A sound chat request with at most 16 tokens of answer, unless `members` say otherwise."""
    sound = {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": QUESTION}]}
    return sound | members


def ask(
    gateway: RunningGateway | str,
    key: str | None = None,
    body: Any = None,
    *,
    method: str = "POST",
    path: str = CHAT,
    headers: dict[str, str] | None = None,
    source: str | None = None,
) -> Answer:
    """Send one request over a connection of its own; `body` is bytes, or encoded as JSON.

    `gateway` may be its URL. `headers` replace the usual ones (None removes one); `source` is the
    address to come from.
    """
    url = gateway if isinstance(gateway, str) else gateway.url
    sent: dict[str, str | None] = {"content-type": "application/json"} if body is not None else {}
    if key is not None:
        sent["authorization"] = f"Bearer {key}"
    sent |= headers or {}
    payload = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(
        url.removeprefix("http://"),
        timeout=SECONDS_MAX,
        source_address=None if source is None else (source, 0),
    )
    with contextlib.closing(connection):
        connection.request(method, path, payload, {k: v for k, v in sent.items() if v is not None})
        response = connection.getresponse()
        content = response.read()
        found = [(name.lower(), value) for name, value in response.getheaders()]
        assert len(dict(found)) == len(found), "no header comes twice"
        return Answer(response.status, response.reason, dict(found), content)


def chat(
    gateway: RunningGateway | str, key: str | None, model: str = "priced", **members: Any
) -> Answer:
    """A sound chat request with `members`."""
    return ask(gateway, key, chat_body(model, **members))


def wait_until(holds: Callable[[], bool]) -> None:
    """Return as soon as something that happens on another thread is so."""
    give_up_at = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < give_up_at, "it never became so"
        time.sleep(0.002)


@contextlib.contextmanager
def running_upstream() -> Iterator[FaultUpstream]:
    """A scriptable backend on an event loop of its own, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream")
    thread.start()

    def on_loop(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(SECONDS_MAX)

    try:
        upstream = FaultUpstream()
        on_loop(upstream.__aenter__())
        try:
            yield upstream
        finally:
            on_loop(upstream.__aexit__())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def upstream_toml(upstream: FaultUpstream, *, name: str = "behind", **members: str) -> str:
    """The `[[upstreams]]` table for `upstream`; `members` are further lines."""
    lines = "".join(f"{key} = {value}\n" for key, value in members.items())
    return f'\n[[upstreams]]\nname = "{name}"\nurl = "{upstream.url}"\n{lines}'


def model_toml(model_id: str, **members: str) -> str:
    """A `[[models]]` table: a priced simulator, unless `members` (TOML values) say otherwise."""
    table = {
        "engine": '"simulator"',
        "context_tokens": "4096",
        "pricing": '{ input = "1", output = "2" }',
    }
    if "upstreams" in members:
        del table["engine"]
    table |= members
    lines = "".join(f"{key} = {value}\n" for key, value in table.items() if value)
    return f'\n[[models]]\nid = "{model_id}"\n{lines}'
