"""Does the cut-over from the original application by script, and judges it."""

from __future__ import annotations

import argparse
import signal
import sys
import time

import psycopg

from bench.outage.checks import Checks
from bench.takeover.story import Story
from bench.takeover.world import World


def cutover() -> int:
    """The cut-over; returns the number of comparisons that did not hold."""
    began = time.monotonic()
    checks = Checks()
    with World() as world:
        try:
            Story(world, checks).tell()
        except (TimeoutError, RuntimeError, LookupError, ValueError, psycopg.Error) as error:
            checks.holds("every step is carried out", False, repr(error), "no error")
            for trouble in world.runners.troubles:
                checks.holds("the runner works", False, trouble, "no error")
    print(f"\n{checks.made} comparisons, {len(checks.failed)} did not hold, {time.monotonic() - began:.0f} s")
    for line in checks.failed:
        print(f"  FAIL {line}")
    return len(checks.failed)


def main() -> int:
    """The command line; returns the exit code."""
    argparse.ArgumentParser(prog="bench/cutover", description=__doc__).parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(cutover() > 0)


if __name__ == "__main__":
    sys.exit(main())
