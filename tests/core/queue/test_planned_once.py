"""What a session plans once: the statements inside the functions of enqueue, claim and report.

A function in SQL that the planner cannot inline plans its statements at each call, which takes longer than they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer
from tests.support.queue import ACTOR, Connection, report

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

WARM = 12
"""A plan for all parameters is made after five calls with plans of their own, in each function by itself."""


def a_round(conn: Connection, job: NewJob, outcome: str) -> None:
    """Enqueues a job with another one of its key behind it, if it has one; claims it and reports its run."""
    for _ in range(1 if job.concurrency_key is None else 2):
        producer.enqueue(conn, job, actor=ACTOR)
    taken = conn.claim(limit=1)
    conn.finish(*(report(each, outcome) for each in taken))


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
@pytest.mark.parametrize("key", [None, "one"])
def test_no_statement_is_planned_again(conn: Connection, key: str | None, outcome: str) -> None:
    job = NewJob("alpha", {}, concurrency_key=key)
    for _ in range(WARM):
        a_round(conn, job, outcome)
    planned: list[str] = []

    def note(notice: Diagnostic) -> None:
        planned.append(f"{notice.message_primary}: {notice.context}")

    conn.add_notice_handler(note)
    conn.execute("SET client_min_messages = log")
    conn.execute("SET log_planner_stats = on")
    planned.clear()
    a_round(conn, job, outcome)
    assert [place for place in planned if "job_" in place] == []
