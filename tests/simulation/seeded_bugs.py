"""Bugs that a gateway could have, put into this one: the oracles must see each of them.

A bug is a context manager that replaces some code of the product. Each stands for a mistake that
gateways of this kind have really made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import msgspec

from traghetto.engines.failures import EngineFailure
from traghetto.engines.pool import ModelPool
from traghetto.engines.stream import ChatStream
from traghetto.idempotency import answers as idempotency
from traghetto.idempotency.answers import Answers, Claim, KeptAnswer
from traghetto.idempotency.seal import Seal, seal_of
from traghetto.ledger.book import Basis, Book, Recovery, Usage
from traghetto.ledger.funds import KeyTallies
from traghetto.ledger.hold import Hold
from traghetto.ledger.holdings import AccountFunds
from traghetto.limits.concurrency import Gate
from traghetto.limits.rates import Admission
from traghetto.money import Currency, SpendLimits
from traghetto.pipeline import durable as durability
from traghetto.pipeline import run
from traghetto.pipeline.relay import DONE_FRAME, Relay
from traghetto.pipeline.stages import claim as claim_stage
from traghetto.pipeline.stages import execute
from traghetto.pipeline.stages.execute import _Delivery
from traghetto.pipeline.stages.settle import Settlement
from traghetto.storage.facts import AnswerKept, AnswersExpired, Fact, HoldClosed
from traghetto.storage.memory import MemoryStore

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

    def check_funds(book: Book, account_id: str, key_id: str, limits: Any, **bounds: int) -> None:
        good_check(book, account_id, key_id, limits, **bounds)
        checked[asyncio.current_task()] = book.spendable(account_id, key_id, limits)

    def reserve(book: Book, *, upper_bound_nano_usd: int, **request: Any) -> Hold:
        request.pop("floor_nano_usd", None)
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


@contextlib.contextmanager
def answer_before_durable() -> Iterator[None]:
    """Nobody waits for the disk."""

    async def at_once(_: Any) -> None:
        return

    with (
        mock.patch.object(execute, "durable", at_once),
        mock.patch.object(durability, "durable", at_once),
    ):
        yield


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


def keep_the_answer_after_its_charge() -> AbstractContextManager[Any]:
    """The answer is written once its charge is, in a commit of its own."""
    good = Claim.keep

    def keep(claim: Claim, answer: KeptAnswer | None) -> Iterable[Fact]:
        facts = tuple(good(claim, answer))
        store = claim._answers._store
        asyncio.get_running_loop().call_soon(store.submit, facts)
        return (HoldClosed("of nobody"),)  # the charge is still waited for

    return mock.patch.object(Claim, "keep", keep)


def free_the_key_before_the_disk_has_the_answer() -> AbstractContextManager[Any]:
    """Who waits goes on as soon as an answer is decided, and does not find it."""
    good = Claim.keep

    def keep(claim: Claim, answer: KeptAnswer | None) -> Iterable[Fact]:
        claim._answers.end(claim)
        return good(claim, answer)

    return _with_lenient_ends(mock.patch.object(Claim, "keep", keep))


def claim_for_ever_what_failed() -> AbstractContextManager[Any]:
    """A claim is not freed when its request fails."""
    good = Claim.__exit__

    def leave(claim: Claim, exc_type: Any, exc: Any, traceback: Any) -> None:
        if exc is None:
            good(claim, exc_type, exc, traceback)

    return mock.patch.object(Claim, "__exit__", leave)


def wake_nobody() -> AbstractContextManager[Any]:
    """A claim ends without a word to those who wait for it."""

    def end(answers: Answers, claim: Claim, outcome: Any = None) -> None:
        answers._claims.pop(claim.handle, None)

    return mock.patch.object(Answers, "end", end)


def claim_without_a_look_at_others() -> AbstractContextManager[Any]:
    """Only the disk is asked: two who come at once are both executed."""
    good = Answers.claim

    async def claim(
        answers: Answers, seal: Seal, request: bytes, *others_given: Any
    ) -> Claim | KeptAnswer:
        others, answers._claims = answers._claims, {}
        try:
            return await good(answers, seal, request, *others_given)
        finally:
            answers._claims = others | answers._claims

    return _with_lenient_ends(mock.patch.object(Answers, "claim", claim))


def give_the_answer_to_any_body() -> AbstractContextManager[Any]:
    """Fingerprints are not compared."""
    return mock.patch.object(idempotency, "_require_same", return_value=None)


def share_answers_between_callers() -> AbstractContextManager[Any]:
    """The handle does not depend on the API key."""
    return mock.patch.object(claim_stage, "seal_of", lambda _, name: seal_of("everybody", name))


def forget_answers_with_the_process() -> AbstractContextManager[Any]:
    """Kept answers are forgotten with the process that gave them."""

    async def find_answer(store: MemoryStore, handle: bytes) -> AnswerKept | None:
        if handle in before.setdefault(store, set(store.disk._answers)):
            return None
        return store.disk.answer(handle)

    before: dict[MemoryStore, set[bytes]] = {}
    return mock.patch.object(MemoryStore, "find_answer", find_answer)


def give_answers_again_for_ever() -> AbstractContextManager[Any]:
    """Nobody looks whether an answer has expired."""
    good = MemoryStore.find_answer

    async def find_answer(store: MemoryStore, handle: bytes) -> AnswerKept | None:
        kept = await good(store, handle)
        return None if kept is None else msgspec.structs.replace(kept, expires_ns=2**63 - 1)

    return mock.patch.object(MemoryStore, "find_answer", find_answer)


def forget_answers_too_early() -> AbstractContextManager[Any]:
    """The upkeep removes answers that have most of their day left."""
    good = Answers.forget_expired

    def forget_expired(answers: Answers) -> None:
        answers._store.submit((AnswersExpired(answers._clock.utc_ns() + 86_400 * 10**9, 99),))
        good(answers)

    return mock.patch.object(Answers, "forget_expired", forget_expired)


@contextlib.contextmanager
def keep_what_a_client_left() -> Iterator[None]:
    """The part of a stream that was delivered is kept as if it were the answer."""
    good_execute, good_charge = execute._Delivery.__init__, Settlement._charge
    deliveries: dict[int, _Delivery] = {}

    def begin(delivery: _Delivery, execution: Any, settlement: Settlement, relay: Relay) -> None:
        good_execute(delivery, execution, settlement, relay)
        deliveries[id(settlement)] = delivery

    def charge(settlement: Settlement, tokens: Any, basis: Any, keep: Any = None) -> Any:
        delivery = deliveries.pop(id(settlement), None)
        if keep is None and delivery is not None and delivery._recording is not None:
            part = delivery._recording.whole(DONE_FRAME)
            keep = lambda _: delivery._execution.keep(execute._EVENT_STREAM, part)  # noqa: E731
        return good_charge(settlement, tokens, basis, keep)

    with (
        mock.patch.object(_Delivery, "__init__", begin),
        mock.patch.object(Settlement, "_charge", charge),
    ):
        yield


@contextlib.contextmanager
def charge_for_what_is_given_again() -> Iterator[None]:
    """A replay goes through the books like any answer."""
    good = claim_stage.replay

    async def replay(exchange: Any, kept: KeptAnswer) -> None:
        services = here["services"]
        usage = Usage(
            request_id=exchange.request_id, account_id="a0", key_id="k0", model=kept.model,
            prompt_tokens=1, completion_tokens=1, cached_tokens=0, reasoning_tokens=0,
            basis=Basis.COUNTED, streamed=False, created_ns=services.clock.utc_ns(), duration_ms=0,
        )  # fmt: skip
        services.book.record_free(usage)
        await good(exchange, kept)

    async def claim(services: Any, *arguments: Any) -> Any:
        here["services"] = services
        return await good_claim(services, *arguments)

    here: dict[str, Any] = {}
    good_claim = run.claim
    with mock.patch.object(run, "replay", replay), mock.patch.object(run, "claim", claim):
        yield


def spend_usd_before_bundled_credits() -> AbstractContextManager[Any]:
    """What was paid in goes first."""

    def put_in_order(funds: AccountFunds) -> None:
        order = (funds.diem, funds.usd, funds.bundled)
        funds.in_order = tuple(fund for fund in order if fund is not None)

    return mock.patch.object(AccountFunds, "put_in_order", put_in_order)


def limit_only_usd_that_was_paid_in() -> AbstractContextManager[Any]:
    """Bundled credits do not count in the limit in USD."""
    good = SpendLimits.of

    def of(limits: SpendLimits, currency: Currency) -> int | None:
        return None if currency is Currency.BUNDLED_CREDITS else good(limits, currency)

    return mock.patch.object(SpendLimits, "of", of)


def refund_funds_but_no_limit() -> AbstractContextManager[Any]:
    """A refund leaves what its key has spent as it was."""
    return mock.patch.object(KeyTallies, "give_back", return_value=None)


def refund_before_the_disk_knows() -> AbstractContextManager[Any]:
    """An operator is told of a refund that a crash may still undo."""
    good = Book.refund

    def refund(book: Book, charges: Any, *, reason: str) -> Any:
        good(book, charges, reason=reason)
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        told.set_result(None)
        return told

    return mock.patch.object(Book, "refund", refund)


@contextlib.contextmanager
def _with_lenient_ends(bug: AbstractContextManager[Any]) -> Iterator[None]:
    """A bug that ends claims twice, which goes unnoticed."""

    def end(answers: Answers, claim: Claim, outcome: Any = None) -> None:
        if answers._claims.get(claim.handle) is claim:
            del answers._claims[claim.handle]
        if not claim.ended.done():
            claim.ended.set_result(outcome)

    with mock.patch.object(Answers, "end", end), bug:
        yield


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
    keep_the_answer_after_its_charge,
    free_the_key_before_the_disk_has_the_answer,
    claim_for_ever_what_failed,
    wake_nobody,
    claim_without_a_look_at_others,
    give_the_answer_to_any_body,
    share_answers_between_callers,
    forget_answers_with_the_process,
    give_answers_again_for_ever,
    forget_answers_too_early,
    keep_what_a_client_left,
    charge_for_what_is_given_again,
    spend_usd_before_bundled_credits,
    limit_only_usd_that_was_paid_in,
    refund_funds_but_no_limit,
    refund_before_the_disk_knows,
)
