"""The adapter to any server that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, ...

One attempt per call, on one server, for one of its models. Requests are built from the validated
call and nothing else; answers are decoded and classified, not trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Literal

import msgspec
from aiohttp import ClientResponse
from yarl import URL

from traghetto.clock import Clock
from traghetto.engines.chat_pictures import encoded_pieces
from traghetto.engines.classify import error_inside, failure_of_event
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.openai.answers import json_object, refusal
from traghetto.engines.openai.bodies import BodyInPieces
from traghetto.engines.openai.client import HttpClient, media_type, read_piece
from traghetto.engines.openai.on_server import OnOpenAIServer
from traghetto.engines.protocols import ChatCall
from traghetto.wire.completion import decode_answer
from traghetto.wire.sse import DONE, SseDecoder, SseNotUtf8, SseTooLarge

Tokenizer = Literal["vllm", "llama.cpp"]
"""Which server's way of counting tokens a backend offers."""

DRAIN_SECONDS_MAX: Final = 0.05
"""How long a finished stream may take to end its body, so that its connection can be kept. The
client waits for it too, so it is short: a new connection costs less than that."""
STREAM_READ_BYTES_MAX: Final = 32 * 1024
"""Most of a stream that is handed on at once. It counts as delivered when the client's connection
has taken it, so a burst must not go there in one piece that no socket accepts."""

_encode = msgspec.json.Encoder().encode


class OpenAIBackend(OnOpenAIServer):
    """One model of one OpenAI-compatible server; a `ChatBackend`."""

    def __init__(
        self,
        name: str,
        client: HttpClient,
        model: str,
        *,
        clock: Clock,
        tokenize: Tokenizer | None = None,
    ) -> None:
        """`model` is the server's name for it; backends of one server share `client`."""
        super().__init__(name, client, model, clock=clock)
        self._tokenize = tokenize
        self._chat_url = client.api / "chat" / "completions"

    async def complete(self, call: ChatCall) -> dict[str, Any]:
        body = _chat_body(call, {"model": self._model, "stream": False})
        async with self._client.request("POST", self._chat_url, body) as response:
            return await json_object(response, self._clock)

    async def stream(self, call: ChatCall) -> AsyncGenerator[list[bytes], None]:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        body = _chat_body(call, {"model": self._model, **options})
        async with self._client.request("POST", self._chat_url, body) as response:
            if response.status != 200:
                raise await refusal(response, self._clock)
            if media_type(response.headers) != "text/event-stream":
                # A whole answer in place of a stream is at best an error in a 200.
                await json_object(response, self._clock)
                raise EngineFailure(FailureKind.BROKEN, "the answer is not an event stream")
            events = _events(response)
            try:
                async for payloads in events:
                    yield payloads
            finally:
                await events.aclose()

    async def count_prompt_tokens(self, call: ChatCall) -> int | None:
        """The exact count, or None without `tokenize` or for prompts with images.

        Servers that count know only the text: what an image costs shows when it is encoded.
        """
        if self._tokenize is None or call.has_pictures:
            return None
        prompt = {name: call.body[name] for name in _PROMPT_MEMBERS if name in call.body}
        if self._tokenize == "vllm":
            request = {**prompt, "model": self._model, "add_generation_prompt": True}
            answer = await self._post(self._client.root / "tokenize", request)
            count = answer.get("count")
        else:
            templated = await self._post(self._client.root / "apply-template", prompt)
            text = {"content": templated.get("prompt"), "add_special": True, "parse_special": True}
            answer = await self._post(self._client.root / "tokenize", text)
            tokens = answer.get("tokens")
            count = len(tokens) if isinstance(tokens, list) else None
        return count if type(count) is int and count >= 0 else None

    async def _post(self, url: URL, body: dict[str, Any]) -> dict[str, Any]:
        async with self._client.request("POST", url, _encode(body)) as response:
            return await json_object(response, self._clock)


def _chat_body(call: ChatCall, members: dict[str, Any]) -> bytes | BodyInPieces:
    """The body of `call` with `members`, as a server of OpenAI's API takes it."""
    body = {**call.body, **members}
    return BodyInPieces(encoded_pieces(body)) if call.has_pictures else _encode(body)


_PROMPT_MEMBERS: Final[tuple[str, ...]] = ("messages", "tools", "chat_template_kwargs")
"""What shapes the prompt before it is tokenised."""


async def _events(response: ClientResponse) -> AsyncGenerator[list[bytes], None]:
    """The payloads of a stream, read by read; raises EngineFailure where it goes wrong."""
    decoder = SseDecoder()
    feed = decoder.feed
    is_done = False
    try:
        while chunk := await read_piece(response):
            for piece in _pieces(chunk):
                try:
                    payloads = feed(piece)
                except SseTooLarge as error:
                    raise EngineFailure(FailureKind.UNUSABLE, "an event is too large") from error
                except SseNotUtf8 as error:
                    raise EngineFailure(FailureKind.BROKEN, "the stream is not UTF-8") from error
                if payloads:
                    is_done = is_done or payloads[-1] == DONE
                    yield payloads
                if decoder.error is not None:
                    raise _failure_of_error_event(decoder.error)
        if decoder.finish() and not is_done:
            raise EngineFailure(FailureKind.BROKEN, "the stream ended inside an event")
    finally:
        if is_done and not response.content.at_eof():
            await _drain(response)


def _pieces(chunk: bytes) -> Sequence[bytes]:
    """`chunk` in pieces of at most STREAM_READ_BYTES_MAX; nearly always it is one."""
    if len(chunk) <= STREAM_READ_BYTES_MAX:
        return (chunk,)
    starts = range(0, len(chunk), STREAM_READ_BYTES_MAX)
    return [chunk[start : start + STREAM_READ_BYTES_MAX] for start in starts]


def _failure_of_error_event(payload: bytes) -> EngineFailure:
    try:
        event = decode_answer(payload)
    except ValueError:
        event = None
    return error_inside(event) or failure_of_event(event)


async def _drain(response: ClientResponse) -> None:
    """Read the end of a finished stream, which nobody waits for, so that its connection lives."""
    try:
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            while await response.content.readany():
                pass
    except (TimeoutError, OSError):
        response.close()
