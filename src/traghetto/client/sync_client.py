"""The client for programs that wait for each answer; `async_client` is the same for `asyncio`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Any, Self

import httpx2

from traghetto.client.answers import Answer, Balance, Completion, Picture, listed_models
from traghetto.client.attempts import Fallback
from traghetto.client.calls import (
    Call,
    Image,
    Messages,
    balance_call,
    chat_call,
    edit_call,
    generate_call,
    models_call,
    multi_edit_call,
    remove_background_call,
    upscale_call,
)
from traghetto.client.classification import connection_failure, error_of
from traghetto.client.events import ChatEvent, StreamReader
from traghetto.client.exceptions import StreamTruncated, TraghettoError
from traghetto.client.options import (
    CONNECT_SECONDS_MAX,
    RETRIES_MAX,
    RETRY_BUDGET_SECONDS,
    TIMEOUT_SECONDS,
    Options,
)
from traghetto.client.retry import RetryPolicy


class Client:
    """Asks a server of the Venice API. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries_max: int = RETRIES_MAX,
        retry_budget_seconds: float = RETRY_BUDGET_SECONDS,
        fallback: Fallback = False,
        idempotency_keys: bool | None = None,
        random: Random | None = None,
    ) -> None:
        """`api_key` and `base_url` come from `TRAGHETTO_API_KEY` and `TRAGHETTO_BASE_URL` if they
        are not given. `timeout_seconds` bounds each silence of the server. `fallback` asks another
        model, once, if one is offline, too busy or unknown: that which the server recommends
        (True), or those of a mapping. `idempotency_keys` says that the server honours them; if it
        is not given, all do but venice.ai. `random` draws the waits between retries.
        """
        policy = RetryPolicy(retries_max, retry_budget_seconds)
        options = Options.of(
            api_key, base_url, timeout_seconds, policy, fallback, idempotency_keys, random
        )
        self._connection = Connection(options)
        self.images = Images(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def chat(
        self,
        model: str,
        messages: Messages,
        *,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Completion:
        """A whole answer; `members` are further members of the request, such as `max_tokens`."""
        call = chat_call(model, messages, members, key=idempotency_key, stream=False)
        return Completion.of(self._connection.perform(call))

    def stream_chat(
        self,
        model: str,
        messages: Messages,
        *,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> ChatStream:
        """An answer as it is written: `with client.stream_chat(...) as stream`, then iterate.

        Raises the exception of an error inside the stream, and `StreamTruncated` if it breaks off.
        """
        call = chat_call(model, messages, members, key=idempotency_key, stream=True)
        return ChatStream(self._connection, call)

    def models(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The models of one type (`text`, `image`, `all`, ...)."""
        return listed_models(self._connection.perform(models_call(kind)))

    def balance(self) -> Balance:
        """What the account owns; needs an admin key."""
        return Balance.of(self._connection.perform(balance_call()))

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        files: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Anything else; `path` is below the base URL. With `files`, `json` are the form's fields.

        A POST is repeated only if nothing can have been charged, or with an `idempotency_key`.
        """
        return self._connection.perform(
            Call(method.upper(), path, json, files, params or {}, headers or {}, idempotency_key)
        )


class Images:
    """What a client asks of models that make and change images."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def generate(
        self, model: str, prompt: str, *, idempotency_key: str | None = None, **members: Any
    ) -> Picture:
        """A new image; `members` are further members of the request, such as `width`."""
        call = generate_call(model, prompt, members, idempotency_key)
        return Picture.of(self._connection.perform(call))

    def edit(
        self, image: Image, prompt: str, *, idempotency_key: str | None = None, **members: Any
    ) -> Picture:
        """The image, changed as `prompt` says."""
        call = edit_call(image, prompt, members, idempotency_key)
        return Picture.of(self._connection.perform(call))

    def multi_edit(
        self,
        images: Sequence[Image],
        prompt: str,
        *,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Picture:
        """One image, made of several."""
        call = multi_edit_call(images, prompt, members, idempotency_key)
        return Picture.of(self._connection.perform(call))

    def upscale(
        self,
        image: Image,
        scale: float = 2,
        *,
        idempotency_key: str | None = None,
        **members: Any,
    ) -> Picture:
        """The image, enlarged."""
        call = upscale_call(image, scale, members, idempotency_key)
        return Picture.of(self._connection.perform(call))

    def remove_background(
        self, image: Image, *, idempotency_key: str | None = None, **members: Any
    ) -> Picture:
        """What stands in front, with transparency around it."""
        call = remove_background_call(image, members, idempotency_key)
        return Picture.of(self._connection.perform(call))


class ChatStream:
    """An answer as it is written; the request is sent when the context or the iteration begins."""

    def __init__(self, connection: Connection, call: Call) -> None:
        self._connection = connection
        self._call = call
        self._response: httpx2.Response | None = None
        self.headers: Mapping[str, str] = {}
        """Of the answer, with names in lower case, as soon as it has begun."""

    def __enter__(self) -> Self:
        self._opened()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[ChatEvent]:
        response = self._opened()
        reader = StreamReader(self.headers)
        try:
            for chunk in response.iter_bytes():
                yield from reader.events(chunk)
                if reader.done:
                    break
        except httpx2.RequestError as error:
            raise StreamTruncated(f"the connection broke: {error}") from error
        finally:
            self.close()
        reader.finish()

    def close(self) -> None:
        """Leave the stream; what was received until now is paid for."""
        if self._response is not None:
            self._response.close()

    def _opened(self) -> httpx2.Response:
        if self._response is None:
            self._response = self._connection.open(self._call)
            self.headers = dict(self._response.headers)
        return self._response


class Connection:
    """Sends calls, and sends them again where that is worth it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._http = httpx2.Client(
            timeout=httpx2.Timeout(options.timeout_seconds, connect=CONNECT_SECONDS_MAX)
        )

    def close(self) -> None:
        """Close what is open."""
        self._http.close()

    def perform(self, call: Call) -> Answer:
        """The whole answer to a call."""
        response = self.open(call)
        return Answer(response.status_code, dict(response.headers), response.content)

    def open(self, call: Call) -> httpx2.Response:
        """The answer to a call, with the retries that it takes; a stream's body is not read."""
        attempts = self._options.persistence.attempts(call)
        while True:
            try:
                return self._send(attempts.call)
            except TraghettoError as error:
                wait = attempts.wait_seconds(error)
                if wait is None:
                    raise
            time.sleep(wait)

    def _send(self, call: Call) -> httpx2.Response:
        request = self._http.build_request(**self._options.request_of(call))
        try:
            response = self._http.send(request, stream=call.streams)
            if response.is_success:
                return response
            body = response.read()
        except httpx2.RequestError as error:
            raise connection_failure(error) from error
        raise error_of(response.status_code, response.headers, body)
