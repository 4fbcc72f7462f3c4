"""Whatever workers report and upkeep does, the statistics of runs are those of the history."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core.model import ClaimedJob, NewJob
from jobdeck.core.queue import producer
from jobdeck.core.read.stats import figures
from tests.support.examples import examples
from tests.support.queue import ACTOR, Connection, report
from tests.support.queue_model import install_clock

TYPES: Final = ("alpha", "beta")
OUTCOMES: Final = ("succeeded", "succeeded", "partial", "continued", "failed", "failed", "released", "cancelled")
ERRORS: Final = ("no route to host 10", "order 17 is gone", None)

# Of the last 29 days, because both are removed after 30; of single minutes, of the last 23 hours.
RUNS: Final = """
SELECT m AS minutes, job_stat_bucket(m, finished_at) AS bucket, task_type, outcome, dry_run, count(*) AS runs,
    min(finished_at) AS first_at, max(finished_at) AS last_at
FROM job_runs CROSS JOIN unnest(ARRAY[1, 5, 15, 120, 480]) AS m
WHERE finished_at > now() - CASE WHEN m = 1 THEN interval '23 hours' ELSE interval '29 days' END
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""
COUNTED: Final = """
SELECT minutes::integer, bucket, task_type, outcome, dry_run, sum(runs)::bigint AS runs, min(first_at) AS first_at,
    max(last_at) AS last_at
FROM job_stat_list
WHERE minutes > 0 AND last_at > now() - CASE WHEN minutes = 1 THEN interval '23 hours' ELSE interval '29 days' END
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""
ERRORS_OF_RUNS: Final = """
SELECT task_type, fingerprint, job_stat_bucket(5, finished_at) AS bucket, count(*) AS runs FROM job_runs
WHERE fingerprint IS NOT NULL AND finished_at > now() - interval '29 days' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
ERRORS_COUNTED: Final = """
SELECT task_type, fingerprint, bucket, sum(runs)::bigint AS runs FROM job_stat_error_list
WHERE bucket > now() - interval '29 days' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
GROUPS_OF_JOBS: Final = """
SELECT q.id FROM job_queue AS q LEFT JOIN LATERAL (
    SELECT r.fingerprint, r.outcome FROM job_runs AS r
    WHERE r.job_id = q.id AND r.outcome NOT IN ('released', 'abandoned', 'cancelled') ORDER BY r.run_token DESC LIMIT 1
) AS r ON true
WHERE q.status <> 'cancelled' AND r.outcome IS NOT NULL AND q.fingerprint IS DISTINCT FROM r.fingerprint
"""
TIMES: Final = """
SELECT task_type, extract(epoch FROM started_at - due_at)::double precision AS wait,
    extract(epoch FROM finished_at - started_at)::double precision AS duration
FROM job_runs WHERE NOT late AND finished_at > now() - interval '29 days'
"""
BINS: Final = """
SELECT task_type, waits, durations FROM job_stat_list
WHERE minutes = 5 AND outcome <> 'abandoned' AND bucket > now() - interval '29 days'
"""
RUNS_EVER: Final = """
SELECT task_type, outcome, sum(runs)::bigint AS runs FROM job_stat_list WHERE minutes = 0 AND NOT dry_run
GROUP BY 1, 2 ORDER BY 1, 2
"""
TIMES_EVER: Final = """
SELECT t.task_type, t.outcome, sum((SELECT sum(n) FROM unnest(t.{name}) AS n))::bigint AS runs
FROM job_stat_list AS t WHERE t.minutes = 0 AND NOT t.dry_run
GROUP BY 1, 2 ORDER BY 1, 2
"""

told = st.tuples(
    st.sampled_from(OUTCOMES), st.sampled_from(ERRORS), st.booleans(), st.floats(0.0, 9000.0), st.floats(0.0, 9000.0)
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), st.sampled_from(TYPES), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("finish"), st.lists(told, min_size=1, max_size=8)),
        st.tuples(st.just("finish"), st.lists(told, min_size=4, max_size=8)),
        st.tuples(st.just("lose"), st.booleans()),
        st.tuples(st.just("compact"), st.sampled_from((1, 2, 1000))),
        st.tuples(st.just("age"), st.sampled_from((8, 16, 24 * 20))),
        st.tuples(st.just("upkeep")),
    ),
    min_size=8,
    max_size=20,
)


def _enqueue(conn: Connection, task_type: str, number: int, dry_run: bool) -> None:
    payload = {"dryRun": True} if dry_run else {}
    producer.enqueue_many(
        conn,
        [NewJob(task_type, payload=payload, max_attempts=attempts) for attempts in range(1, number + 1)],
        actor=ACTOR,
    )


def _report(job: ClaimedJob, told: tuple[str, str | None, bool, float, float]) -> Any:
    outcome, error, dry_run, wait, duration = told
    began = job.due_at.timestamp() + wait
    return report(
        job, outcome, started=began, finished=began + duration, dry_run=dry_run, checkpoint={}, delay=0.0,
        error=error, retry_after=0.0,
    )  # fmt: skip


def _finish(conn: Connection, reports: list[tuple[str, str | None, bool, float, float]]) -> None:
    _enqueue(conn, "alpha", 2, False)
    jobs = conn.claim(TYPES, limit=len(reports))
    conn.finish(*map(_report, jobs, reports))


def _lose(conn: Connection, late: bool) -> None:
    jobs = conn.claim(TYPES, limit=2)
    conn.execute("UPDATE job_queue SET lease_expires_at = now() - interval '1 s' WHERE status = 'running'")
    conn.reap()
    if late:
        conn.finish(*(report(job) for job in jobs))


def _age(conn: Connection, hours: int) -> None:
    # By the length of the longest bucket, so that what is in one bucket stays in one.
    conn.execute("SELECT move_clock(%s * interval '1 hour')", [hours])


STEPS: Final[dict[str, Callable[..., Any]]] = {
    "enqueue": _enqueue,
    "finish": _finish,
    "lose": _lose,
    "compact": lambda conn, limit: conn.execute("SELECT job_stats_compact(%s)", [limit]),
    "age": _age,
    "upkeep": Connection.reap,
}


def _percentiles_hold(conn: Connection) -> None:
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in conn.rows(TIMES):
        for name in ("wait", "duration"):
            times[row["task_type"], name].append(row[name])
    counts: dict[tuple[str, str], tuple[int, ...]] = defaultdict(tuple)
    for row in conn.rows(BINS):
        for name in ("wait", "duration"):
            key = row["task_type"], name
            counts[key] = figures.added(counts[key], row[f"{name}s"])
    for key, exact in times.items():
        assert sum(counts[key]) == len(exact)
        for share in (0.5, 0.95):
            true = sorted(exact)[max(math.ceil(len(exact) * share), 1) - 1]
            found = figures.percentile(counts[key], share)
            assert found is not None
            assert abs(found - true) <= 0.2 * true or true < 0.001 == found


def test_the_statistics_are_those_of_the_history(conn: Connection) -> None:
    install_clock(conn)

    @settings(max_examples=examples(40))
    @given(steps)
    def whatever_is_done(wanted: list[tuple[Any, ...]]) -> None:
        conn.execute("SELECT forget_everything()")
        for name, *arguments in wanted:
            STEPS[name](conn, *arguments)
        assert conn.rows(COUNTED) == conn.rows(RUNS)
        assert conn.rows(ERRORS_COUNTED) == conn.rows(ERRORS_OF_RUNS)
        assert conn.rows(GROUPS_OF_JOBS) == []
        _percentiles_hold(conn)
        for name in ("waits", "durations"):
            assert conn.rows(TIMES_EVER.format(name=name)) == conn.rows(RUNS_EVER)

    whatever_is_done()
