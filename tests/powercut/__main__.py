"""The long mode: `python -m powercut --cuts 2000 --start 10000`, in `tests/`.

One line of progress. A cut that fails is printed with its number, and its number is all that it
takes to have the same cut again: `--start NUMBER --cuts 1`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter

from powercut.runs import outcomes
from powercut.seeded_bugs import BUGS

PROGRESS_SECONDS = 1.0
REPORTS_MAX = 3


def main() -> int:
    """Cut power; the exit status is 1 if anything is wrong after any of the cuts."""
    parser = argparse.ArgumentParser(prog="python -m powercut", description=__doc__)
    parser.add_argument("--cuts", type=int, default=10_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the number of the first")
    parser.add_argument("--trace", action="store_true", help="print what became of every cut")
    parser.add_argument("--bug", choices=[bug.__name__ for bug in BUGS], help="put a bug in")
    options = parser.parse_args()
    bug = next((bug for bug in BUGS if bug.__name__ == options.bug), contextlib.nullcontext)
    with bug():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    began = shown = time.monotonic()
    again = "" if options.bug is None else f" --bug {options.bug}"
    harms: Counter[str] = Counter()
    failed = lost_max = 0
    for count, outcome in enumerate(outcomes(options.start, options.cuts), 1):
        verdict = outcome.verdict
        failed += bool(verdict.harms)
        harms.update(harm.value for harm in verdict.kinds)
        if verdict.found is not None:
            lost_max = max(lost_max, verdict.acknowledged - verdict.found)
        if options.trace or (verdict.harms and failed <= REPORTS_MAX):
            print(outcome.report())
            print(f"  again: python -m powercut --start {outcome.number} --cuts 1{again}")
        now = time.monotonic()
        if now - shown > PROGRESS_SECONDS or count == options.cuts:
            shown = now
            line = f"{count} cuts, {count / (now - began):.0f} a second, {failed} failed"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for harm, times in harms.most_common():
        print(f"{harm}: after {times} cuts")
    if lost_max > 0:
        print(f"most commits lost in one cut: {lost_max}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
