"""One replica in a pool: its breaker, its health, how busy it is, and what is said about it.

Operators hear of changes only: a state is reported when it begins and when it ends, never per
request.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from traghetto.engines.breaker import Breaker, BreakerState, Evidence
from traghetto.engines.failures import EngineFailure, FailureKind
from traghetto.engines.protocols import BackendModel

HEALTH_SECONDS_MAX: Final = 5.0
"""A health check that takes longer has failed."""
HEALTH_FAILURES_MAX: Final = 2
"""So many failed checks in a row say that a backend that was up is down."""

_DOWN_KINDS: Final = frozenset(
    {
        FailureKind.UNREACHABLE,
        FailureKind.BROKEN,
        FailureKind.UNUSABLE,
        FailureKind.TIMED_OUT,
        FailureKind.AT_CAPACITY,
        FailureKind.REDIRECTED,
    }
)
"""Failed checks that mean "down"; any other answer comes from a server that is there."""


class Backend(Protocol):
    """What a pool needs of a backend, whatever it is for."""

    @property
    def name(self) -> str:
        """How logs, metrics and health name it."""
        ...

    async def models(self) -> list[BackendModel]:
        """What it serves now; raises EngineFailure."""
        ...

    async def aclose(self) -> None:
        """Release what it holds."""
        ...


BackendT = TypeVar("BackendT", bound=Backend)


class Report(Protocol):
    """Where changes of state go: the operator's log."""

    def __call__(
        self, level: Literal["info", "warn", "error"], event: str, /, **fields: Any
    ) -> None:
        """Write one record."""
        ...


class CountAttempt(Protocol):
    """Where attempts are counted: the metrics."""

    def __call__(self, model: str, backend: str, outcome: str, /) -> None:
        """`outcome` is `ok`, `abandoned`, or the lower-case name of a failure kind."""
        ...


@dataclass(frozen=True, slots=True)
class Replica(Generic[BackendT]):
    """A backend as a pool is given it."""

    backend: BackendT
    upstream_model: str | None = None
    """The model's name at a server across the network, whose health is then checked; None for
    engines in this process, which need no check."""
    counts_tokens: bool = True
    """Of chat backends: whether it is worth asking for an exact count of a prompt."""


class Health(enum.Enum):
    """What the last health checks said."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Member(Generic[BackendT]):
    """A replica and everything its pool knows about it."""

    def __init__(
        self,
        replica: Replica[BackendT],
        model_id: str,
        breaker: Breaker,
        report: Report,
        count: CountAttempt,
    ) -> None:
        self.backend = replica.backend
        self.name = replica.backend.name
        self.upstream_model = replica.upstream_model
        self.counts_tokens = replica.counts_tokens
        self.breaker = breaker
        self.outstanding = 0
        """Calls under way."""
        self.health = Health.UNKNOWN
        self.cooled_by: FailureKind | None = None
        """The kind of the last failure that made it cool."""
        self._model_id = model_id
        self._report = report
        self._count = count
        self._failed_checks = 0
        self._was_open = False
        self._is_misconfigured = False
        self._is_model_missing = False

    @property
    def is_usable(self) -> bool:
        """Whether a call may go there now."""
        return self.health is not Health.DOWN and self.breaker.admits()

    @property
    def is_waiting_only(self) -> bool:
        """Whether it works but asked to be left alone for a while."""
        return (
            self.health is not Health.DOWN
            and self.breaker.is_cooling
            and self.breaker.state is BreakerState.CLOSED
        )

    def trust(self, breaker: Breaker) -> None:
        """Begin anew with `breaker`, as if nothing had ever failed."""
        self.breaker = breaker
        self.health = Health.UNKNOWN
        self.cooled_by = None
        self._failed_checks = 0
        self._was_open = self._is_misconfigured = self._is_model_missing = False

    def begin(self) -> Attempt[BackendT]:
        """A call goes there; `is_usable` must hold."""
        return Attempt(self, self.breaker.begin())

    def ended(self, outcome: str) -> None:
        """A call there is over."""
        self.outstanding -= 1
        self._count(self._model_id, self.name, outcome)

    def note_success(self) -> None:
        """Tell the operator what a success ends."""
        self._note_breaker()
        if self._is_misconfigured:
            self._is_misconfigured = False
            self._say("info", "backend_configured")

    def note_failure(self, failure: EngineFailure) -> None:
        """Tell the operator what a failure begins."""
        if failure.kind in (FailureKind.OVERLOADED, FailureKind.AT_CAPACITY):
            self.cooled_by = failure.kind
        if failure.kind is FailureKind.MISCONFIGURED and not self._is_misconfigured:
            self._is_misconfigured = True
            self._say("error", "backend_misconfigured", reason=failure.reason)
        self._note_breaker()

    async def check(self) -> None:
        """One health check; only changes are reported."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS_MAX):
                models = await self.backend.models()
        except TimeoutError:
            self._check_failed(EngineFailure(FailureKind.TIMED_OUT, "the health check timed out"))
        except EngineFailure as failure:
            self._check_failed(failure)
        else:
            self._is_up()
            self._note_listing({model.id for model in models})

    def _check_failed(self, failure: EngineFailure) -> None:
        if failure.kind not in _DOWN_KINDS:
            # It answers, but refuses to list its models; calls will show whether they work.
            self._is_up()
            return
        self._failed_checks += 1
        is_sure = self.health is Health.UNKNOWN or self._failed_checks >= HEALTH_FAILURES_MAX
        if is_sure and self.health is not Health.DOWN:
            self.health = Health.DOWN
            self._say("warn", "backend_down", reason=failure.reason)

    def _is_up(self) -> None:
        self._failed_checks = 0
        was, self.health = self.health, Health.UP
        if was is Health.DOWN:
            self._say("info", "backend_up")

    def _note_listing(self, names: set[str]) -> None:
        is_missing = self.upstream_model not in names
        if is_missing != self._is_model_missing:
            self._is_model_missing = is_missing
            if is_missing:
                self._say("warn", "backend_model_missing", upstream_model=self.upstream_model)
            else:
                self._say("info", "backend_model_found", upstream_model=self.upstream_model)

    def _note_breaker(self) -> None:
        is_open = self.breaker.state is not BreakerState.CLOSED
        if is_open != self._was_open:
            self._was_open = is_open
            if is_open:
                self._say("warn", "breaker_opened", seconds=round(self.breaker.wait_seconds(), 1))
            else:
                self._say("info", "breaker_closed")

    def _say(self, level: Literal["info", "warn", "error"], event: str, **fields: Any) -> None:
        self._report(level, event, model=self._model_id, backend=self.name, **fields)


class Attempt(Generic[BackendT]):
    """One call to one member; it ends exactly once, whatever is said after that."""

    __slots__ = ("_is_over", "_is_probe", "member")

    def __init__(self, member: Member[BackendT], is_probe: bool) -> None:
        member.outstanding += 1
        self.member = member
        self._is_probe = is_probe
        self._is_over = False

    def succeeded(self) -> None:
        """The backend gave a whole answer."""
        if self._end("ok"):
            self.member.breaker.succeeded(is_probe=self._is_probe)
            self.member.note_success()

    def failed(self, failure: EngineFailure, evidence: Evidence) -> None:
        """The backend failed, as `failure` says and `evidence` shows."""
        if self._end(failure.kind.name.lower()):
            self.member.breaker.failed(failure, evidence, is_probe=self._is_probe)
            self.member.note_failure(failure)

    def abandoned(self) -> None:
        """Nobody waits for the answer any more."""
        if self._end("abandoned"):
            self.member.breaker.abandoned(is_probe=self._is_probe)

    def _end(self, outcome: str) -> bool:
        if self._is_over:
            return False
        self._is_over = True
        self.member.ended(outcome)
        return True
