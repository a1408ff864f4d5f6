"""Who may answer a request that names an idempotency key: one at a time, and only once.

The first request with a key claims it. What it settles is kept with its charge, in one commit, so
that there is never a charge whose answer cannot be given again; a claim that ends without a settled
answer frees the key. A second request with the key waits for the first.

Invariants: at most one claim exists for a handle; an answer is given again only once it is durable;
memory and disk are bounded, and what does not fit is remembered as answered.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from types import TracebackType
from typing import Final

import msgspec

from traghetto.clock import Clock
from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.idempotency.seal import Seal
from traghetto.storage.connector import Store
from traghetto.storage.facts import AnswerKept, AnswersExpired, Fact, KeptBytes

ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A larger answer is not kept: its request is refused the second time, and not charged again."""

RECORDING_BYTES_MAX: Final = 256 * 1024 * 1024
"""What all streams together may have in memory to be kept at their end; beyond it they are not."""
KEPT_SECONDS: Final = 24 * 3600
_NS_PER_SECOND: Final = 1_000_000_000
_NS_PER_HOUR: Final = 3600 * _NS_PER_SECOND

Header = tuple[bytes, bytes]


class KeptAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A successful answer, as it is given again: its own headers and its body, to the byte."""

    model: str
    headers: tuple[Header, ...]
    body: bytes


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(KeptAnswer).decode


class Claim:
    """The right to answer a request that names an idempotency key.

    It ends with its context, or before, once its answer can be given again (`settled`).
    """

    def __init__(self, answers: Answers, seal: Seal, fingerprint: bytes, key_id: str) -> None:
        self._answers = answers
        self._seal = seal
        self.fingerprint = fingerprint
        self.key_id = key_id
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.recorded_bytes = 0
        self._recorded: list[bytes] | None = []
        """What a stream has sent so far; None once it is too large to be kept."""

    @property
    def handle(self) -> bytes:
        """What the claim is known by."""
        return self._seal.handle

    def record(self, frames: bytes) -> None:
        """Remember what a stream sends, as long as there is room for it."""
        if self._recorded is None:
            return
        if self._answers.takes(self, len(frames)):
            self._recorded.append(frames)
        else:
            self._recorded = None

    def recorded(self, terminal: bytes) -> bytes | None:
        """The stream with its `terminal` frames; None if it is too large to be kept."""
        return None if self._recorded is None else b"".join((*self._recorded, terminal))

    def keep(self, answer: KeptAnswer | None) -> Iterable[Fact]:
        """What to commit together with the charge of `answer`; None for one that is too large."""
        sealed = None
        if answer is not None and len(answer.body) <= ANSWER_BYTES_MAX:
            sealed = self._seal.close(_encode(answer))
        return (self._answers.fact(self, sealed),)

    def settled(self) -> None:
        """What was kept is on disk: whoever asks from now on need not wait for the first client."""
        self._answers.end(self)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._answers.end(self)


class Answers:
    """The answers kept for idempotency keys, and the claims on those to come."""

    def __init__(
        self, store: Store, clock: Clock, kept: Iterable[KeptBytes] = (), *, kept_bytes_max: int
    ) -> None:
        """`kept` is what the books hold already; `kept_bytes_max` bounds all answers together."""
        self._store = store
        self._clock = clock
        self._kept_bytes_max = kept_bytes_max
        self._claims: dict[bytes, Claim] = {}
        self._bytes_by_hour: dict[int, int] = {row.hour: row.bytes for row in kept}
        self._bytes = sum(self._bytes_by_hour.values())
        self._recorded_bytes = 0

    async def claim(
        self, seal: Seal, request: bytes, key_id: str, wait_seconds_max: float
    ) -> Claim | KeptAnswer:
        """The answer that the same request was given, or the right to give it one.

        Waits while another request with the key is being answered. Raises ApiError:
        IDEMPOTENCY_KEY_REUSED for a different request, IDEMPOTENT_ANSWER_NOT_KEPT,
        REQUEST_TIMEOUT if the other one took too long.
        """
        fingerprint = seal.fingerprint(request)
        try:
            async with asyncio.timeout(wait_seconds_max):
                while (other := self._claims.get(seal.handle)) is not None:
                    _require_same(other.fingerprint, fingerprint)
                    await asyncio.shield(other.ended)
        except TimeoutError:
            raise ApiError(ErrorCode.REQUEST_TIMEOUT, reason="a duplicate in flight") from None
        claim = self._claims[seal.handle] = Claim(self, seal, fingerprint, key_id)
        try:
            kept = await self._store.find_answer(seal.handle)
            if kept is None or kept.expires_ns <= self._clock.utc_ns():
                return claim
            _require_same(kept.fingerprint, fingerprint)
            if kept.sealed is None:
                raise ApiError(Adjunct.IDEMPOTENT_ANSWER_NOT_KEPT)  # noqa: TRY301 - a guard
            answer = _decode(seal.open(kept.sealed))
        except BaseException:
            self.end(claim)
            raise
        self.end(claim)
        return answer

    def takes(self, claim: Claim, size: int) -> bool:
        """Make room in memory for `size` more bytes of a stream, if there is any."""
        fits = claim.recorded_bytes + size <= ANSWER_BYTES_MAX
        if not fits or self._recorded_bytes + size > RECORDING_BYTES_MAX:
            return False
        claim.recorded_bytes += size
        self._recorded_bytes += size
        return True

    def fact(self, claim: Claim, sealed: bytes | None) -> AnswerKept:
        """What is kept of an answer, its size counted; without it where there is no room."""
        if sealed is not None and self._bytes + len(sealed) > self._kept_bytes_max:
            sealed = None
        expires_ns = self._clock.utc_ns() + KEPT_SECONDS * _NS_PER_SECOND
        size = len(sealed or b"")
        hour = expires_ns // _NS_PER_HOUR
        self._bytes_by_hour[hour] = self._bytes_by_hour.get(hour, 0) + size
        self._bytes += size
        return AnswerKept(claim.handle, claim.key_id, claim.fingerprint, sealed, expires_ns)

    def end(self, claim: Claim) -> None:
        """Free the handle of `claim`, and wake those who wait for it; does nothing twice."""
        if claim.ended.done():
            return
        del self._claims[claim.handle]
        self._recorded_bytes -= claim.recorded_bytes
        claim.ended.set_result(None)

    def forget_expired(self) -> None:
        """Remove the answers of hours that are over. Call it now and then."""
        now = self._clock.utc_ns()
        over = [hour for hour in self._bytes_by_hour if (hour + 1) * _NS_PER_HOUR <= now]
        if over:
            self._store.submit((AnswersExpired(now),))
        for hour in over:
            self._bytes -= self._bytes_by_hour.pop(hour)


def _require_same(known: bytes, fingerprint: bytes) -> None:
    if not hmac.compare_digest(known, fingerprint):
        raise ApiError(Adjunct.IDEMPOTENCY_KEY_REUSED)
