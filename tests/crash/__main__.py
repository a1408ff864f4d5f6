"""The long mode: `python -m crash --kills 1000 --start 100`, in `tests/`.

A seed is one set of books and `KILLS_PER_SEED` kills; seeds take turns in their policy of
overdrafts. One line of progress; a seed that fails is printed, and its books are kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from crash.killing import Outcome, run
from crash.seeded_bugs import BUGS

KILLS_PER_SEED = 10


def main() -> int:
    """Kill; the exit status is 1 if anything was ever wrong."""
    parser = argparse.ArgumentParser(prog="python -m crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many in all")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--bug", choices=[bug.__name__ for bug in BUGS], help="put a bug in")
    options = parser.parse_args()
    began, total = time.monotonic(), _Total()
    seed = options.start
    while total.kills < options.kills:
        folder = Path(tempfile.mkdtemp(prefix="crash-"))
        kills = min(KILLS_PER_SEED, options.kills - total.kills)
        outcome = run(seed, folder, kills, bug=options.bug)
        total.add(outcome)
        if outcome.violations:
            print(f"\n{outcome.report()}\n  the books are in {folder}")
            # Kills that a wrong snapshot has prevented are not made up for.
            total.kills += kills - outcome.kills
        else:
            shutil.rmtree(folder)
        seconds = time.monotonic() - began
        print(f"\r{total.line()}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        seed += 1
    print(file=sys.stderr)
    return 1 if total.violations else 0


class _Total:
    """What became of all seeds so far."""

    def __init__(self) -> None:
        self.kills = self.sent = self.complete = self.orphans = self.violations = 0
        self.slowest_start = 0.0

    def add(self, outcome: Outcome) -> None:
        self.kills += outcome.kills
        self.sent += len(outcome.log.sent)
        self.complete += outcome.complete
        self.orphans += outcome.orphans
        self.violations += len(outcome.violations)
        starts = (life.ready_seconds or 0.0 for life in outcome.log.lives)
        self.slowest_start = max(self.slowest_start, *starts)

    def line(self) -> str:
        return (
            f"{self.kills} kills, {self.sent} requests, {self.complete} complete answers, "
            f"{self.orphans} holds voided, {self.violations} violations, "
            f"slowest start {self.slowest_start:.2f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
