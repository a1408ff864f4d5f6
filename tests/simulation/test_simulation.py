"""The gateway under thousands of accidents: every seed is a scenario, every history is judged.

`python -m simulation --seeds 100000` (in `tests/`) goes on where these seeds end, and prints what
happened in one that fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from simulation.readings import Told
from simulation.seeded_bugs import BUGS, Bug
from simulation.world import simulate
from traghetto.money import Currency

CHUNKS = 10
SEEDS_PER_CHUNK = 250
FOUND = (
    # Odd seeds mean what they meant when they were found (see `simulate`).
    52_811,  # the wall clock set back over midnight, between a start and its first request
    102_487,  # a stop that runs out of patience while a slow client leaves the end unread
)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_accident_costs_anybody_anything(chunk: int) -> None:
    """Books balance, nobody overspends, and everybody is told the truth, whatever happens when."""
    for seed in range(chunk * SEEDS_PER_CHUNK, (chunk + 1) * SEEDS_PER_CHUNK):
        outcome = simulate(seed)
        assert not outcome.violations, outcome.report()


@pytest.mark.parametrize("seed", FOUND)
def test_a_defect_that_was_found_stays_away(seed: int) -> None:
    """Seeds beyond those above that once failed."""
    outcome = simulate(seed)
    assert not outcome.violations, outcome.report()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_does_not_escape(bug: Bug) -> None:
    """Each bug that is put in shows within the seeds above; else these prove nothing about it."""
    with bug():
        assert any(simulate(seed).violations for seed in range(CHUNKS * SEEDS_PER_CHUNK))


def test_the_seeds_meet_every_kind_of_accident() -> None:
    """What never happens in a simulation is not tested by it."""
    met: Counter[str] = Counter()
    for seed in range(300):
        history = simulate(seed).history
        books = history.books
        assert books is not None
        met["disk failed"] += len(history.failed_runs)
        met["a window of DIEM ended"] += len({entry.window for entry in books.entries}) > 2
        met["a balance below 0"] += any(row.amount < 0 for row in books.balances)
        for client in history.clients.values():
            told = Told.of(client)
            kind = "stream" if client.plan.stream else "whole"
            delivered = "with output" if told.deltas else "without output"
            if client.replayed and client.completed:
                met[f"{kind} given again"] += 1
                first = history.clients[_name_of_first(told)]
                met["given again after a restart"] += first.run != client.run
                met["given again after its client left"] += first.gone is not None
                met["given again to who had waited"] += (
                    first.completed is None or first.completed.number > client.arrived.number
                )
                met["given again in another spelling"] += first.plan.turned != client.plan.turned
            elif client.gone is not None:
                how = "left" if client.left is not None else "cut"
                met[f"{kind} {how} {delivered}"] += 1
            elif client.status != 200:
                met[client.headers["x-error-code"]] += 1
            else:
                met[f"{kind} {'broken' if told.error else 'complete'} {delivered}"] += 1
        answered = [
            (client.plan.key, client.plan.idempotency_key, client.plan.asked())
            for client in history.clients.values()
            if client.plan.idempotency_key and client.status == 200 and not client.replayed
        ]
        met["answered afresh a second time"] += len(answered) > len(set(answered))
        met["refunded"] += len(history.refunded)
        met["bundled credits spent"] += any(
            usage.currency is Currency.BUNDLED_CREDITS for usage in books.usages.values()
        )
        for hold in history.holds.values():
            met["an extension refused"] += hold.extension_refused
            met["the last funds taken"] += hold.hold.exclusive_fund
            met["the last of a limit taken"] += hold.hold.exclusive_limit
    expected = {
        *("disk failed", "a window of DIEM ended", "a balance below 0"),
        *("stream left with output", "stream left without output", "whole left without output"),
        *("stream cut with output", "stream cut without output", "whole cut without output"),
        *(
            "stream complete with output",
            "stream broken with output",
            "whole complete without output",
        ),
        *("an extension refused", "the last funds taken", "the last of a limit taken"),
        *("INSUFFICIENT_BALANCE", "API_KEY_USD_SPEND_LIMIT_EXCEEDED", "RATE_LIMIT_EXCEEDED"),
        *("API_KEY_DIEM_SPEND_LIMIT_EXCEEDED", "MODEL_AT_CAPACITY", "MODEL_OFFLINE"),
        *("INFERENCE_FAILED", "REQUEST_TIMEOUT", "UNKNOWN_ERROR", "MODEL_OVERLOADED"),
        *("stream given again", "whole given again", "given again after a restart"),
        *("given again after its client left", "given again to who had waited"),
        *("given again in another spelling", "answered afresh a second time"),
        *("IDEMPOTENCY_KEY_REUSED", "IDEMPOTENT_ANSWER_NOT_KEPT"),
        *("refunded", "bundled credits spent"),
        *("INVALID_REQUEST", "AUTHENTICATION_FAILED", "MODEL_NOT_FOUND", "INVALID_CONTENT_TYPE"),
    }
    assert {name for name in expected if not met[name]} == set()


def _name_of_first(replay: Told) -> str:
    """Which request was first answered with what is given again: the id of a completion says it."""
    assert replay.id is not None, "every answer has an id"
    return replay.id.removeprefix("chatcmpl-")


def test_a_seed_is_one_history() -> None:
    """The same seed gives the same history, also in a process that hashes strings differently."""
    seeds = range(40, 60)
    digests = [simulate(seed).history.digest() for seed in seeds]
    assert digests == [simulate(seed).history.digest() for seed in seeds]
    elsewhere = subprocess.run(
        [sys.executable, "-m", "simulation", "--start", "40", "--seeds", "20", "--digests"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.split() == digests


def test_seeds_differ() -> None:
    """Different seeds are different histories."""
    assert len({simulate(seed).history.digest() for seed in range(50)}) == 50
