"""Inference and the answer (contract A.3, step 19; B.1.5 to B.1.7).

The answer is written inside the context of the settlement: whatever happens here, the hold ends
exactly once. Two gates order promises after durability: a stream's first byte waits until its hold
is on disk, and nothing that says "complete" is sent before the charge is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from traghetto.catalog.model import Model
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.pool import ModelPool
from traghetto.errors import ApiError, render_stream_error
from traghetto.idempotency.answers import Claim, KeptAnswer
from traghetto.pipeline.answer import (
    completion_id,
    cost_member,
    public_choices,
    usage_member,
    whole_answer,
)
from traghetto.pipeline.durable import charge_durable, durable
from traghetto.pipeline.estimate import estimated_tokens
from traghetto.pipeline.exchange import JSON_CONTENT, ClientGone, Exchange, Header
from traghetto.pipeline.failures import chat_error, gateway_stopping
from traghetto.pipeline.keepalive import StreamWriter
from traghetto.pipeline.relay import Relay
from traghetto.pipeline.services import Services
from traghetto.pipeline.stages.parse import ChatJob
from traghetto.pipeline.stages.settle import Settled, Settlement
from traghetto.settings.fields import SETTLE_SECONDS
from traghetto.storage.facts import Fact

_EVENT_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

LAST_FRAME_SECONDS: Final = 1.0
"""How long the error frame of a stream may take when the gateway stops."""


class Execution(msgspec.Struct, frozen=True):
    """What inference and the answer need."""

    services: Services
    exchange: Exchange
    body: dict[str, Any]
    """The caller's own, for naming fields that a backend refused."""
    job: ChatJob
    model: Model
    pool: ModelPool
    model_headers: tuple[Header, ...]
    claim: Claim | None
    """Under which the answer is kept, if its request names an idempotency key."""
    principal: str

    def keep(self, headers: tuple[Header, ...], body: bytes | None) -> Iterable[Fact]:
        """What to commit with the charge so that the answer can be given again; `body` is None
        for one that is too large."""
        if self.claim is None:
            return ()
        if body is None:
            return self.claim.keep(None)
        return self.claim.keep(KeptAnswer(self.model.id, (*headers, *self.model_headers), body))


async def execute(execution: Execution, settlement: Settlement) -> None:
    """Run the job, end its hold, and send the answer.

    Raises ApiError for a failure before the first byte, and ClientGone.
    """
    try:
        if execution.job.request.stream:
            await _answer_stream(execution, settlement)
        else:
            await _answer_whole(execution, settlement)
    finally:
        settlement.void()


async def _answer_whole(execution: Execution, settlement: Settlement) -> None:
    job, exchange = execution.job, execution.exchange
    try:
        with exchange.watch_disconnect():
            completion = await execution.pool.complete(job.call, execution.principal)
    except EngineFailure as failure:
        raise chat_error(failure, execution.body) from failure
    limit = settlement.output_tokens_bound
    reported = completion.usage
    over_limit = reported is not None and reported.completion_tokens > limit
    choices = public_choices(completion, job.request, over_limit=over_limit)
    body = b""

    def keep(settled: Settled) -> Iterable[Fact]:
        nonlocal body
        body = whole_answer(
            request_id=exchange.request_id,
            created=exchange.clock.utc_ns() // 1_000_000_000,
            model=execution.model.id,
            request=job.request,
            choices=choices,
            settled=settled,
        )
        return execution.keep((JSON_CONTENT,), body)

    settled = settlement.complete(
        reported, lambda: estimated_tokens(completion.output_bytes(job.request.n)), keep
    )
    await charge_durable(settled.durable, execution.claim)
    await exchange.answer(200, (JSON_CONTENT,), body)


async def _answer_stream(execution: Execution, settlement: Settlement) -> None:
    exchange, job = execution.exchange, execution.job
    relay = Relay(
        completion_id=completion_id(exchange.request_id),
        created=exchange.clock.utc_ns() // 1_000_000_000,
        model=execution.model.id,
        choices_max=job.request.n,
        tokens_max=job.request.max_tokens,
        strip_thinking=job.request.venice.strips_thinking,
    )
    delivery = _Delivery(execution, settlement, relay)
    try:
        with exchange.watch_disconnect():
            try:
                await delivery.relay_within(execution.services.settings.hold_seconds_max)
            except EngineFailure as failure:
                await delivery.fail(failure)
            else:
                await delivery.finish()
    except ClientGone:
        if not settlement.ended:
            settlement.client_left(relay.usage, delivery.delivered_output)
        raise
    except asyncio.CancelledError:
        await delivery.stop()
    finally:
        delivery.writer.close()


class _Delivery:
    """One stream on its way to the client."""

    def __init__(self, execution: Execution, settlement: Settlement, relay: Relay) -> None:
        self._execution = execution
        self._exchange = execution.exchange
        self._settlement = settlement
        self._relay = relay
        self.writer = StreamWriter(self._exchange, execution.services.settings.stream_ping_seconds)
        self.delivered_output = 0
        """Output tokens in the frames that the connection has taken."""
        self._claim = execution.claim
        self._terminal: bytes | None = None
        """The last frames of a complete answer, once it is charged."""

    async def relay_within(self, hold_seconds: float) -> None:
        """Relay until the backend's stream ends; raises EngineFailure if it breaks.

        No stream outlives its hold: one that would ends with `length` while it can be settled.
        """
        try:
            async with asyncio.timeout(hold_seconds - SETTLE_SECONDS):
                await self._relay_all()
        except TimeoutError:
            if not self.delivered_output:
                raise EngineFailure(
                    FailureKind.TIMED_OUT, "no output in the life of a hold"
                ) from None
            self._relay.stop_at_limit()

    async def _relay_all(self) -> None:
        execution, relay, hold = self._execution, self._relay, self._settlement.hold
        # The hold goes to disk while the model reads its prompt.
        hold_durable = None if hold is None else hold.durable()
        stream = await execution.pool.open_stream(execution.job.call, execution.principal)
        try:
            await durable(hold_durable)
            async for payloads in stream:
                frames = relay.feed(payloads)
                if frames:
                    await self._send(frames)
                if relay.failure is not None:
                    stream.fail(relay.failure)
                    raise relay.failure
                if not self._settlement.covers(relay.output_tokens):
                    relay.stop_at_limit()
                if relay.complete or relay.limited:
                    return
            relay.backend_ended()
            if relay.failure is not None:
                stream.fail(relay.failure)
                raise relay.failure
        finally:
            await stream.aclose()

    async def finish(self) -> None:
        """Charge, then say that the answer is complete."""
        relay, settlement = self._relay, self._settlement
        terminal = b""

        def keep(settled: Settled) -> Iterable[Fact]:
            nonlocal terminal
            terminal = relay.terminal_frames(usage_member(settled.tokens), cost_member(settled))
            whole = None if self._claim is None else self._claim.recorded(terminal)
            return self._execution.keep(_EVENT_STREAM, whole)

        settled = settlement.complete(relay.usage, lambda: relay.produced_tokens, keep)
        try:
            await charge_durable(settled.durable, self._claim)
        except ApiError as error:
            await self._break(error)
            return
        self._terminal = terminal
        await self._send(terminal, more=False)

    async def fail(self, failure: EngineFailure) -> None:
        """End a broken stream: an HTTP error if nothing was sent, else an error frame."""
        self._settlement.broken(self._relay.usage, self.delivered_output)
        error = chat_error(failure, self._execution.body)
        if not self._exchange.response_started:
            raise error from failure
        error.__cause__ = failure
        await self._break(error)

    async def stop(self) -> None:
        """End the stream because the gateway stops: no patience is left, but the truth is told."""
        if not self._settlement.ended:
            self._settlement.broken(self._relay.usage, self.delivered_output)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_FRAME_SECONDS):
                if self._terminal is None:
                    await self._break(gateway_stopping())
                else:
                    await self._send(self._terminal, more=False)

    async def _break(self, error: ApiError) -> None:
        """The error frame and `[DONE]`; the edge is told, so that it logs and counts the error."""
        if not self._exchange.response_started:
            raise error
        frame = render_stream_error(error, self._exchange.request_id)
        await self.writer.write(frame, more=False)
        self._exchange.stream_error = error

    async def _send(self, frames: bytes, *, more: bool = True) -> None:
        if not self._exchange.response_started:
            await self._exchange.start(200, _EVENT_STREAM)
        if more and self._claim is not None:
            self._claim.record(frames)
        await self.writer.write(frames, more=more)
        self.delivered_output = self._relay.output_tokens
