"""The client of an HTTP classifier: one question, one bounded answer, within one deadline.

Everything that the server or the network can do wrong becomes `PolicyUnavailable` here.

Invariants: redirects are not followed and compressed answers not unpacked; the API key goes to the
configured server only; no text, image or answer is in an exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from traghetto import __version__
from traghetto.moderation.categories import AnswerInvalid, Categories
from traghetto.settings import ModerationEffect
from traghetto.wire.base64_text import base64_pieces

CALLS_MAX: Final = 32
"""Questions at the same time; further ones wait, within their deadline."""
CONNECT_SECONDS_MAX: Final = 2.0
IDLE_SECONDS_MAX: Final = 4.0
"""Kept-alive connections are dropped before usual servers (5 s) drop them."""
HEADER_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 100
ANSWER_BYTES_MAX: Final = 256 * 1024


class PolicyUnavailable(Exception):
    """The policy could not be asked, and the operator wants no work that nobody has judged.

    `reason` explains it to the operator and holds nothing of what was to be judged.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Classifier:
    """A server that speaks OpenAI's `POST /v1/moderations`."""

    def __init__(
        self,
        base_url: str,
        categories: Categories,
        *,
        api_key: str | None = None,
        model: str | None = None,
        seconds_max: float = 5.0,
    ) -> None:
        """`base_url` is what OpenAI clients call so: with or without its final `/v1`.

        Raises ValueError for a key that no header can carry.
        """
        url = URL(base_url)
        path = url.path.rstrip("/").removesuffix("/moderations") or "/v1"
        self._url: Final = url.with_path(f"{path}/moderations")
        self._categories: Final = categories
        self._model: Final = {} if model is None else {"model": model}
        self._seconds_max: Final = seconds_max
        self._headers: Final = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": f"traghetto/{__version__}",
        }
        if api_key is not None:
            if not api_key.isascii() or not api_key.isprintable():
                raise ValueError("a classifier's API key is printable ASCII")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    @property
    def origin(self) -> str:
        """The scheme, host and port of the server, as the log names it."""
        return str(self._url.origin())

    async def judge_text(self, text: str) -> Mapping[str, ModerationEffect]:
        """The categories found in `text`, with their effects. Raises PolicyUnavailable."""
        body = msgspec.json.encode({**self._model, "input": text})
        return await self._judge(body, b"", b"")

    async def judge_image(self, data: bytes, media_type: str) -> Mapping[str, ModerationEffect]:
        """The categories found in an encoded image, with their effects. Raises PolicyUnavailable.

        `media_type` is that of `data`, such as `image/png`.
        """
        url = f"data:{media_type};base64,"
        part = {"type": "image_url", "image_url": {"url": url}}
        question = msgspec.json.encode({**self._model, "input": [part]})
        end = len(b'"}}]}')
        return await self._judge(question[:-end], data, question[-end:])

    async def aclose(self) -> None:
        """Close every connection; what is asked from now on is refused."""
        self._is_closed = True
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _judge(
        self, head: bytes, image: bytes, tail: bytes
    ) -> Mapping[str, ModerationEffect]:
        try:
            async with asyncio.timeout(self._seconds_max):
                try:
                    answer = await self._ask(head, image, tail)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    # A kept-alive connection may have died. Judging has no effect, so it can be
                    # asked for again wherever the first connection broke.
                    answer = await self._ask(head, image, tail)
            return self._categories.findings(answer)
        except TimeoutError as error:
            raise PolicyUnavailable("the classifier did not answer in time") from error
        except aiohttp.ClientConnectorError as error:
            raise PolicyUnavailable("no connection to the classifier") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PolicyUnavailable("the classifier's answer broke off or is not HTTP") from error
        except AnswerInvalid as error:
            raise PolicyUnavailable("the classifier's answer is not one") from error

    async def _ask(self, head: bytes, image: bytes, tail: bytes) -> bytes:
        """The body of one answer; errors of the connection pass through as the library raises."""
        session = self._session or self._open()
        length = len(head) + 4 * -(-len(image) // 3) + len(tail)
        async with session.post(
            self._url,
            data=_pieces(head, image, tail),
            headers={"Content-Length": str(length)},
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise PolicyUnavailable(f"the classifier answered {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise PolicyUnavailable("the classifier's answer is compressed, against our wish")
            body = b""
            while piece := await response.content.readany():
                body += piece
                if len(body) > ANSWER_BYTES_MAX:
                    raise PolicyUnavailable("the classifier's answer is too large")
            return body

    def _open(self) -> aiohttp.ClientSession:
        # Not in the constructor: a session belongs to a running event loop.
        if self._is_closed:
            raise PolicyUnavailable("the policy was closed")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CALLS_MAX, keepalive_timeout=IDLE_SECONDS_MAX),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS_MAX),
            auto_decompress=False,
            trust_env=False,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            max_headers=HEADERS_MAX,
        )
        return self._session


async def _pieces(head: bytes, image: bytes, tail: bytes) -> AsyncIterator[bytes]:
    """The body of a question: an image is never in memory as Base64 in whole."""
    yield head
    async for piece in base64_pieces(image):
        yield piece
    yield tail
