"""What was said, read back: an answer as its client read it, a stream as its reader took it.

Both are read here a second time, by the rules of the contract and not with the product's code.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from simulation.history import AttemptLog, ClientLog
from simulation.upstream_plans import Claim, Delta, Done, Finish, Trouble, UsageEvent

FAILING_REASONS = frozenset({"abort"})


@dataclass(slots=True)
class Told:
    """The answer, as far as the client's socket accepted it."""

    id: str | None = None
    deltas: list[tuple[int, str]] = field(default_factory=list)
    finishes: dict[int, str] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    cost: dict[str, Any] | None = None
    error: bool = False
    done: bool = False
    whole: dict[str, Any] | None = None
    after_the_end: bool = False
    of_another_kind: bool = False
    """A stream for who asked for a whole answer, or the other way round."""

    @classmethod
    def of(cls, client: ClientLog) -> Told:
        """Read an answer the way a client does."""
        told = cls()
        if client.status != 200:
            return told
        is_stream = client.headers["content-type"].startswith("text/event-stream")
        if is_stream is not client.plan.stream:
            told.of_another_kind = True
            return told
        if not client.plan.stream:
            if client.body:
                told.whole = json.loads(client.body)
                told.id = told.whole["id"]
                told.usage, told.cost = told.whole["usage"], told.whole["cost"]
            return told
        for frame in client.body.decode().split("\n\n"):
            if frame and not frame.startswith(":"):
                told._read(frame.removeprefix("data: "))
        return told

    @property
    def complete(self) -> bool:
        """Whether the answer says that it is complete."""
        return self.whole is not None or (self.done and not self.error)

    def _read(self, payload: str) -> None:
        if self.done:
            self.after_the_end = True
        elif payload == "[DONE]":
            self.done = True
        else:
            event = json.loads(payload)
            self.id = event.get("id", self.id)
            self.error = self.error or "error" in event
            self.usage = event.get("usage", self.usage)
            self.cost = event.get("cost", self.cost)
            for choice in event.get("choices", ()):
                if choice["delta"].get("content"):
                    self.deltas.append((choice["index"], choice["delta"]["content"]))
                if choice["finish_reason"] is not None:
                    self.finishes[choice["index"]] = choice["finish_reason"]


@dataclass(slots=True)
class Reading:
    """A stream as far as its reader took it, read to the first thing that ends it."""

    deltas: list[tuple[int, str]] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    claim: Claim | None = None
    complete: bool = False
    broken: bool = False
    limited: bool = False

    @classmethod
    def of(cls, attempt: AttemptLog, client: ClientLog) -> Reading:
        """Read what an attempt sent by the rules of the contract."""
        reading = cls()
        n = client.plan.n
        counts: dict[int, int] = defaultdict(int)
        finished = reading.finished
        for event in attempt.events:
            match event:
                case Done():
                    reading.complete = bool(finished) and counts.keys() <= finished
                    reading.broken = not reading.complete
                case Trouble():
                    reading.broken = True
                case UsageEvent():
                    reading._note(event.claim)
                case Finish() if event.index < n and event.index not in finished:
                    counts[event.index] += 0
                    reading.broken = event.reason in FAILING_REASONS
                    finished.add(event.index)
                case Delta():
                    reading._note(event.claim)
                    if event.index >= n or event.index in finished:
                        continue
                    if counts[event.index] == client.plan.max_tokens:
                        reading.limited = True
                    else:
                        counts[event.index] += 1
                        reading.deltas.append((event.index, event.text))
                        if event.finish is not None:
                            finished.add(event.index)
            if reading.complete or reading.broken or reading.limited:
                break
        return reading

    def _note(self, claim: Claim | None) -> None:
        if claim is not None and claim.is_sane:
            self.claim = claim
