"""The books after power cuts: nothing that was promised is missing, and they go on.

`python -m powercut --cuts 100000 --start 1000` (in `tests/`) goes on where these cuts end.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import apsw
import pytest

from powercut.disk import Create, Cut, Image, PowerCut, Sync, Write
from powercut.oracle import Harm, judge
from powercut.runs import CUTS_PER_RUN, Outcome, Run, outcomes, scratch
from powercut.seeded_bugs import BUGS, Bug, acknowledge_before_commit, durability_normal
from traghetto.storage.sqlite import FILE_NAME

BOOKS, LOG, JOURNAL = FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-journal"
RUNS = 12
CUTS_WITH_A_BUG = 4 * CUTS_PER_RUN


@pytest.mark.parametrize("run", range(RUNS))
def test_a_power_cut_costs_nobody_anything(run: int) -> None:
    """Every acknowledged commit is there once, the books verify, and the store works on."""
    for outcome in outcomes_of(run):
        assert not outcome.verdict.harms, outcome.report()


@functools.cache
def outcomes_of(run: int) -> list[Outcome]:
    """The cuts of a run; two tests look at them."""
    return list(outcomes(run * CUTS_PER_RUN, CUTS_PER_RUN))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_does_not_escape(bug: Bug) -> None:
    """Each bug that is put in does the harm it is known for; else the cuts above prove nothing."""
    missing = set(BUGS[bug])
    with bug():
        for outcome in outcomes(0, CUTS_WITH_A_BUG):
            missing -= outcome.verdict.kinds
            if not missing:
                break
    assert not missing


@pytest.mark.parametrize(
    "bug", [durability_normal, acknowledge_before_commit], ids=lambda bug: bug.__name__
)
def test_what_only_loses_the_last_commits_is_seen_to_do_just_that(bug: Bug) -> None:
    """Such books are in order, as of a little earlier: a loss is not taken for anything else."""
    with bug():
        found = [outcome.verdict for outcome in outcomes(0, CUTS_PER_RUN)]
    assert {harm for verdict in found for harm in verdict.kinds} == {Harm.LOST}
    assert all(verdict.found is not None for verdict in found)


@pytest.mark.parametrize(
    ("statement", "harms"),
    [
        ("SELECT 1", set()),
        ("UPDATE balance SET amount = amount + 1", {Harm.ALTERED, Harm.UNBALANCED}),
        ("UPDATE usage SET completion_tokens = 7 WHERE seq = 1", {Harm.ALTERED}),
        (
            "CREATE TRIGGER refuse BEFORE INSERT ON hold BEGIN SELECT raise(ABORT, 'no'); END",
            {Harm.REFUSED},
        ),
        (
            "PRAGMA writable_schema = 1; DELETE FROM sqlite_schema WHERE name = 'usage_entry_of_account'",
            {Harm.CORRUPT},
        ),
    ],
)
def test_the_oracle_calls_harm_by_its_name(statement: str, harms: set[Harm]) -> None:
    """Books that were tampered with after an orderly end are found out, untouched ones are not."""
    machine = Run(0).first_machine
    end = Cut(len(machine.disk.events), in_flight=False)
    image, _ = PowerCut(machine.disk, end).image(random.Random(0))
    with scratch() as workshop, scratch() as folder:
        tampered = tamper(image, statement, workshop)
        assert judge(machine, end.events, tampered, folder).kinds == harms


def tamper(image: Image, statement: str, folder: Path) -> Image:
    """The image after a statement that no gateway would run."""
    for name, content in image.items():
        (folder / name).write_bytes(content)
    connection = apsw.Connection(str(folder / FILE_NAME))
    connection.execute(statement)
    connection.close()
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_cuts_meet_everything_that_can_be_in_doubt() -> None:
    """What never is unsynced at a cut is not tested by it."""
    met: Counter[str] = Counter()
    for outcome in itertools.chain.from_iterable(outcomes_of(run) for run in range(RUNS // 2)):
        verdict = outcome.verdict
        met.update(outcome.doubts)
        met["nothing promised yet"] += not verdict.acknowledged
        met["holds voided"] += verdict.holds_voided > 0
        met["the batch under way survived"] += verdict.found == verdict.acknowledged + 1
        met["some batches survived, and no more"] += verdict.found == verdict.acknowledged > 0
    expected = {
        *(f"Write {name}" for name in (BOOKS, LOG, JOURNAL)),
        *(f"Truncate {name}" for name in (BOOKS, LOG)),
        *(f"Create {name}" for name in (BOOKS, LOG, JOURNAL)),
        *(f"Delete {name}" for name in (LOG, JOURNAL)),
        *("nothing promised yet", "holds voided"),
        *("the batch under way survived", "some batches survived, and no more"),
    }
    assert {name for name in expected if not met[name]} == set()


def test_the_load_is_what_durability_depends_on() -> None:
    """Batches group, and checkpoints and new beginnings of the log fall between them."""
    for number in range(8):
        machine = Run(number).first_machine
        sizes = [len(facts) for facts in machine.batches.values()]
        assert max(sizes) >= 20
        assert len(sizes) >= 20
        names = {
            event.file: event.name for event in machine.disk.events if isinstance(event, Create)
        }
        happened: Counter[str] = Counter()
        for event in machine.disk.events[: max(machine.acknowledged_at.values())]:
            if isinstance(event, Write) and event.offset == 0:
                happened[f"began {names[event.file]}"] += 1
            elif isinstance(event, Sync):
                happened[f"synced {names[event.file]}"] += 1
        assert happened[f"began {LOG}"] >= 3
        assert happened[f"synced {BOOKS}"] >= 3


def test_a_number_is_one_cut() -> None:
    """The same number is the same cut, also in a process that hashes strings differently."""
    start = CUTS_PER_RUN - 5
    reports = [outcome.report() for outcome in outcomes(start, 10)]
    assert reports == [outcome.report() for outcome in outcomes(start, 10)]
    elsewhere = subprocess.run(
        [sys.executable, "-m", "powercut", "--start", f"{start}", "--cuts", "10", "--trace"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\n".join(reports) == "\n".join(
        line for line in elsewhere.stdout.splitlines() if "again:" not in line
    )
