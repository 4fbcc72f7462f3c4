"""What the pages of types, trends and series cost beside a crowd of jobs, runs and audit rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest

from jobdeck.core.model import Filter, RunOutcome, Status
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.batch import Query
from jobdeck.core.read.operators.reach import types_seen
from jobdeck.core.read.pages import jobs_and_runs, overview, series
from jobdeck.core.read.stats import backlog
from tests.support.plans import Size, cost_of, fill
from tests.support.queue import Connection

SIZE: Final = Size(due=30_000, tomorrow=3000, in_line=500, blocked=500, ended=6000, runs=30_000)
PAGES: Final[dict[str, tuple[Query[Any], int]]] = {
    # Jobs are counted up to 10,000, twice: all that are pending, and those that are due.
    "types": (overview.types(), 60_000),
    "trends": (backlog.trend_report(timedelta(days=30)), 2000),
    "series": (series.series(), 6000),
    # Among the first 1,000 jobs of each status, and the newest 10,000 runs; those of a type are looked through twice.
    "jobs of a type": (jobs_and_runs.of_type("alpha"), 40_000),
    "runs of a worker": (jobs_and_runs.of_worker("nobody"), 15_000),
}


def crowd(conn: Connection) -> None:
    """Many jobs, runs, series with a long history, audit rows, and 30 days of a counted backlog."""
    fill(conn, SIZE)
    conn.execute(
        """
        WITH made AS (
            INSERT INTO job_queue (task_type, run_at, is_recurring, recurrence_interval_minutes)
            SELECT 'series', now() + n * interval '1 s', true, 5 FROM generate_series(1, 300) AS n RETURNING id)
        INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at, outcome)
        SELECT nextval('job_run_token_seq'), id, 'series', '{}', 1, now(), now(), now(), 'succeeded'
        FROM made CROSS JOIN generate_series(1, 100)
        """
    )
    conn.execute(
        """
        INSERT INTO job_audit (actor, action, at)
        SELECT 'mara', CASE WHEN n % 1000 = 0 THEN 'pause' ELSE 'delete' END, now() - n * interval '30 s'
        FROM generate_series(1, 30000) AS n
        """
    )
    conn.execute(
        """
        INSERT INTO job_backlog (minutes, bucket, task_type, waiting, at_least)
        SELECT m, job_stat_bucket(m, now()) - n * m * interval '1 minute', t, n, false
        FROM unnest(array[5, 480]::smallint[]) AS m, generate_series(0, 500) AS n, unnest(array['', 'alpha']) AS t
        """
    )
    conn.execute("ANALYZE")


@pytest.fixture
def crowded(conn: Connection) -> Connection:
    crowd(conn)
    return conn


@pytest.mark.slow
def test_no_page_reads_a_large_table_and_each_reads_no_more_than_it_shows(crowded: Connection) -> None:
    for name, (query, most) in PAGES.items():
        cost = cost_of(crowded, query.run)
        assert cost.whole_tables == [], name
        assert cost.scans["job_audit"] == 0, name
        assert cost.rows < most, (name, cost.entries)


@pytest.mark.slow
def test_the_known_types_are_found_without_reading_the_queue(crowded: Connection) -> None:
    crowded.execute("INSERT INTO job_queue (task_type, status, completed_at) SELECT 'old', 'failed', now()")
    cost = cost_of(crowded, types_seen().run)
    assert cost.whole_tables == []
    assert cost.rows < 20_000, cost.entries
    assert types_seen().run(crowded) == ["alpha", "crowd", "later", "old", "series"]


@pytest.mark.slow
def test_who_paused_a_series_is_found_without_reading_the_audit(crowded: Connection) -> None:
    crowded.execute(
        """
        WITH paused AS (
            UPDATE job_queue SET blocked_by = id WHERE id IN (
                SELECT id FROM job_queue WHERE task_type = 'series' ORDER BY run_at LIMIT 100)
            RETURNING id)
        INSERT INTO job_audit (actor, action, job_id) SELECT 'mara', 'pause series', id FROM paused
        """
    )
    crowded.execute("INSERT INTO job_audit (actor, action) SELECT 'mara', 'delete' FROM generate_series(1, 30000)")
    cost = cost_of(crowded, series.series().run)
    assert cost.rows < 6500, cost.entries
    found = series.series().run(crowded).series
    assert [line.pause.by for line in found if line.pause is not None] == ["mara"] * 100


@pytest.mark.parametrize("status", [None, *Status])
def test_a_filter_is_part_of_its_statement_and_no_function_that_is_called_for_each_job(
    conn: Connection, status: Status | None
) -> None:
    for wanted in (
        Filter(status=status, task_type="alpha", error="gone", attempts_at_least=2, older_than=timedelta(hours=1)),
        Filter(status=status, fingerprint="0123456789ab", outcome=RunOutcome.FAILED),
        Filter(status=status, search="words", payload=("coachId", "x")),
    ):
        for statement, params in read_jobs.page(wanted).statements:
            plan = conn.execute(b"EXPLAIN " + statement.encode(), params).fetchall()
            assert "job_matches(" not in str(plan)
