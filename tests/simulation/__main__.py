"""Run many seeds, or with ``--seed 7`` one of them, with its trace.

``--mutations`` puts known defects back, one at a time, and names the seed that finds each.
"""

import argparse
import logging
import sys
import time

from tests.simulation.account import ViolationError
from tests.simulation.mutations import MUTATIONS, found
from tests.simulation.world import simulate


def main() -> int:
    """Return 1 when a seed violates an invariant."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="run this one and print its trace")
    parser.add_argument("--mutations", action="store_true", help="put known defects back instead")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if args.mutations:
        return _mutations()
    seeds = [args.seed] if args.seed is not None else range(args.first, args.first + args.seeds)
    started, failed = time.monotonic(), 0
    for number, seed in enumerate(seeds, 1):
        try:
            world = simulate(seed)
        except ViolationError as violation:
            failed += 1
            print(violation, end="\n\n")  # noqa: T201
        else:
            if args.seed is not None:
                print(world.plan, *world.trace, sep="\n")  # noqa: T201
        if number % 500 == 0:
            print(f"{number} seeds, {failed} failed", file=sys.stderr)  # noqa: T201
    print(f"{len(seeds)} seeds, {failed} failed, {time.monotonic() - started:.0f} s")  # noqa: T201
    return 1 if failed else 0


def _mutations() -> int:
    missed = 0
    for name in MUTATIONS:
        violation = found(name)
        missed += violation is None
        first = "NOT FOUND" if violation is None else str(violation).splitlines()[0]
        print(f"{name}: {first}", flush=True)  # noqa: T201
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
