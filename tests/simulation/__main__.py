"""The long mode: `python -m simulation --seeds 100000 --start 2500`, in `tests/`.

One line of progress; a seed that fails is printed with everything that happened in it.
"""

from __future__ import annotations

import argparse
import sys
import time

from simulation.seeded_bugs import BUGS
from simulation.world import simulate

PROGRESS_SECONDS = 1.0
REPORTS_MAX = 3


def main() -> int:
    """Run seeds; the exit status is 1 if any of them fails."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--trace", action="store_true", help="print what happens in every seed")
    parser.add_argument("--digests", action="store_true", help="print the digest of every history")
    parser.add_argument("--bug", choices=[bug.__name__ for bug in BUGS], help="put a bug in")
    options = parser.parse_args()
    bug = next((bug for bug in BUGS if bug.__name__ == options.bug), None)
    if bug is None:
        return _run(options)
    with bug():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    began = shown = time.monotonic()
    failed: list[int] = []
    for count in range(1, options.seeds + 1):
        outcome = simulate(options.start + count - 1)
        if options.digests:
            print(outcome.history.digest())
        if outcome.violations:
            failed.append(outcome.seed)
        if options.trace or (outcome.violations and len(failed) <= REPORTS_MAX):
            print(f"\n{outcome.report()}")
        now = time.monotonic()
        if now - shown > PROGRESS_SECONDS or count == options.seeds:
            shown = now
            rate = count / (now - began)
            line = f"{count} seeds, {rate:.0f} a second, {len(failed)} failed"
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if failed:
        print(f"failed: {' '.join(map(str, failed[:50]))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
