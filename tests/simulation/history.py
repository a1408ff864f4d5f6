"""What happened in a run, as its witnesses wrote it down: clients, backends and the disk.

The oracles read nothing else. Witnesses write in one order, so that "before" means something: a
place in the history is its number of records so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulation.loop import START_SECONDS
from simulation.scenario import RequestPlan, Scenario
from simulation.upstream_plans import Event, WholeAnswer
from traghetto.ledger.hold import Hold
from traghetto.money import Currency, LimitPeriod
from traghetto.storage.facts import BalanceRow, Entry, HoldOpened, UsageRecorded


@dataclass(slots=True)
class Moment:
    """A place in the history, and the loop's time then."""

    number: int
    time: float


@dataclass(slots=True)
class ClientLog:
    """One request as its client saw it; `body` is what its socket accepted."""

    plan: RequestPlan
    request_id: str
    run: int
    """Which run of the gateway served it."""
    arrived: Moment
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    answers: int = 0
    first_byte: Moment | None = None
    completed: Moment | None = None
    left: Moment | None = None
    """The client closed its connection."""
    cut: Moment | None = None
    """The gateway died, or was stopped, and the connection with it."""

    @property
    def gone(self) -> Moment | None:
        """When the connection ended before the answer did."""
        return self.left or self.cut

    @property
    def replayed(self) -> bool:
        """Whether the answer says that it was given before."""
        return self.headers.get("idempotent-replayed") == "true"


@dataclass(slots=True)
class AttemptLog:
    """One call of a backend, as the backend saw it."""

    request_id: str
    run: int
    model: str
    streamed: bool
    number: int
    """Counts the attempts of one request, from 0."""
    started: Moment
    ended: Moment | None = None
    how: str = ""
    events: list[Event] = field(default_factory=list)
    """Of a stream: what its reader took."""
    answer: WholeAnswer | None = None
    """Of a whole answer: what was returned."""


@dataclass(slots=True)
class HoldLog:
    """A hold as the book took it."""

    hold: Hold
    bound: int
    run: int
    extension_refused: bool = False


@dataclass(frozen=True, slots=True)
class Books:
    """What is on the disk at the end."""

    entries: tuple[Entry, ...]
    usages: dict[str, UsageRecorded]
    balances: tuple[BalanceRow, ...]
    holds: tuple[HoldOpened, ...]
    differences: tuple[str, ...]
    """What `verify` found."""
    today: str
    """The day window that the last run, which never crashed, was in."""
    remembered: dict[tuple[str, Currency], int]
    """Balances in its memory."""
    remembered_spending: dict[tuple[str, LimitPeriod, Currency], int]
    """What it thought that each key had spent, in each current period."""
    rate_windows: dict[tuple[int, str, str], tuple[float, int]]
    """By run, account and model, of the last run: when the window began, and its tokens."""


class History:
    """Everything that happened."""

    def __init__(self, scenario: Scenario, now: Callable[[], float]) -> None:
        self.scenario = scenario
        self._now = now
        self.records: list[tuple[float, str, str, tuple[Any, ...]]] = []
        self.clients: dict[str, ClientLog] = {}
        self.attempts: dict[str, list[AttemptLog]] = {}
        self.holds: dict[str, HoldLog] = {}
        self.holds_committed: dict[str, int] = {}
        self.usages_committed: dict[str, int] = {}
        """Places in the history by request id."""
        self.failed_runs: dict[int, int] = {}
        """Runs whose disk failed: where in the history."""
        self.ended_runs: set[int] = set()
        """Runs that crashed or lost their disk, and what they had not written with it."""
        self.stopped_runs: dict[int, Moment] = {}
        """When each run that was stopped began to stop."""
        self.refunded: set[str] = set()
        """Requests whose refund an operator was told of."""
        self._clock_steps: list[tuple[Moment, int]] = []
        self.troubles: list[str] = []
        """What a witness saw that must not happen at all."""
        self.books: Books | None = None

    def note(self, what: str, subject: str, *details: Any) -> Moment:
        """Write down that something happened to `subject`."""
        now = self._now()
        self.records.append((now, what, subject, details))
        return Moment(len(self.records), now)

    def note_clock(self, seconds: float) -> None:
        """Write down that the wall clock was set forward or back."""
        self._clock_steps.append((self.note("clock", "UTC", seconds), int(seconds * 1e9)))

    def utc_between(self, first: Moment, last: Moment) -> tuple[int, int]:
        """The earliest and the latest time that the wall clock showed from one place to another."""
        utc = self._utc_ns(first.time, first.number)
        shown = [utc, self._utc_ns(last.time, last.number)]
        for step, _ in self._clock_steps:
            if first.number < step.number <= last.number:
                shown += (
                    self._utc_ns(step.time, number) for number in (step.number - 1, step.number)
                )
        return min(shown), max(shown)

    def _utc_ns(self, time: float, number: int) -> int:
        steps = sum(step_ns for step, step_ns in self._clock_steps if step.number <= number)
        return self.scenario.utc_ns + int((time - START_SECONDS) * 1e9) + steps

    def trouble(self, sentence: str) -> None:
        """Write down what must not happen."""
        self.note("trouble", sentence)
        self.troubles.append(sentence)

    def digest(self) -> str:
        """The same for two runs in which the same happened in the same order."""
        digest = hashlib.blake2b(digest_size=16)
        for record in self.records:
            digest.update(repr(record).encode())
        return digest.hexdigest()

    def lines(self) -> list[str]:
        """The history for people."""
        return [
            f"{time - 1000:10.6f}  {what:<10} {subject:<8} {' '.join(map(str, details))}".rstrip()
            for time, what, subject, details in self.records
        ]
