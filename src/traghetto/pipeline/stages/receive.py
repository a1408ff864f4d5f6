"""The first stage of a request with a body: its size, its declared type, its bytes, its syntax.

Order (contract A.3, steps 2 to 4): a declared length above the limit, then encoding and type,
then (of a large body only) who sends it, then the length of what really arrives, then emptiness.
Invariant: a body that is refused for its
declared length or type is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.pipeline.exchange import ClientGone, Exchange
from traghetto.settings import Settings
from traghetto.wire.json import decode_object
from traghetto.wire.multipart import FormReader, form_boundary

ROOM_SECONDS_MAX: Final = 20.0
FULL_SECONDS: Final = 5
"""When to try again while other bodies take all the room; a guess at how long one does."""
ANONYMOUS_BYTES_MAX: Final = 1 << 16
"""The largest body that is read of anybody. Before a larger one credentials are looked at, earlier
than the contract has them (A.3): or who has none could fill the memory that there is for bodies."""
_JSON: Final = b"application/json"
_CHARSETS: Final = frozenset({b"utf-8", b'"utf-8"', b"utf8"})


class Share:
    """What one exchange holds of `BodiesInFlight`."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class BodiesInFlight:
    """The bytes of request bodies in memory, from their arrival to the end of their exchange.

    Above `bytes_max` no further piece is read, so that the sockets push back; nothing is refused.
    The reader that began first goes on as long as the bodies already complete leave room for it
    alone: were all of the room taken by unfinished bodies, none of them could ever finish. What a
    request reads and keeps stays below twice `bytes_max` plus one piece per connection; what is
    made for it is counted as well, so that others wait, and is bounded by the backends' answers.
    """

    def __init__(self, bytes_max: int, *, wait_seconds_max: float = ROOM_SECONDS_MAX) -> None:
        """Nobody waits for room longer than `wait_seconds_max`."""
        self._wait_seconds_max = wait_seconds_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._readers: dict[Share, None] = {}
        self._readers_bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def bytes(self) -> int:
        """What is held now."""
        return self._bytes

    def take(self, share: Share, size: int) -> None:
        """Count a piece that arrived."""
        share.bytes += size
        self._bytes += size
        if share in self._readers:
            self._readers_bytes += size

    def take_more(self, share: Share, size: int) -> bool:
        """Count what a complete body has us keep besides, such as an image that it names.

        False, and nothing counted, where there is no room: such things may take as much again as
        all bodies, and nobody waits for it, because those who have a part of it would wait too.
        """
        if self._bytes + size > 2 * self._bytes_max:
            return False
        self.take(share, size)
        return True

    async def room(self, share: Share) -> None:
        """Wait until the body of `share` may go on; raises MODEL_AT_CAPACITY if it may not in good
        time."""
        if share not in self._readers:
            self._readers[share] = None
            self._readers_bytes += share.bytes
        if self._may_go_on(share):
            return
        try:
            async with asyncio.timeout(self._wait_seconds_max):
                while not self._may_go_on(share):
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiting.append(waiter)
                    await waiter
        except TimeoutError:
            raise ApiError(
                ErrorCode.MODEL_AT_CAPACITY,
                retry_after_seconds=FULL_SECONDS,
                reason="the bodies of other requests fill the memory meant for them",
            ) from None

    def complete(self, share: Share) -> None:
        """The body has arrived; its bytes stay counted."""
        if share in self._readers:
            del self._readers[share]
            self._readers_bytes -= share.bytes
            self._wake()

    def release(self, share: Share) -> None:
        """The exchange has ended, however it did: its bytes no longer count."""
        self.complete(share)
        self._bytes -= share.bytes
        share.bytes = 0
        self._wake()

    def _may_go_on(self, share: Share) -> bool:
        return self._bytes < self._bytes_max or self._goes_first(share)

    def _goes_first(self, share: Share) -> bool:
        if next(iter(self._readers)) is not share:
            return False
        complete_bytes = self._bytes - self._readers_bytes
        # Nobody's end would make room for a body that is larger than all of it.
        return complete_bytes == 0 or complete_bytes + share.bytes < self._bytes_max

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class Received:
    """The decoded body of a request; its bytes are in flight while the context is open."""

    __slots__ = ("_check_caller", "_exchange", "_in_flight", "_settings", "_share", "_takes_forms")

    def __init__(
        self,
        settings: Settings,
        in_flight: BodiesInFlight,
        exchange: Exchange,
        check_caller: Callable[[], None],
        *,
        takes_forms: bool,
    ) -> None:
        self._settings = settings
        self._in_flight = in_flight
        self._exchange = exchange
        self._check_caller = check_caller
        self._takes_forms = takes_forms
        self._share = Share()

    async def __aenter__(self) -> dict[str, Any]:
        try:
            return await self._decoded()
        except BaseException:
            self._in_flight.release(self._share)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._in_flight.release(self._share)

    @property
    def bytes(self) -> int:
        """What the request has in memory: its body, and what it keeps besides."""
        return self._share.bytes

    def add(self, size: int) -> None:
        """Count what its answer has in memory, until the request ends."""
        self._in_flight.take(self._share, size)

    def keeps(self, size: int) -> bool:
        """Whether the request may keep `size` more bytes in memory until it ends; then they count
        as its body does."""
        return self._in_flight.take_more(self._share, size)

    async def _decoded(self) -> dict[str, Any]:
        settings, exchange = self._settings, self._exchange
        content_type = exchange.header(b"content-type") if self._takes_forms else None
        boundary = None if content_type is None else form_boundary(content_type)
        if boundary is not None:
            form = FormReader(boundary, file_bytes_max=settings.image_bytes_max)
            _check_declarations(exchange, settings.form_bytes_max, is_form=True)
            async for piece in _pieces(
                exchange,
                settings.form_bytes_max,
                self._in_flight,
                self._share,
                self._check_caller,
            ):
                form.feed(piece)
            return form.finish()
        body = await read_body(
            exchange, settings.body_bytes_max, self._in_flight, self._share, self._check_caller
        )
        return decode_object(
            body, depth_max=settings.json_depth_max, nodes_max=settings.json_nodes_max
        )


def receive_json(
    settings: Settings,
    in_flight: BodiesInFlight,
    exchange: Exchange,
    check_caller: Callable[[], None],
) -> Received:
    """A context that reads and decodes the body of `exchange`, within the limits of `settings`.

    `check_caller` raises ApiError for a caller whom nobody knows; it is asked before a body is read
    that is large enough to matter.

    Entering it raises ApiError: PAYLOAD_TOO_LARGE, INVALID_CONTENT_TYPE, INVALID_JSON for what is
    not a JSON object (nothing was sent), and `ClientGone` when the client leaves before the end.
    """
    return Received(settings, in_flight, exchange, check_caller, takes_forms=False)


def receive_json_or_form(
    settings: Settings,
    in_flight: BodiesInFlight,
    exchange: Exchange,
    check_caller: Callable[[], None],
) -> Received:
    """As `receive_json`, for an endpoint that takes forms as well; raises INVALID_FORM for others.

    The files of a form are `bytes`, its other values text (see `wire.multipart`).
    """
    return Received(settings, in_flight, exchange, check_caller, takes_forms=True)


def _anybody() -> None:
    """Every caller is known where bodies are small."""


async def read_body(
    exchange: Exchange,
    body_bytes_max: int,
    in_flight: BodiesInFlight,
    share: Share,
    check_caller: Callable[[], None] = _anybody,
) -> bytes:
    """The whole body of a JSON request, at most `body_bytes_max` bytes, not empty.

    Raises `ApiError` with PAYLOAD_TOO_LARGE, INVALID_CONTENT_TYPE or INVALID_JSON (nothing was
    sent), and `ClientGone` when the client leaves before the end of its body. Whoever calls it
    releases `share` at the end of the exchange, also after a failure.
    """
    _check_declarations(exchange, body_bytes_max)
    read = _pieces(exchange, body_bytes_max, in_flight, share, check_caller)
    pieces = [piece async for piece in read]
    if not pieces:
        raise ApiError(Adjunct.INVALID_JSON)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _pieces(
    exchange: Exchange,
    bytes_max: int,
    in_flight: BodiesInFlight,
    share: Share,
    check_caller: Callable[[], None],
) -> AsyncIterator[bytes]:
    """The body as it arrives, no empty piece; a large one of a caller who is known."""
    declared = int(exchange.header(b"content-length") or 0)
    is_known = False
    more = True
    while more:
        if not is_known and max(declared, share.bytes) > ANONYMOUS_BYTES_MAX:
            check_caller()
            is_known = True
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        if piece:
            in_flight.take(share, len(piece))
            if share.bytes > bytes_max:
                raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
            yield piece
        more = message.get("more_body", False)
        if more:
            await in_flight.room(share)
    in_flight.complete(share)


def _check_declarations(exchange: Exchange, bytes_max: int, *, is_form: bool = False) -> None:
    length = encoding = content_type = None
    for name, value in exchange.headers:
        if name == b"content-length":
            length = value
        elif name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            encoding = value
    if length is not None and int(length) > bytes_max:
        raise ApiError(ErrorCode.PAYLOAD_TOO_LARGE)
    if encoding is not None and encoding.lower() != b"identity":
        raise ApiError(ErrorCode.INVALID_CONTENT_TYPE)
    if is_form:
        return
    if content_type is None or (content_type != _JSON and not _is_json(content_type)):
        raise ApiError(ErrorCode.INVALID_CONTENT_TYPE)


def _is_json(content_type: bytes) -> bool:
    """Whether a media type is JSON in UTF-8, its only encoding."""
    media_type, *parameters = content_type.lower().split(b";")
    if media_type.strip() != _JSON:
        return False
    for parameter in parameters:
        name, _, value = parameter.strip().partition(b"=")
        if name == b"charset" and value not in _CHARSETS:
            return False
    return True
