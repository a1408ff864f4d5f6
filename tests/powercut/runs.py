"""Cuts by their number: the same number is the same machine, the same moment, the same damage.

A run is two machines and a number of cuts of each. The second starts on what the first cut of the
first one left, so that power also fails while books recover from an earlier failure.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from powercut.disk import Create, Cut, Delete, Image, PowerCut, Sync, Truncate
from powercut.load import Recording, record
from powercut.oracle import Verdict, judge
from traghetto.clock import ManualClock

CUTS_PER_RUN: Final = 40
_MEMORY: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """What became of one cut."""

    number: int
    story: list[str]
    """What was cut, and what was left."""
    doubts: set[str]
    """What was uncertain; see `PowerCut.doubts`."""
    verdict: Verdict

    def report(self) -> str:
        """For people."""
        verdict = self.verdict
        found = "a state they never were in" if verdict.found is None else f"{verdict.found}"
        lines = [
            *self.story,
            f"batches acknowledged: {verdict.acknowledged}; in the books: {found}",
            *(f"{harm.value}: {sentence}" for harm, sentence in verdict.harms),
        ]
        return f"cut {self.number}:\n" + "\n".join(f"  {line}" for line in lines)


class Run:
    """Two machines and the `CUTS_PER_RUN` cuts of them."""

    def __init__(self, number: int) -> None:
        self._number = number

    def cut(self, index: int) -> Outcome:
        """Cut the power of one of the machines, once."""
        if index == 0:
            return self._first_cut[0]
        early = index < CUTS_PER_RUN // 2
        return self._cut(self.first_machine if early else self.second_machine, index)[0]

    @cached_property
    def first_machine(self) -> Recording:
        """It starts on an empty disk."""
        with scratch() as folder:
            return record(f"{self._number}.0", folder, image={})

    @cached_property
    def _first_cut(self) -> tuple[Outcome, Image]:
        return self._cut(self.first_machine, 0)

    @cached_property
    def second_machine(self) -> Recording:
        """It starts on what the first cut left; the first one again if nothing can start on that."""
        first = self.first_machine
        cut, image = self._first_cut
        if cut.verdict.harms or cut.verdict.found is None:
            return first
        with scratch() as folder:
            return record(
                f"{self._number}.1",
                folder,
                image=image,
                inherited=first.facts(cut.verdict.found),
                clock=ManualClock(first.clock.utc_ns()),
            )

    def _cut(self, machine: Recording, index: int) -> tuple[Outcome, Image]:
        number = self._number * CUTS_PER_RUN + index
        rng = random.Random(f"cut {number}")
        moment = _draw_moment(machine, rng)
        power_cut = PowerCut(machine.disk, moment)
        image, story = power_cut.image(rng)
        with scratch() as folder:
            verdict = judge(machine, moment.events, image, folder)
        story = [_describe(machine, moment), *story]
        return Outcome(number, story, power_cut.doubts, verdict), image


def outcomes(first: int, count: int) -> Iterator[Outcome]:
    """The cuts from number `first` on. What fails while a machine has power is raised."""
    run_number = -1
    for number in range(first, first + count):
        if number // CUTS_PER_RUN != run_number:
            run_number = number // CUTS_PER_RUN
            run = Run(run_number)
        try:
            outcome = run.cut(number % CUTS_PER_RUN)
        except Exception as error:  # a machine that fails while it has power
            error.add_note(f"cut {number} of the simulated power cuts")
            raise
        yield outcome


def _draw_moment(machine: Recording, rng: random.Random) -> Cut:
    """Anywhere, or beside what promises something, or beside what happens seldom."""
    events = machine.disk.events
    moment = rng.randrange(len(events) + 1)
    beside: dict[str, list[int]] = {
        "a sync": [at for at, event in enumerate(events) if isinstance(event, Sync)],
        "an acknowledgement": list(machine.acknowledged_at.values()),
        "a truncation": [at for at, event in enumerate(events) if isinstance(event, Truncate)],
        "a name": [at for at, event in enumerate(events) if isinstance(event, Create | Delete)],
    }
    place = rng.choice(("anywhere", *beside))
    if beside.get(place):
        moment = min(max(rng.choice(beside[place]) + rng.randint(-2, 3), 0), len(events))
    return Cut(moment, in_flight=rng.random() < 0.5)


def _describe(machine: Recording, moment: Cut) -> str:
    events = machine.disk.events
    under_way = ""
    if moment.in_flight and moment.events < len(events):
        event = events[moment.events]
        details = (
            f"{name} {len(value)} bytes" if isinstance(value, bytes) else f"{name} {value}"
            for name, value in event._asdict().items()
        )
        under_way = f", during {type(event).__name__} ({', '.join(details)})"
    return f"after {moment.events} of {len(events)} events{under_way}"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty directory, in memory where there is such a place: here the disk is the model's."""
    in_memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="powercut-", dir=in_memory) as folder:
        yield Path(folder)
