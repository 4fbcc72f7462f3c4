"""The backlog over time: counted once a minute by upkeep, kept by 5 minutes and by hour."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.queue import operator
from tests.support.queue import ACTOR, Connection

HOUR = timedelta(hours=1)
MANY = 10_000


def kept(conn: Connection, minutes: int = 5) -> dict[str, tuple[int, bool]]:
    """The newest bucket."""
    found = conn.rows(
        """
        SELECT DISTINCT ON (task_type) task_type, waiting, at_least FROM job_backlog WHERE minutes = %s
        ORDER BY task_type, bucket DESC
        """,
        minutes,
    )
    return {row["task_type"]: (row["waiting"], row["at_least"]) for row in found}


def crowd(conn: Connection, number: int, *, task_type: str = "alpha") -> None:
    conn.execute(
        """
        INSERT INTO job_queue (task_type, run_at)
        SELECT %s, now() - interval '1 minute' FROM generate_series(1, %s)
        """,
        (task_type, number),
    )


def test_what_waits_is_what_is_due_and_free_also_of_paused_types(conn: Connection) -> None:
    at = conn.now()
    conn.add("alpha")
    conn.add("alpha", priority=9)
    conn.add("alpha", run_at=at + HOUR)
    blocker = conn.add("beta", concurrency_key="k")
    conn.add("beta", concurrency_key="k")
    conn.add("beta", blocked_by=blocker.id)
    conn.add("gamma")
    conn.claim_one(["gamma"])
    operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    conn.execute("SELECT job_backlog_sample()")
    assert kept(conn) == {"": (3, False), "alpha": (2, False), "beta": (1, False)}


@pytest.mark.slow
def test_where_there_are_more_jobs_than_are_counted_the_numbers_say_so(conn: Connection) -> None:
    crowd(conn, 2 * MANY)
    crowd(conn, 20, task_type="beta")
    conn.execute("SELECT job_backlog_sample()")
    assert kept(conn) == {"": (MANY + 21, True), "alpha": (MANY + 1, True), "beta": (20, False)}


def test_one_worker_counts_each_minute_and_the_most_of_a_bucket_is_kept(conn: Connection) -> None:
    crowd(conn, 3)
    crowd(conn, 2, task_type="beta")
    conn.reap()
    assert kept(conn) == {}, "a minute has not passed"
    conn.execute("UPDATE job_upkeep SET succeeded_at = now() - interval '2 minutes' WHERE part = 'backlog'")
    conn.reap()
    assert kept(conn) == kept(conn, 15) == kept(conn, 480) == {"": (5, False), "alpha": (3, False), "beta": (2, False)}
    conn.execute("DELETE FROM job_queue WHERE task_type = 'alpha'")
    conn.execute("SELECT job_backlog_sample()")
    assert kept(conn, 480)["alpha"] == (3, False)
    conn.advance(timedelta(hours=9))
    conn.execute("SELECT job_backlog_sample()")
    assert (
        conn.value("SELECT waiting FROM job_backlog WHERE minutes = 5 AND task_type = '' ORDER BY bucket DESC LIMIT 1")
        == 2
    )


def test_a_moment_without_a_backlog_is_kept_as_well(conn: Connection) -> None:
    assert conn.value("SELECT job_backlog_sample()") == 0
    assert kept(conn) == {"": (0, False)}
