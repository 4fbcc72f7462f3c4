"""Counts what each operation costs on a queue of any size, beside one of 10,000 jobs; nothing is timed.

    .venv/bin/python -m tests.plans --rows 50000000 [--only WORDS]

The queue is on a server of its own on the disk. It is never analyzed at first, then analyzed, then it seems to have
been analyzed while it was empty. The exit code is 1 if an operation costs too much.
"""

from __future__ import annotations

import argparse
import sys
import time

from jobdeck.core.schema import install_schema
from tests.plans.operations import Connection, cost, problems
from tests.plans.queues import OPERATIONS, SMALL, STATES, is_judged, size_of
from tests.support.plans import Cost, fill, set_to_work
from tests.support.postgres import PostgresServer


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def costs_of(conn: Connection, jobs: int, names: list[str]) -> dict[tuple[str, str], Cost]:
    """What each operation costs in each state of the statistics, by state and name."""
    install_schema(conn)
    fill(conn, size_of(jobs))
    set_to_work(conn)
    found = {}
    for state, statement in STATES.items():
        if state:
            conn.execute(statement.encode())
        say(f"{time.strftime('%H:%M:%S')} {jobs:,} jobs{state}")
        for name in names:
            if is_judged(OPERATIONS[name], f"jobs{state}"):
                found[state, name] = cost(conn, OPERATIONS[name])
        conn.execute("VACUUM job_queue")  # of what the operations wrote and took back
    return found


def main() -> int:
    """Prints a line for each operation that costs too much, and how many do not."""
    parser = argparse.ArgumentParser(prog="python -m tests.plans", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="words of the operations' names")
    wanted = parser.parse_args()
    names = [name for name in OPERATIONS if wanted.only in name]
    server = PostgresServer.start_new(on_disk=True)
    try:
        with server.connect(server.create_database()) as few, server.connect(server.create_database()) as many:
            small, big = costs_of(few, SMALL, names), costs_of(many, wanted.rows, names)
    finally:
        server.destroy()
    bad = 0
    for (state, name), found in big.items():
        operation, least = OPERATIONS[name], small[state, name].blocks.total()
        told = list(problems(f"{wanted.rows:,} jobs{state}", found, operation, big=True))
        if found.blocks.total() > operation.growth * least + 200:
            told.append(f"{found.blocks.total()} blocks, {least} with {SMALL:,} jobs{state}")
        for problem in told:
            say(f"{name}: {problem}")
        bad += bool(told)
    say(f"{len(big) - bad} of {len(big)} costs are as low as they should be.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
