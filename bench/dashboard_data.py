"""The data for the benchmark of the dashboard: many jobs, a history of 30 days, and the statistics of it."""

from __future__ import annotations

import os
import random
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from jobdeck.core.schema import install_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

Connection = psycopg.Connection[Any]

DAYS = 30
CHANGE = """
    UPDATE job_queue SET attempts = (attempts + 1) %% 5, version = version + 1, updated_at = now()
    WHERE id IN (SELECT id FROM job_queue ORDER BY id DESC LIMIT 40 OFFSET %s)
"""
COME_AND_GO = """
    WITH gone AS (
        DELETE FROM job_queue WHERE id IN (SELECT id FROM job_queue ORDER BY id DESC LIMIT 3 OFFSET 30)
    )
    INSERT INTO job_queue (task_type, run_at, last_error)
    SELECT 'game_platform_sync', now() + interval '300 days', repeat('an error that differs ', 1 + n)
    FROM generate_series(1, 3) AS n
"""
_JOBS = """
    INSERT INTO job_queue (task_type, payload, status, run_at, created_at, updated_at, attempts, last_error,
        completed_at)
    SELECT (ARRAY['game_platform_sync', 'sms_digest_processor', 'admin_alert_dispatch'])[1 + n %% 7 %% 3],
        '{"dryRun": false}', (ARRAY['pending', 'failed', 'cancelled'])[1 + n %% 3],
        now() + interval '300 days', now() - interval '9 days', now() - interval '9 days', n %% 5,
        CASE n %% 3 WHEN 1 THEN 'TimeoutError: the vendor did not answer' END,
        CASE WHEN n %% 3 > 0 THEN now() - interval '9 days' END
    FROM generate_series(1, %s) AS n
"""
# Five task types, the ends evenly over one day. One run in 50 fails, in one of 200 groups of errors.
_RUNS = """
    INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, due_at, started_at, finished_at, outcome,
        removed, error_kind, error, fingerprint)
    SELECT nextval('job_run_token_seq'), gen_random_uuid(), (ARRAY['game_platform_sync', 'sms_digest_processor',
            'admin_alert_dispatch', 'sms_campaign_processor', 'onboard_competitors'])[1 + n %% 5],
        jsonb_build_object('coachId', 'c' || n / 5 %% 50, 'dryRun', false), 1,
        ended - interval '3 s', ended - n %% 29 * interval '0.1 s', ended,
        CASE WHEN fails THEN 'failed' ELSE 'succeeded' END, NOT fails,
        CASE WHEN fails THEN 'VendorError' END,
        CASE WHEN fails THEN 'the vendor refused ' || word END,
        CASE WHEN fails THEN job_error_fingerprint('VendorError', 'the vendor refused ' || word) END
    FROM generate_series(1, %(runs)s) AS n, LATERAL (
        SELECT now() - %(day)s * interval '1 day' - n * (interval '1 day' / %(runs)s) AS ended,
            n / 5 %% 50 = 0 AS fails,
            chr(97 + n / 250 %% 20) || chr(97 + n / 5000 %% 10) AS word
    ) AS run
"""
# The same rows as the report of a worker appends (job_queue_finish).
_STATISTICS = """
    INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs, permanent,
        first_at, last_at, bins)
    SELECT job_stat_bucket(1, finished_at), task_type, outcome, false, fingerprint, max(run_token), count(*),
        count(*) FILTER (WHERE outcome = 'failed'), min(finished_at), max(finished_at),
        array_agg(job_stat_bins(started_at - due_at, finished_at - started_at))
    FROM job_runs WHERE run_token > %s GROUP BY 1, 2, 3, 5
"""
_SECONDARY_INDEXES = """
    SELECT i.indexrelid::regclass::text FROM pg_index AS i
    WHERE i.indrelid = 'job_runs'::regclass AND NOT i.indisprimary
"""


@contextmanager
def filled(url: str, jobs: int, runs: int) -> Iterator[str]:
    """The address of a new database with that many jobs, none of them due, and that many runs in the last 30 days."""
    name = f"jobdeck_bench_{os.getpid()}_{jobs}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            address = psycopg.conninfo.make_conninfo(url, dbname=name)
            with psycopg.connect(address, autocommit=True) as conn:
                install_schema(conn)
                conn.execute(_JOBS, (jobs,))
                _add_history(conn, runs // DAYS)
                conn.execute("VACUUM (ANALYZE)")
                conn.execute("CHECKPOINT")
            yield address
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _add_history(conn: Connection, runs_a_day: int) -> None:
    # Without the indexes, which the schema makes again, a long history takes a third of the time.
    for (index,) in conn.execute(_SECONDARY_INDEXES).fetchall():
        conn.execute(f"DROP INDEX {index}")
    for day in reversed(range(DAYS)):
        row = conn.execute("SELECT last_value FROM job_run_token_seq").fetchone()
        assert row is not None
        conn.execute(_RUNS, {"runs": runs_a_day, "day": day})
        conn.execute(_STATISTICS, (row[0],))
        conn.execute("SELECT job_stats_compact(1000000)")
        if day % 10 == 0:
            print(f"  {runs_a_day * (DAYS - day):,} runs in the history", file=sys.stderr, flush=True)
    conn.execute("UPDATE job_queue_settings SET stats_since = now() - interval '31 days'")
    install_schema(conn, repair=True)


@contextmanager
def changing(url: str, pause: float) -> Iterator[None]:
    """Changes jobs on the first screen all the while."""
    stop, chance = threading.Event(), random.Random(7)

    def run() -> None:
        with psycopg.connect(url, autocommit=True) as conn:
            while not stop.wait(pause):
                conn.execute(CHANGE, (chance.randrange(100),))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
