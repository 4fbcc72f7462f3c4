"""Does the cut-over from the original application by script, and judges it."""

from __future__ import annotations

import argparse
import signal
import sys

from bench.scripted.checks import Checks, judged
from bench.takeover.story import Story
from bench.takeover.world import World


def cutover(checks: Checks) -> None:
    """The cut-over."""
    with World() as world:
        try:
            Story(world, checks).tell()
        except BaseException:
            for trouble in world.runners.troubles:
                checks.holds("the runner works", False, trouble, "no error")
            raise


def main() -> int:
    """The command line; returns the exit code."""
    argparse.ArgumentParser(prog="bench/cutover", description=__doc__).parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(judged(cutover) > 0)


if __name__ == "__main__":
    sys.exit(main())
