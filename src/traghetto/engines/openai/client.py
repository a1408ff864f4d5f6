"""The seam to the HTTP client library: one pool of connections to one origin.

Everything that a hostile or broken server can do to a connection is turned into an
`EngineFailure` here, and every size is bounded: header block, body, and (by the SSE decoder) line
and event. Deadlines are the pool's, except for connecting.

Invariants: redirects are not followed; compressed answers are refused, not unpacked; the API key
is sent to the configured origin only and appears in no log, repr or exception.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.http_exceptions import LineTooLong
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from traghetto import __version__
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.openai.bodies import BodyInPieces

CONNECT_SECONDS_MAX: Final = 2.0
HEADER_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 100
JSON_BODY_BYTES_MAX: Final = 32 << 20
ERROR_BODY_BYTES_MAX: Final = 64 * 1024
IDLE_SECONDS_MAX: Final = 15.0
"""Kept-alive connections are dropped before usual servers (Node: 5 s, uvicorn: 5 s) are long gone;
one that a server closed first is noticed and retried."""
_READ_BYTES: Final = 256 * 1024
_WHOLE_BODY_BYTES_MAX: Final = 1 << 20
"""Larger bodies are written in pieces, so that the event loop is not held."""
_AUTOMATIC_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

_is_new_connection: ContextVar[bool] = ContextVar("_is_new_connection", default=False)


class HttpClient:
    """Requests to one origin, with connections kept alive between them."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        scheme: Literal["Bearer", "Basic"] = "Bearer",
    ) -> None:
        """`base_url` is what OpenAI clients call so: with or without its final `/v1`.

        With the scheme `Basic` the key is `user:password`. Raises ValueError for a URL that is not
        plain http or https, or a key that is not ASCII.
        """
        url = URL(base_url)
        if url.scheme not in ("http", "https") or not url.host or url.user or url.query_string:
            raise ValueError("an upstream URL is http(s)://host[:port][/path] and nothing else")
        path = url.path.rstrip("/")
        self.api: Final = url.with_path(path or "/v1")
        """Where `/chat/completions` is."""
        self.root: Final = url.with_path(path.removesuffix("/v1") or "/")
        """Where servers keep what is not OpenAI's: `/tokenize`, `/props`."""
        self._headers = CIMultiDict(
            {
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": f"traghetto/{__version__}",
            }
        )
        if api_key is not None:
            if not api_key.isascii() or not api_key.isprintable():
                raise ValueError("an upstream's API key is printable ASCII")
            if scheme == "Basic":
                api_key = base64.b64encode(api_key.encode()).decode()
            self._headers["Authorization"] = f"{scheme} {api_key}"
        self._session: aiohttp.ClientSession | None = None
        self._users = 0

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        body: bytes | BodyInPieces | None = None,
        *,
        content_type: str | None = None,
        answer_bytes_max: int = JSON_BODY_BYTES_MAX,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The answer to one request, its body not yet read; leaving early drops the connection.

        `content_type` is that of `body`, JSON if not given. Raises EngineFailure: UNREACHABLE,
        BROKEN (with `stale_connection` where a kept-alive connection had died before the answer
        began), UNUSABLE.
        """
        session = self._session or self._open()
        headers = {} if content_type is None else {"Content-Type": content_type}
        data: Any = body
        if isinstance(body, BodyInPieces):
            headers["Content-Length"] = str(body.size)  # or it would go in chunks
        elif body is not None and len(body) > _WHOLE_BODY_BYTES_MAX:
            data = io.BytesIO(body)
        _is_new_connection.set(False)
        try:
            response = await session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _failure_before_answer(error, is_new=_is_new_connection.get()) from error
        try:
            _check_head(response, answer_bytes_max)
            yield response
        except (aiohttp.ClientError, OSError) as error:
            raise EngineFailure(FailureKind.BROKEN, "the answer was cut off") from error
        finally:
            # After a body read to its end this does nothing: the connection is back in the pool.
            response.close()

    def join(self) -> None:
        """One more user: the backends of one server share a client."""
        self._users += 1

    async def leave(self) -> None:
        """One user less; the last one closes every connection."""
        self._users -= 1
        if self._users <= 0 and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        # Not in the constructor: a session belongs to a running event loop.
        if self._users <= 0:
            raise EngineFailure(FailureKind.UNREACHABLE, "the client is closed")
        self._session = aiohttp.ClientSession(
            connector=_Connector(limit=0, keepalive_timeout=IDLE_SECONDS_MAX),
            headers=self._headers,
            skip_auto_headers=_AUTOMATIC_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BYTES,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        return self._session


async def read_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body; raises EngineFailure UNUSABLE if it is larger than `bytes_max`.

    Errors of the connection pass through as the library raises them; `HttpClient.request`
    translates them.
    """
    read = response.content.readany
    first = await read()
    if not first or len(first) == response.content_length:
        return first
    pieces = [first]
    size = len(first)
    while piece := await read():
        size += len(piece)
        if size > bytes_max:
            raise EngineFailure(FailureKind.UNUSABLE, "the body of the answer is too large")
        pieces.append(piece)
    return b"".join(pieces)


async def read_piece(response: aiohttp.ClientResponse) -> bytes:
    """What has come of a body, empty at its end; what came before a break comes before the break.

    Errors of the connection pass through as the library raises them.
    """
    try:
        return await response.content.readany()
    except (aiohttp.ClientError, OSError):
        # The library tells of the break first, and keeps what had come in the same moment.
        if piece := response.content._read_nowait(-1):  # noqa: SLF001 - there is no public way
            return piece
        raise


async def read_prefix(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """At most `bytes_max` bytes of the body; what is lost or left over does not matter."""
    body = b""
    try:
        while len(body) < bytes_max and (piece := await response.content.readany()):
            body += piece
    except (aiohttp.ClientError, OSError):
        pass
    return body[:bytes_max]


class _ResponseHandler(ResponseHandler):
    """Also fails the body when its bytes stop being HTTP.

    The library (3.14) fails only the next answer then, and whoever reads the body of this one
    would wait for ever.
    """

    def set_exception(self, exc: BaseException, *causes: BaseException) -> None:
        body = self._payload
        super().set_exception(exc, *causes)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the body is not HTTP"))


class _Connector(aiohttp.TCPConnector):
    """Remembers, for the current task, whether its request opened a new connection."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast(
            "functools.partial[ResponseHandler]",
            functools.partial(_ResponseHandler, loop=self._loop),
        )

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        _is_new_connection.set(True)
        return await super()._create_connection(req, traces, timeout)


def _failure_before_answer(error: Exception, *, is_new: bool) -> EngineFailure:
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return EngineFailure(FailureKind.UNREACHABLE, "no connection to the backend")
        case aiohttp.ClientResponseError(__cause__=BaseException(__cause__=LineTooLong())):
            return EngineFailure(FailureKind.UNUSABLE, "the header of the answer is too large")
        case aiohttp.ClientResponseError():
            return EngineFailure(FailureKind.BROKEN, "the answer is not HTTP")
    return EngineFailure(
        FailureKind.BROKEN,
        "the connection was closed before the answer began",
        stale_connection=not is_new,
    )


def _check_head(response: aiohttp.ClientResponse, answer_bytes_max: int) -> None:
    size = 0
    for name, value in response.raw_headers:
        size += len(name) + len(value) + 4
    if size > HEADER_BYTES_MAX:
        raise EngineFailure(FailureKind.UNUSABLE, "the header of the answer is too large")
    encoding = response.headers.get("Content-Encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise EngineFailure(FailureKind.UNUSABLE, "the answer is compressed, against our wish")
    length = response.content_length
    if length is not None and length > answer_bytes_max:
        raise EngineFailure(FailureKind.UNUSABLE, "the body of the answer is too large")


def media_type(headers: Mapping[str, Any]) -> str:
    """The media type of an answer, in lower case and without parameters."""
    value: str = headers.get("Content-Type", "")
    return value.partition(";")[0].strip().lower()
