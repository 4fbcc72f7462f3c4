"""The reads of the dashboard, the commands and the HTTP server."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from unittest.mock import patch
from uuid import UUID

from jobdeck.core.errors import JobNotFound, UsageError
from jobdeck.core.model import Filter, Status
from jobdeck.core.read import history, job_lists, reports
from jobdeck.core.read import jobs as read_jobs
from jobdeck.core.read.batch import combine
from jobdeck.core.read.filters import REASONS
from jobdeck.core.read.operators.reach import types_seen
from jobdeck.core.read.pages import flows, jobs_and_runs, overview, series
from jobdeck.core.read.runs.ran_twice import ran_twice, run_report
from jobdeck.core.read.stats import backlog, error_groups, figures, run_times
from jobdeck.core.read.verdict.health import health
from tests.plans.operations import CROWD, EVERY_TYPE, REMOVED, Operation
from tests.support.health import announce
from tests.support.queue import Connection


def _last_of_the_crowd(conn: Connection) -> tuple[Any, ...]:
    rows = conn.execute(
        """
        SELECT id FROM job_queue WHERE task_type = 'crowd' AND priority = 0 AND status = 'pending'
            AND blocked_by IS NULL AND NOT in_line
        ORDER BY run_at DESC, id DESC LIMIT 1
        """
    ).fetchall()
    return (rows[0][0] if rows else CROWD,)


def _why_behind_all(conn: Connection, job_id: UUID) -> None:
    with conn.transaction(force_rollback=True):
        announce(conn, types=EVERY_TYPE)
        read_jobs.why(job_id).run(conn)


def _find_by_prefix(conn: Connection) -> None:
    with suppress(JobNotFound, UsageError):
        read_jobs.resolve_id(conn, str(CROWD)[:30])


def _filtered(**wanted: Any) -> Operation:
    return Operation(read_jobs.page(Filter(**wanted), limit=50).run, reads=True)


def _searched(status: Status | None) -> Operation:
    """Looks at fewer jobs than the program does, so that there are enough of them in each queue.

    Never analyzed, the planner expects few that match, and reads and sorts all.
    """

    def call(conn: Connection) -> object:
        with patch.object(job_lists, "JOBS_LOOKED_AT", 1_000):
            return read_jobs.page(Filter(status=status, search="no such words"), limit=50).run(conn)

    return Operation(call, entries=15_000, blocks=15_000, reads=True, growth=9, sorts=True)


def _standing(reason: str) -> Operation:
    """Looks at fewer jobs than the program does, as `_searched`."""

    def call(conn: Connection) -> object:
        with patch.object(job_lists, "LOOKED_AT", 1_000):
            return read_jobs.page(Filter(status=Status.PENDING, standing=reason), limit=50).run(conn)

    return Operation(call, entries=15_000, blocks=15_000, reads=True, growth=9, sorts=True)


def _ordered(status: Status | None, sort: str) -> Operation:
    """Sorts the first 10,000 jobs, which are read from each of the lanes of pending ones."""
    call = read_jobs.page(Filter(status=status), sort=sort, limit=50).run
    return Operation(call, entries=70_000, blocks=90_000, reads=True, growth=25, sorts=True)


def _needy(conn: Connection) -> object:
    """The second page of all jobs, those first that need somebody."""
    found = read_jobs.needy(limit=50).run(conn)
    return read_jobs.needy(limit=50, after=found.next).run(conn)


def _page(status: Status | None, *, second: bool = False) -> Operation:
    def call(conn: Connection) -> object:
        found = read_jobs.page(Filter(status=status), limit=50).run(conn)
        return read_jobs.page(Filter(status=status), limit=50, after=found.next).run(conn) if second else found

    return Operation(call, reads=True)


READS: Final = {
    # Each of the estimates reads 1,000 to 2,000 entries of its sample, with the size of the queue more or less.
    # The jobs of each status are counted up to 10,001, and so are the runs that have left the queue.
    "counts": Operation(read_jobs.counts().run, reads=True, entries=55_000, blocks=12_000, growth=9),
    "backlog by type": Operation(read_jobs.backlog().run, reads=True, entries=40_000, blocks=30_000, growth=9),
    "health": Operation(health().run, reads=True),
    "why": Operation(read_jobs.why(CROWD).run, reads=True),
    "why of a job behind all others": Operation(
        _why_behind_all, given=_last_of_the_crowd, entries=12_000, reads=True, growth=20
    ),
    "detail": Operation(read_jobs.detail(CROWD).run, reads=True),
    "detail of what left the queue": Operation(read_jobs.detail(REMOVED).run, reads=True),
    "newest runs": Operation(history.runs().run, entries=60, blocks=40, reads=True),
    "cron health": Operation(reports.cron().run, reads=True, entries=50_000, blocks=40_000, growth=6),
    # Reads the newest 50,000 runs, and sorts those whose content is compared.
    "jobs that may have acted twice": Operation(
        ran_twice(timedelta(hours=24)).run, entries=210_000, blocks=220_000, reads=True, growth=90, sorts=True
    ),
    "runs of a group of errors": Operation(
        run_report(timedelta(hours=24), group=("crowd", "0123456789ab")).run,
        entries=240_000,
        blocks=260_000,
        reads=True,
        growth=90,
        sorts=True,
    ),
    "errors over time": Operation(reports.errors().run, reads=True, entries=70_000, blocks=150_000),
    "jobs that failed alike": Operation(
        error_groups.alike("crowd", "0123456789ab").run, entries=70_000, blocks=150_000, reads=True
    ),
    "workers and what nobody runs": Operation(reports.worker_report().run, reads=True),
    "audit and digest of a shift": Operation(
        reports.audit(timedelta(hours=8)).run, entries=170_000, blocks=170_000, reads=True, growth=9
    ),
    "task types with their figures": Operation(
        overview.types().run, entries=120_000, blocks=120_000, reads=True, growth=15
    ),
    "trends of 30 days": Operation(backlog.trend_report(timedelta(days=30)).run, reads=True),
    "series with their streaks": Operation(series.series().run, reads=True),
    "detail of what is in the trash": Operation(
        read_jobs.detail(UUID("00000000-0000-7000-8009-000000000001")).run, reads=True
    ),
    "first screen": Operation(read_jobs.snapshot(Filter()).run, entries=70_000, blocks=30_000, reads=True, growth=9),
    "jobs that need somebody first": Operation(_needy, entries=20_000, blocks=40_000, reads=True, growth=9),
    "runs of a job": Operation(history.runs(job_id=REMOVED).run, entries=60, blocks=80, reads=True),
    "runs behind a cursor": Operation(history.runs(after="4001").run, entries=60, blocks=80, reads=True),
    "runs of a type that none has": Operation(
        history.runs(task_type="none").run, entries=210_000, blocks=320_000, reads=True, growth=90
    ),
    "jobs and runs of a type that none has": Operation(
        jobs_and_runs.of_type("none").run, entries=45_000, blocks=70_000, reads=True, growth=25
    ),
    "jobs and runs of a group of errors": Operation(
        jobs_and_runs.of_group("alpha", "f").run, entries=30_000, blocks=30_000, reads=True, growth=9, sorts=True
    ),
    "runs of a worker that none has": Operation(
        jobs_and_runs.of_worker("none").run, entries=15_000, blocks=30_000, reads=True, growth=9, sorts=True
    ),
    "runs of a series": Operation(jobs_and_runs.of_series(REMOVED).run, entries=60, blocks=80, reads=True),
    "one run": Operation(history.run(1001).run, entries=10, blocks=20, reads=True),
    "tokens of the newest runs": Operation(history.newest_tokens(100).run, entries=2000, blocks=2500, reads=True),
    "jobs that left the queue, by id": Operation(job_lists.removed([REMOVED, CROWD]).run, 200, 200, reads=True),
    "jobs in the queue, by id": Operation(job_lists.queued([REMOVED, CROWD]).run, 20, 40, reads=True),
    "types of jobs, runs and workers": Operation(
        types_seen().run, entries=30_000, blocks=20_000, reads=True, growth=25, sorts=True
    ),
    "a group of errors": Operation(read_jobs.group_page("alpha", "f").run, entries=60, blocks=80, reads=True),
    "jobs that many filters fit": _filtered(task_type="later", older_than=timedelta(0), search="later"),
    # Never analyzed, the planner expects few that match, and reads and sorts all.
    "succeeded jobs with words that none has": Operation(
        read_jobs.page(Filter(status=Status.SUCCEEDED, search="no such words"), limit=50).run,
        entries=550_000,
        blocks=550_000,
        reads=True,
        growth=90,
        sorts=True,
    ),
    **{
        f"{status or 'all'} jobs with words that none has": _searched(status)
        for status in (None, Status.PENDING, Status.FAILED)
    },
    **{f"{word} jobs": _standing(reason) for word, reason in REASONS.items()},
    "running jobs with words": _filtered(status=Status.RUNNING, search="no such words"),
    "failed jobs with a fingerprint": _filtered(status=Status.FAILED, fingerprint="0123456789ab"),
    # Never analyzed, the planner expects few failed jobs, and sorts them.
    "failed jobs with an error": Operation(
        read_jobs.page(Filter(status=Status.FAILED, error="gone"), limit=50).run, reads=True, growth=90
    ),
    **{
        f"{status or 'all'} jobs by {sort}": _ordered(status, sort)
        for status in (None, Status.PENDING, Status.FAILED)
        for sort in ("task", "updated")
    },
    "figures of a database in a fleet": Operation(
        overview.database_figures(limit=5.0).run, entries=60_000, blocks=20_000, reads=True, growth=9
    ),
    "newest flows": Operation(flows.newest(50).run, reads=True),
    "times of runs": Operation(run_times.run_times().run, reads=True),
    "failure shares and all-time totals": Operation(
        combine(figures.failure_shares(), figures.totals(), read=lambda *parts: parts).run, reads=True
    ),
    "find a job by the beginning of its id": Operation(_find_by_prefix, reads=True),
    **{f"page of {status or 'all'} jobs": _page(status) for status in (None, *Status)},
    **{f"second page of {status or 'all'} jobs": _page(status, second=True) for status in (None, *Status)},
}
