"""A healthy week before the incident, and the 200,000 jobs of the day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobdeck.core.model import NewJob
from jobdeck.core.queue import producer

if TYPE_CHECKING:
    import psycopg

TYPE = "webhook_push"
PARTS = {TYPE: 6, "order_mail": 5, "report_row": 4, "stock_sync": 3, "image_resize": 2}
"""The types, and how many of each 20 jobs they have."""
ROUND = sum(PARTS.values())
PART = 5000
LAST_ATTEMPT = 7
"""Each seventh job has one attempt, so that it fails permanently."""

# One run of each type every five minutes, from a week until two hours ago. One in 50 failed.
_RUNS = """
INSERT INTO job_runs (run_token, job_id, task_type, payload, attempt, worker_id, due_at, started_at, finished_at,
    outcome, removed, error_kind, error, fingerprint)
SELECT nextval('job_run_token_seq'), gen_random_uuid(), t.name, '{}', 1, 'worker of last week',
    r.ended - interval '2 s', r.ended - interval '1 s', r.ended,
    CASE WHEN r.fails THEN 'failed' ELSE 'succeeded' END, NOT r.fails,
    CASE WHEN r.fails THEN 'ConnectionError' END, CASE WHEN r.fails THEN 'the line was cut' END,
    CASE WHEN r.fails THEN job_error_fingerprint('ConnectionError', 'the line was cut') END
FROM unnest(%s::text[]) AS t (name)
CROSS JOIN LATERAL (
    SELECT now() - n * interval '5 minutes', n %% 50 = 0 FROM generate_series(24, 7 * 24 * 12 - 24) AS n
) AS r (ended, fails)
"""
# As a worker's report adds them (job_queue_finish).
_STATISTICS = """
INSERT INTO job_stat_delta (minute, task_type, outcome, dry_run, fingerprint, sample_token, runs, permanent, first_at,
    last_at, bins)
SELECT job_stat_bucket(1, finished_at), task_type, outcome, false, fingerprint, max(run_token), count(*),
    count(*) FILTER (WHERE outcome = 'failed'), min(finished_at), max(finished_at),
    array_agg(job_stat_bins(started_at - due_at, finished_at - started_at))
FROM job_runs GROUP BY 1, 2, 3, 5
"""


def add_week(conn: psycopg.Connection[Any]) -> None:
    """Adds the runs of the week and their statistics, which upkeep then adds up."""
    conn.execute(_RUNS, [list(PARTS)])
    conn.execute(_STATISTICS)
    conn.execute("SELECT job_stats_compact(1000000)")
    conn.execute("UPDATE job_queue_settings SET stats_since = now() - interval '8 days'")
    conn.execute("VACUUM ANALYZE")


def add_jobs(conn: psycopg.Connection[Any], first: int, last: int) -> int:
    """Enqueues the jobs from `first` to below `last`, the types mixed in one order. Returns their number."""
    made = [_job(number) for number in range(first, last)]
    for at in range(0, len(made), PART):
        producer.enqueue_many(conn, made[at : at + PART], actor="incident")
    return len(made)


def _job(number: int) -> NewJob:
    round_, place = divmod(number, ROUND)
    for name, part in PARTS.items():
        if place < part:
            within = round_ * part + place
            return NewJob(name, {"number": within}, max_attempts=1 if within % LAST_ATTEMPT == 0 else 5)
        place -= part
    raise ValueError(f"job {number} has no type")
