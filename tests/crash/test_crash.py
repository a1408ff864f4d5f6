"""A gateway that is killed again and again, under load, on one set of books.

`python -m crash --kills 1000` (in `tests/`) goes on where these seeds end.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from crash.history import End, Sent
from crash.killing import Outcome, run
from crash.seeded_bugs import BUGS, Bug

KILLS = 10
BUG_SEED = 1
BUG_KILLS_MAX = 20
"""Most bugs show at the first kill, all within a few; more only in a run of bad luck."""


@pytest.mark.parametrize("seed", [0, 1], ids=["overdraft-last", "overdraft-never"])
def test_no_kill_costs_anybody_anything(seed: int, tmp_path: Path) -> None:
    """What clients were told is in the books, once, and nothing else is, whenever the kill comes."""
    outcome = run(seed, tmp_path, KILLS)
    assert not outcome.violations, outcome.report()
    assert outcome.kills == KILLS
    missed = {what for what, count in accidents(outcome).items() if not count}
    assert not missed, "what never happens is not tested"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_does_not_escape(bug: Bug, tmp_path: Path) -> None:
    """Each bug that is put in shows within a few kills; else the kills above prove nothing."""
    outcome = run(BUG_SEED, tmp_path, BUG_KILLS_MAX, bug=bug.__name__)
    seen = "\n".join(outcome.violations)
    assert any(words in seen for words in BUGS[bug]), outcome.report()


def accidents(outcome: Outcome) -> Counter[str]:
    """How often it came to what a crash harness has to meet."""
    met = Counter(
        {
            "a hold that a kill left behind": outcome.orphans,
            "a whole answer complete": 0,
            "a stream complete": 0,
            "a whole answer cut": 0,
            "a stream cut before its head": 0,
            "a stream cut in its midst": 0,
            "a whole answer left": 0,
            "a stream left in its midst": 0,
            "a refusal": 0,
            "a limit reached": 0,
            "a repetition of a complete answer": 0,
            "a repetition of a cut request that had been charged": 0,
            "a repetition of a cut request that had not": 0,
        }
    )
    first: dict[str, Sent] = {}
    for sent in outcome.log.sent:
        if (key := sent.request.idempotency_key) is None:
            continue
        before = first.setdefault(key, sent)
        if sent is not before and sent.end is End.COMPLETE:
            if before.end is End.COMPLETE:
                met["a repetition of a complete answer"] += 1
            elif sent.replayed:
                met["a repetition of a cut request that had been charged"] += 1
            else:
                met["a repetition of a cut request that had not"] += 1
    for sent in outcome.log.sent:
        kind = "a stream" if sent.request.stream else "a whole answer"
        if sent.end is End.COMPLETE:
            met[f"{kind} complete"] += 1
        elif sent.end is End.REFUSED:
            met["a refusal"] += 1
            met["a limit reached"] += sent.request.key.limit_usd is not None
        elif not sent.request.stream:
            met[f"{kind} {sent.end.name.lower()}"] += 1
        elif sent.output:
            met[f"{kind} {sent.end.name.lower()} in its midst"] += 1
        elif not sent.request_id:
            met[f"{kind} {sent.end.name.lower()} before its head"] += 1
    return met
