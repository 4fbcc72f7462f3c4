"""The minutes of the plot: what ended, what waited, and the marks."""

from __future__ import annotations

from datetime import timedelta

from jobdeck.core.queue import operator
from jobdeck.core.read import standings
from jobdeck.core.read.stats.minutes import last_minutes
from tests.support.queue import ACTOR, Connection

MINUTE = timedelta(minutes=1)


def test_each_full_minute_has_its_successes_and_failures_and_the_present_one_is_left_out(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("UPDATE job_queue_settings SET stats_since = now() - interval '1 day'")
        conn.execute(
            """
            INSERT INTO job_stats (minutes, bucket, task_type, outcome, dry_run, runs, permanent, first_at, last_at)
            SELECT 1, at, type, counted.outcome, counted.dry_run, counted.runs, 0, at, at
            FROM generate_series(0, 20) AS n, unnest(ARRAY['a', 'b']) AS type,
                LATERAL (SELECT date_trunc('minute', now()) - n * interval '1 minute' AS at) AS minute,
                LATERAL (VALUES ('succeeded', false, n), ('partial', false, 1), ('retried', false, 2),
                    ('released', false, 100), ('failed', true, 100)) AS counted (outcome, dry_run, runs)
            """
        )
        found = last_minutes(15).run(conn)
    assert found.succeeded == tuple(2 * (n + 1) for n in range(15, 0, -1))
    assert found.failed == (4,) * 15


def test_minutes_before_the_queue_counted_are_none(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("UPDATE job_queue_settings SET stats_since = date_trunc('minute', now()) - interval '3 minutes'")
        found = last_minutes(5).run(conn)
    assert found.succeeded == (None, None, 0, 0, 0)
    assert found.failed == (None, None, 0, 0, 0)


def test_the_backlog_of_five_minutes_is_that_of_each_of_them(conn: Connection) -> None:
    with conn.transaction():
        conn.execute(
            "INSERT INTO job_backlog (minutes, bucket, task_type, waiting, at_least) "
            "VALUES (5, job_stat_bucket(5, now() - interval '10 minutes'), '', 38, false)"
        )
        found = last_minutes(20).run(conn)
    assert found.waiting.count(38) == 5
    assert set(found.waiting) == {38, None}


def test_pauses_are_marks(conn: Connection) -> None:
    operator.pause(conn, reason=None, actor=ACTOR, task_type="sms_digest")
    (mark,) = last_minutes(60).run(conn).marks
    assert (mark.kind, mark.name) == ("pause", "sms_digest")


def test_the_next_due_series_is_the_first_one_that_is_not_paused(conn: Connection) -> None:
    assert standings.next_due().run(conn) is None
    at = conn.now() + 10 * MINUTE
    conn.add(run_at=at - 8 * MINUTE)
    conn.add(task_type="first_series", run_at=at - 5 * MINUTE, recurrence_interval_minutes=60)
    conn.add(task_type="second_series", run_at=at, recurrence_interval_minutes=60)
    assert standings.next_due().run(conn) == ("first_series", at - 5 * MINUTE)
    operator.pause(conn, reason=None, actor=ACTOR, task_type="first_series")
    assert standings.next_due().run(conn) == ("second_series", at)
