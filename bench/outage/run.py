"""Works the incident, or measures the time from the threshold to each sign."""

from __future__ import annotations

import argparse
import signal
import sys

from bench.outage import scenes
from bench.outage.world import World
from bench.scripted.checks import Checks, judged

JOBS = 200_000


def incident(jobs: int) -> int:
    """The incident; returns the number of comparisons that did not hold."""
    from bench.outage.story import Story  # noqa: PLC0415 -- reads the environment that the world sets

    def tell(checks: Checks) -> None:
        with World() as world:
            Story(world, checks, jobs).tell()
        scenes.tell(checks)

    return judged(tell)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/incident", description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"jobs of the day (default {JOBS}), at least 60000")
    parser.add_argument("--scenes", action="store_true", help="only the incidents of one cause each")
    parser.add_argument("--measure", action="store_true", help="measure the signs in real time instead")
    parser.add_argument("--rounds", type=int, default=1, help="how often it is measured")
    arguments = parser.parse_args()
    if arguments.jobs < 60_000:
        parser.error("--jobs must be at least 60000, so that enough jobs fail")
    return arguments


def main() -> int:
    """The command line; returns the exit code."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.measure:
        from bench.outage.measure import measure  # noqa: PLC0415 -- as above

        return measure(arguments.rounds)
    if arguments.scenes:
        return int(judged(scenes.tell) > 0)
    return int(incident(arguments.jobs) > 0)


if __name__ == "__main__":
    sys.exit(main())
