"""Counts what each operation costs on a queue of any size, beside one of 10,000 jobs; nothing is timed.

    .venv/bin/python -m tests.plans --rows 50000000 [--only WORDS]

The queue is on a server of its own on the disk. It is never analyzed at first, then analyzed, then it seems to have
been analyzed while it was empty. The exit code is 1 if an operation costs too much, or takes more than two minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from jobdeck.core.schema import install_schema
from tests.plans.operations import cost, problems
from tests.plans.queues import OPERATIONS, SMALL, STATES, is_judged, size_of
from tests.support.plans import Cost, fill, set_to_work
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

GIVE_UP_AFTER: Final = 120
"""The seconds after which a statement is given up."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def costs_of(conn: Connection, jobs: int, names: list[str]) -> Iterator[tuple[str, str, Cost | None]]:
    """In each state of the statistics, what each operation costs; None if it was given up."""
    install_schema(conn)
    fill(conn, size_of(jobs))
    set_to_work(conn)
    conn.execute(f"SET statement_timeout = '{GIVE_UP_AFTER}s'".encode())
    for state, statement in STATES.items():
        if state:
            with without_limit(conn):
                conn.execute(statement.encode())
        say(f"{time.strftime('%H:%M:%S')} {jobs:,} jobs{state}")
        for name in names:
            if is_judged(OPERATIONS[name], f"jobs{state}"):
                try:
                    yield state, name, cost(conn, OPERATIONS[name])
                except psycopg.errors.QueryCanceled:
                    yield state, name, None
        with without_limit(conn):
            conn.execute("VACUUM job_queue")  # of what the operations wrote and took back


@contextmanager
def without_limit(conn: Connection) -> Iterator[None]:
    """Statements of this block may take as long as they need."""
    conn.execute("SET statement_timeout = 0")
    yield
    conn.execute(f"SET statement_timeout = '{GIVE_UP_AFTER}s'".encode())


def judged(what: str, name: str, found: Cost | None, small: Cost | None) -> Iterator[str]:
    """What is wrong with the cost of an operation on a big queue, beside the one on a small queue."""
    operation = OPERATIONS[name]
    if found is None:
        yield f"{what}: given up after {GIVE_UP_AFTER} seconds"
        return
    yield from problems(what, found, operation, big=True)
    if small is not None and found.blocks.total() > operation.growth * small.blocks.total() + 200:
        yield f"{what}: {found.blocks.total()} blocks, {small.blocks.total()} with {SMALL:,}"


def main() -> int:
    """Prints a line for each problem as soon as it is found, and how many operations have none."""
    parser = argparse.ArgumentParser(prog="python -m tests.plans", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="words of the operations' names")
    wanted = parser.parse_args()
    names = [name for name in OPERATIONS if wanted.only in name]
    server = PostgresServer.start_new(on_disk=True)
    tried = bad = 0
    try:
        with server.connect(server.create_database()) as few, server.connect(server.create_database()) as many:
            small = {(state, name): found for state, name, found in costs_of(few, SMALL, names)}
            for state, name, found in costs_of(many, wanted.rows, names):
                told = list(judged(f"{wanted.rows:,} jobs{state}", name, found, small[state, name]))
                for problem in told:
                    say(f"{name}: {problem}")
                tried, bad = tried + 1, bad + bool(told)
    finally:
        server.destroy()
    say(f"{tried - bad} of {tried} costs are as low as they should be.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
