"""`python -m tests.soak`: ten minutes of random faults, several jobs, two workers; then the check."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import history
from tests.soak.clients import Clients
from tests.soak.faults import Faults
from tests.soak.stack import Stack, running


def main() -> int:
    """0: all of I1 to I5 hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="repeats the choice of faults, not their effects")
    options = parser.parse_args()
    seed = time.time_ns() % 10**6 if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="sparsevit-soak-"))
    print(f"seed {seed}, {options.minutes:g} minutes, logs in {folder / 'logs'}", flush=True)
    with running(folder) as stack:
        faults, clients = Faults(stack, random.Random(seed)), Clients(stack, random.Random(seed))
        clients.start()
        try:
            faults.run(60 * options.minutes)
        finally:
            faults.stop()
            clients.stop()
        return conclude(stack, faults, clients)


def conclude(stack: Stack, faults: Faults, clients: Clients) -> int:
    """Wait for the jobs' ends, look through everything, and print it."""
    ended = history.settle(stack.engine)
    found = history.check(stack, clients)
    found.expect(ended, "I1: some jobs never end")
    found.wrong += faults.deaths
    for name, count in sorted(faults.counts.items()):
        print(f"{count:5d}  {name}")
    jobs = ", ".join(f"{count} {name}" for name, count in sorted(found.statuses.items()))
    attempts = ", ".join(f"{count} {name}" for name, count in sorted(found.attempts.items()))
    print(f"faults injected {sum(faults.counts.values())}; requests unanswered {clients.away}")
    print(f"jobs {len(clients.records)}: {jobs}; {found.compared} compared with undisturbed runs")
    print(f"attempts at units: {attempts}")
    print(f"lost {found.lost}, duplicated {found.duplicated}, violations {len(found.wrong)}")
    for line in found.wrong:
        print(f"WRONG {line}")
    return 1 if found.wrong or not clients.records else 0


if __name__ == "__main__":
    sys.exit(main())
