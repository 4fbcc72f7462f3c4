"""What will start when a pause ends: how many jobs and catch-up runs, how long a rate takes, how many at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from jobdeck.core.queue import operator
from jobdeck.core.read.pages.outlook import outlook
from tests.support.health import announce
from tests.support.queue import ACTOR, Connection, add, now

HOUR = timedelta(hours=1)


def words(conn: Connection, *types: str) -> str:
    return outlook(types or None).run(conn).words


def limit(conn: Connection, **changes: Any) -> None:
    operator.set_type(conn, "alpha", changes=changes, actor=ACTOR, reason=None)


def test_without_due_jobs_nothing_starts(conn: Connection) -> None:
    add(conn, run_at=now(conn) + HOUR)
    assert words(conn) == "No job is due."


def test_the_jobs_the_rate_and_the_slots_are_named(conn: Connection) -> None:
    announce(conn, concurrency=8)
    limit(conn, rate_runs=60, rate_seconds=60, max_running=5)
    conn.execute("INSERT INTO job_queue (task_type) SELECT 'alpha' FROM generate_series(1, 1204)")
    assert words(conn, "alpha") == "1,204 jobs start, about 20 minutes at the limit of 60/m, at most 5 at once."
    limit(conn, rate_runs=None, rate_seconds=None, max_running=None)
    assert words(conn, "alpha") == "1,204 jobs start, at most 8 at once."


def test_types_of_one_kind_share_its_slots_and_few_jobs_are_no_more_at_once(conn: Connection) -> None:
    announce(conn, types=["alpha", "beta"], concurrency=8)
    for name in ("alpha", "alpha", "beta"):
        add(conn, name)
    assert words(conn) == "3 jobs start, at most 3 at once."
    for name in ("alpha", "beta"):
        conn.execute("INSERT INTO job_queue (task_type) SELECT %s FROM generate_series(1, 20)", [name])
    assert words(conn) == "43 jobs start, at most 8 at once."
    assert words(conn, "beta") == "21 jobs start, at most 8 at once."


def test_a_series_that_makes_up_for_its_slots_has_its_catch_up_runs_counted(conn: Connection) -> None:
    announce(conn)
    late = now(conn) - 13.5 * HOUR
    add(conn, dedupe_key="a", run_at=late, schedule={"seconds": 3600, "catch_up": "all"})
    add(conn, "beta", recurrence_interval_minutes=60, run_at=late)
    assert words(conn, "alpha") == "1 job starts, 13 catch-up runs of alpha, at most 1 at once."
    assert words(conn, "beta") == "1 job starts, no worker handles them."


def test_everything_leaves_out_types_that_stay_paused(conn: Connection) -> None:
    announce(conn)
    add(conn)
    operator.pause(conn, reason=None, actor=ACTOR, task_type="alpha")
    assert words(conn) == "No job is due."
    assert words(conn, "alpha") == "1 job starts, at most 1 at once."
