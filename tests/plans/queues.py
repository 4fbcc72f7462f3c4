"""Queues of all sizes, with all that the planner may know or believe of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from jobdeck.core.schema import install_schema
from tests.plans.operations import Operation, cost, problems
from tests.plans.reads import READS
from tests.plans.writes import WRITES
from tests.support.plans import Size, fill, set_to_work
from tests.support.postgres import PostgresServer
from tests.support.queue import Connection

OPERATIONS: Final = WRITES | READS
SMALL: Final = 10_000
BIG: Final = 1_000_000
# ANALYZE of a queue just drained keeps the pages and the old statistics of columns, and says that there are no rows.
REFILLED: Final = ", refilled"
_REFILLED: Final = """
UPDATE pg_class SET reltuples = 0
WHERE oid = 'job_queue'::regclass OR oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'job_queue'::regclass)
"""
STATES: Final[Mapping[str, str]] = {"": "", ", analyzed": "ANALYZE", REFILLED: _REFILLED}
"""What brings a queue that was never analyzed into each state of its statistics, one after the other."""


def size_of(jobs: int) -> Size:
    """This number of pending jobs, and some that have ended or left."""
    most, few = jobs * 9 // 20, jobs // 20
    runs = min(jobs // 4, 5_000_000)  # with more at once, the newest partition of the history could not be divided
    return Size(due=most, tomorrow=most, in_line=few, blocked=few, ended=jobs // 8, runs=runs)


def make_queues(server: PostgresServer, *numbers: int) -> dict[str, str]:
    """The databases, by what they are: an empty one, one just emptied, one in each state with each number of jobs."""
    names = {"empty": server.create_database()}
    with server.connect(names["empty"]) as conn:
        install_schema(conn)
    for jobs in numbers:
        before = names["empty"]
        for state, statement in STATES.items():
            what = f"{jobs:,} jobs{state}"
            names[what] = server.create_database(template=before)
            with server.connect(names[what]) as conn:
                if state:
                    conn.execute(statement.encode())
                else:
                    fill(conn, size_of(jobs))
                    set_to_work(conn)
            before = names[what]
    names["emptied"] = server.create_database(template=names[f"{SMALL:,} jobs, analyzed"])
    with server.connect(names["emptied"]) as conn:
        conn.execute("DELETE FROM job_queue")
        conn.execute("DELETE FROM job_runs")
        conn.execute("VACUUM job_queue, job_runs")
    return names


def is_judged(operation: Operation, what: str) -> bool:
    """Whether what an operation costs on this queue is judged.

    A read is planned for what the planner believes of the queue, and autovacuum tells it better within minutes.
    """
    if what.endswith(REFILLED):
        return not operation.reads
    return not (operation.sorts and what.endswith("jobs"))


def judge(operation: Operation, queues: Mapping[str, Connection], *, big: int | None = None) -> list[str]:
    """What is wrong with the costs of an operation on these queues, of which some have a `big` number of jobs."""
    costs = {what: cost(conn, operation) for what, conn in queues.items() if is_judged(operation, what)}
    found = [
        problem
        for what, one in costs.items()
        for problem in problems(what, one, operation, big=big is not None and what.startswith(f"{big:,}"))
    ]
    if big is not None:
        for state in STATES:
            if f"{big:,} jobs{state}" not in costs:
                continue
            few, many = (costs[f"{jobs:,} jobs{state}"].blocks.total() for jobs in (SMALL, big))
            if many > operation.growth * few + 200:
                found.append(f"{many} blocks with {big:,} jobs{state}, {few} with {SMALL:,}")
    return found
