"""Bugs that a gateway could have, put into this one: the oracles must see each of them.

A bug is a context manager that replaces some code of the product. Each stands for a mistake that
gateways of this kind have really made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from traghetto.engines.failures import EngineFailure
from traghetto.engines.pool import ModelPool
from traghetto.engines.stream import ChatStream
from traghetto.ledger.book import Book, Recovery
from traghetto.ledger.hold import Hold
from traghetto.limits.concurrency import Gate
from traghetto.limits.rates import Admission
from traghetto.pipeline import run
from traghetto.pipeline.relay import Relay
from traghetto.pipeline.stages import execute
from traghetto.pipeline.stages.execute import _Delivery
from traghetto.pipeline.stages.settle import Settlement

Bug = Callable[[], AbstractContextManager[Any]]


def leak_when_cancelled_during_reserve() -> AbstractContextManager[Any]:
    """The hold is made durable before anything is there to end it."""
    good = run.execute

    async def execute_after_durability(execution: Any, settlement: Settlement) -> None:
        if settlement.hold is not None:
            with execution.exchange.watch_disconnect():
                await asyncio.shield(settlement.hold.durable())
        await good(execution, settlement)

    return mock.patch.object(run, "execute", execute_after_durability)


@contextlib.contextmanager
def check_then_act() -> Iterator[None]:
    """Others run between the check of funds and the hold, which trusts the check."""
    checked: dict[Any, Any] = {}
    good_check, good_admit = Book.check_funds, run.admit

    def check_funds(book: Book, account_id: str, key_id: str, limits: Any) -> None:
        good_check(book, account_id, key_id, limits)
        checked[asyncio.current_task()] = book.spendable(account_id, key_id, limits)

    def reserve(book: Book, *, upper_bound_nano_usd: int, **request: Any) -> Hold:
        spendable = checked.pop(asyncio.current_task())
        return book._take(spendable, bound=upper_bound_nano_usd, **request)

    @contextlib.asynccontextmanager
    async def admit(*arguments: Any) -> AsyncIterator[Any]:
        async with good_admit(*arguments) as admission:
            await asyncio.sleep(0)
            yield admission

    with (
        mock.patch.object(Book, "check_funds", check_funds),
        mock.patch.object(Book, "reserve", reserve),
        mock.patch.object(run, "admit", admit),
    ):
        yield


@contextlib.contextmanager
def settle_twice() -> Iterator[None]:
    """Nobody remembers that a hold has ended: who completes and who leaves both settle it."""
    good = Book._end

    def end(book: Book, hold: Hold) -> None:
        if not hold.ended:
            good(book, hold)

    forgetful = property(lambda _: False, lambda _, __: None)
    with (
        mock.patch.object(Book, "_end", end),
        mock.patch.object(Settlement, "ended", forgetful, create=True),
    ):
        yield


def leave_for_free() -> AbstractContextManager[Any]:
    """A client that hangs up before the end pays nothing."""
    return mock.patch.object(Settlement, "client_left", lambda settlement, *_: settlement.void())


def answer_before_durable() -> AbstractContextManager[Any]:
    """Nobody waits for the disk."""

    async def at_once(_: Any) -> None:
        return

    return mock.patch.object(execute, "_durable", at_once)


def finish_before_the_backend_does() -> AbstractContextManager[Any]:
    """A finish reason is relayed as it comes, although the stream may still break."""
    good = Relay.feed

    def feed(relay: Relay, payloads: list[bytes]) -> bytes:
        before = set(relay._finished)
        frames = good(relay, payloads)
        for index in relay._finished.keys() - before:
            choice = {"index": index, "delta": {}, "finish_reason": relay._finished[index]}
            frames += relay._frame([choice])
        return frames

    return mock.patch.object(Relay, "feed", feed)


def forget_to_void() -> AbstractContextManager[Any]:
    """A request that fails leaves its hold behind."""
    return mock.patch.object(Settlement, "void", return_value=None)


@contextlib.contextmanager
def retry_after_the_first_byte() -> Iterator[None]:
    """A stream that breaks is opened again, and the client gets two beginnings."""
    good = ModelPool.open_stream

    class Reopened:
        """A stream that is not allowed to break."""

        def __init__(self, pool: ModelPool, stream: ChatStream, arguments: Any) -> None:
            self._pool, self._stream, self._arguments = pool, stream, arguments

        def __aiter__(self) -> Reopened:
            return self

        async def __anext__(self) -> list[bytes]:
            try:
                return await anext(self._stream)
            except EngineFailure:
                await self._stream.aclose()
                self._stream = await good(self._pool, *self._arguments)
                return await anext(self._stream)

        def fail(self, failure: EngineFailure) -> None:
            self._stream.fail(failure)

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def open_stream(pool: ModelPool, *arguments: Any) -> Any:
        return Reopened(pool, await good(pool, *arguments), arguments)

    with mock.patch.object(ModelPool, "open_stream", open_stream):
        yield


def let_everybody_in() -> AbstractContextManager[Any]:
    """The gate counts, but refuses nobody."""

    def try_enter(gate: Gate) -> bool:
        if gate._concurrency_max is not None:
            gate._take_slot()
        return True

    return mock.patch.object(Gate, "try_enter", try_enter)


def let_the_backend_work_on() -> AbstractContextManager[Any]:
    """A stream is dropped, and nobody tells the backend."""

    async def aclose(stream: ChatStream) -> None:
        stream._disarm()
        stream._attempt.abandoned()
        kept.append(stream)

    kept: list[ChatStream] = []
    return mock.patch.object(ChatStream, "aclose", aclose)


def extend_without_funds() -> AbstractContextManager[Any]:
    """A hold that grows asks nobody."""
    return mock.patch.object(Book, "_spare_beside", return_value=10**15)


def forget_holds_of_a_crash() -> AbstractContextManager[Any]:
    """The holds of a dead process stay for ever."""
    return mock.patch.object(Book, "recover", return_value=Recovery(0, None))


def count_before_delivery() -> AbstractContextManager[Any]:
    """Output counts as delivered when it is about to be sent."""
    good = _Delivery._send

    async def send(delivery: _Delivery, frames: bytes, **options: Any) -> None:
        delivery.delivered_output = delivery._relay.output_tokens
        await good(delivery, frames, **options)

    return mock.patch.object(_Delivery, "_send", send)


def charge_what_broke() -> AbstractContextManager[Any]:
    """A stream that the backend broke is charged like one that the client left."""
    return mock.patch.object(Settlement, "broken", Settlement.client_left)


def keep_the_rate_of_the_refused() -> AbstractContextManager[Any]:
    """A request that is refused after its admission keeps the tokens it was admitted with."""
    return mock.patch.object(Admission, "release", return_value=None)


BUGS: tuple[Bug, ...] = (
    leak_when_cancelled_during_reserve,
    check_then_act,
    settle_twice,
    leave_for_free,
    answer_before_durable,
    finish_before_the_backend_does,
    forget_to_void,
    retry_after_the_first_byte,
    let_everybody_in,
    let_the_backend_work_on,
    extend_without_funds,
    forget_holds_of_a_crash,
    count_before_delivery,
    charge_what_broke,
    keep_the_rate_of_the_refused,
)
