"""Who may answer a request that names an idempotency key: one at a time, and only once.

The first request with a key claims it. What it settles is kept with its charge, in one commit, so
that there is never a charge whose answer cannot be given again; a claim that ends without a settled
answer frees the key. A second request with the key waits for the first.

Invariants: at most one claim exists for a handle; an answer is given again only once it is durable;
the bytes of answers in memory and on disk are bounded, for each account too, and what does not fit
is remembered as answered.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidTag

from traghetto.clock import Clock
from traghetto.errors import Adjunct, ApiError, ErrorCode
from traghetto.idempotency.seal import Seal
from traghetto.storage.connector import Store
from traghetto.storage.facts import AnswerKept, AnswersExpired, Fact, KeptBytes

ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A larger answer is not kept: its request is refused the second time, and not charged again."""

RECORDING_BYTES_MAX: Final = 256 * 1024 * 1024
"""What all streams together may have in memory to be kept at their end; beyond it they are not."""
DUPLICATES_WAITING_MAX: Final = 1024
"""Requests that wait for the answer to one; more are refused for the moment."""
ACCOUNT_SHARE: Final = 4
"""One account has at most this part of the room for kept answers, and of that for recordings."""
ROW_BYTES: Final = 256
"""What a kept answer takes on disk besides itself, also where only its being given is kept."""
FORGOTTEN_AT_ONCE_MAX: Final = 512
"""Expired answers removed in one commit, so that no charge waits long behind it."""
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


NOT_KEPT: Final[Literal["not kept"]] = "not kept"
Outcome = KeptAnswer | Literal["not kept"] | None
"""What became of a claim: an answer, one that was not kept, or nothing that was settled."""


class Claim:
    """The right to answer a request that names an idempotency key.

    It ends with its context, or before, once its answer can be given again (`settled`).
    """

    def __init__(
        self, answers: Answers, seal: Seal, fingerprint: bytes, key_id: str, account_id: str
    ) -> None:
        self._answers = answers
        self._seal = seal
        self._outcome: Outcome = None
        self.fingerprint = fingerprint
        self.key_id = key_id
        self.account_id = account_id
        self.ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting = 0
        """How many duplicates wait for it."""
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
            self.forget_recording()

    def forget_recording(self) -> None:
        """Let go of what was remembered, and of its room."""
        self._recorded = None
        self._answers.gives_back(self)

    def recorded(self, terminal: bytes) -> bytes | None:
        """The stream with its `terminal` frames; None if it is too large to be kept."""
        return None if self._recorded is None else b"".join((*self._recorded, terminal))

    def keep(self, answer: KeptAnswer | None) -> Iterable[Fact]:
        """What to commit together with the charge of `answer`; None for one that is too large."""
        sealed = None
        self._outcome = NOT_KEPT
        if answer is not None and self._answers.has_room(self, len(answer.body)):
            sealed = self._seal.close(_encode(answer))
            self._outcome = answer
        return (self._answers.fact(self, sealed),)

    def settled(self) -> None:
        """What was kept is on disk: whoever asks from now on need not wait for the first client."""
        self._answers.end(self, self._outcome)

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
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._bytes_of: defaultdict[str, int] = defaultdict(int)
        self._bytes = 0
        self._over_rows = 0
        """Rows whose hour is over and that may still be on disk."""
        self._recorded_bytes = 0
        self._recorded_bytes_of: defaultdict[str, int] = defaultdict(int)
        for row in kept:
            self._count(row.hour, row.account_id, row.bytes, row.rows)

    @property
    def kept_bytes(self) -> int:
        """What all kept answers together take on disk."""
        return self._bytes

    async def claim(
        self, seal: Seal, request: bytes, key_id: str, account_id: str, wait_seconds_max: float
    ) -> Claim | KeptAnswer:
        """The answer that the same request was given, or the right to give it one.

        Waits while another request with the key is being answered. Raises ApiError:
        IDEMPOTENCY_KEY_REUSED for a different request, IDEMPOTENT_ANSWER_NOT_KEPT,
        RATE_LIMIT_EXCEEDED if too many wait already, REQUEST_TIMEOUT if the other one took too
        long.
        """
        fingerprint = seal.fingerprint(request)
        outcome = await self._of_others(seal.handle, fingerprint, wait_seconds_max)
        if outcome is not None:
            return _given(outcome)
        claim = Claim(self, seal, fingerprint, key_id, account_id)
        self._claims[seal.handle] = claim
        try:
            kept = await self._store.find_answer(seal.handle)
            if kept is None or kept.expires_ns <= self._clock.utc_ns():
                return claim
            _require_same(kept.fingerprint, fingerprint)
            outcome = NOT_KEPT if kept.sealed is None else _opened(seal, kept.sealed)
        except BaseException:
            self.end(claim)
            raise
        self.end(claim, outcome)
        return _given(outcome)

    async def _of_others(
        self, handle: bytes, fingerprint: bytes, wait_seconds_max: float
    ) -> Outcome:
        """What requests in flight under the handle come to; None once there are none."""
        try:
            async with asyncio.timeout(wait_seconds_max):
                while (other := self._claims.get(handle)) is not None:
                    _require_same(other.fingerprint, fingerprint)
                    if other.waiting >= DUPLICATES_WAITING_MAX:
                        raise ApiError(ErrorCode.RATE_LIMIT_EXCEEDED, retry_after_seconds=1)
                    other.waiting += 1
                    try:
                        outcome = await asyncio.shield(other.ended)
                    finally:
                        other.waiting -= 1
                    if outcome is not None:
                        return outcome
        except TimeoutError:
            raise ApiError(ErrorCode.REQUEST_TIMEOUT, reason="a duplicate in flight") from None
        return None

    def takes(self, claim: Claim, size: int) -> bool:
        """Make room in memory for `size` more bytes of a stream, if there is any."""
        of_account = self._recorded_bytes_of[claim.account_id]
        if (
            claim.recorded_bytes + size > ANSWER_BYTES_MAX
            or of_account + size > RECORDING_BYTES_MAX // ACCOUNT_SHARE
            or self._recorded_bytes + size > RECORDING_BYTES_MAX
        ):
            return False
        claim.recorded_bytes += size
        self._recorded_bytes_of[claim.account_id] += size
        self._recorded_bytes += size
        return True

    def gives_back(self, claim: Claim) -> None:
        """Take back the room that a claim's recording had."""
        self._recorded_bytes -= claim.recorded_bytes
        self._recorded_bytes_of[claim.account_id] -= claim.recorded_bytes
        if not self._recorded_bytes_of[claim.account_id]:
            del self._recorded_bytes_of[claim.account_id]
        claim.recorded_bytes = 0

    def has_room(self, claim: Claim, size: int) -> bool:
        """Whether an answer of that size may be kept on disk."""
        wanted = size + ROW_BYTES
        share = self._kept_bytes_max // ACCOUNT_SHARE
        return (
            size <= ANSWER_BYTES_MAX
            and self._bytes + wanted <= self._kept_bytes_max
            and self._bytes_of[claim.account_id] + wanted <= share
        )

    def fact(self, claim: Claim, sealed: bytes | None) -> AnswerKept:
        """What is kept of an answer, or of its having been given; its size is counted."""
        expires_ns = self._clock.utc_ns() + KEPT_SECONDS * _NS_PER_SECOND
        hour = expires_ns // _NS_PER_HOUR
        self._count(hour, claim.account_id, len(sealed or b""), 1)
        return AnswerKept(claim.handle, claim.key_id, claim.fingerprint, sealed, expires_ns)

    def end(self, claim: Claim, outcome: Outcome = None) -> None:
        """Free the handle of `claim`, and tell those who wait for it; does nothing twice."""
        if claim.ended.done():
            return
        del self._claims[claim.handle]
        claim.forget_recording()
        claim.ended.set_result(outcome)

    def forget_expired(self) -> bool:
        """Remove some of the answers of hours that are over; whether more are left."""
        now = self._clock.utc_ns()
        for hour, account_id in [
            name for name in self._kept if (name[0] + 1) * _NS_PER_HOUR <= now
        ]:
            kept = self._kept.pop((hour, account_id))
            self._over_rows += kept.rows
            self._bytes -= kept.bytes
            self._bytes_of[account_id] -= kept.bytes
            if not self._bytes_of[account_id]:
                del self._bytes_of[account_id]
        if self._over_rows > 0:
            self._store.submit((AnswersExpired(now, FORGOTTEN_AT_ONCE_MAX),))
            self._over_rows -= FORGOTTEN_AT_ONCE_MAX
        return self._over_rows > 0

    def _count(self, hour: int, account_id: str, size: int, rows: int) -> None:
        kept = self._kept.setdefault((hour, account_id), _Kept())
        taken = size + rows * ROW_BYTES
        kept.bytes += taken
        kept.rows += rows
        self._bytes_of[account_id] += taken
        self._bytes += taken


class _Kept:
    """What one account has on disk that expires within one hour."""

    __slots__ = ("bytes", "rows")

    def __init__(self) -> None:
        self.bytes = 0
        self.rows = 0


def _given(outcome: KeptAnswer | Literal["not kept"]) -> KeptAnswer:
    if isinstance(outcome, str):
        raise ApiError(Adjunct.IDEMPOTENT_ANSWER_NOT_KEPT)
    return outcome


def _opened(seal: Seal, sealed: bytes) -> KeptAnswer | Literal["not kept"]:
    """The answer inside; what cannot be opened, as after an upgrade, was not kept."""
    try:
        return _decode(seal.open(sealed))
    except (InvalidTag, msgspec.DecodeError):
        return NOT_KEPT


def _require_same(known: bytes, fingerprint: bytes) -> None:
    if not hmac.compare_digest(known, fingerprint):
        raise ApiError(Adjunct.IDEMPOTENCY_KEY_REUSED)
