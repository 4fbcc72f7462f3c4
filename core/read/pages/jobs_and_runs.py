"""The jobs and the runs of what one line of a page is about. The dashboard reads them where a list leaves room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.batch import Query, combine, select
from jobdeck.core.read.history import runs
from jobdeck.core.read.jobs import clock, group_page, needy
from jobdeck.core.read.report_types import Page
from jobdeck.core.read.rows import run_from
from jobdeck.core.read.runs.ran_twice import runs_of_group

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from jobdeck.core.model import Run

LISTED: Final = 100
"""The most jobs and the most runs that are read."""
SOUGHT: Final = 10_000
"""Among how many of the newest runs of the queue those of a type or a worker are looked for."""

# No index has the worker. Of the runs that are looked through, no more is read than says whose they are.
_OF_WORKER: Final = """
SELECT r.* FROM (
    SELECT run_token, late, worker_id FROM job_run_list ORDER BY run_token DESC, late DESC LIMIT %(most)s
) AS n CROSS JOIN LATERAL (
    SELECT * FROM job_run_list AS l WHERE l.run_token = n.run_token AND l.late = n.late LIMIT 1
) AS r
WHERE n.worker_id = %(worker_id)s ORDER BY n.run_token DESC, n.late DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class JobsAndRuns:
    """The first jobs and the newest runs of a type, an error group, a worker or a series, read at the time `at`."""

    at: datetime
    jobs: Page
    runs: tuple[Run, ...]


def of_type(task_type: str) -> Query[JobsAndRuns]:
    """Of a type: the jobs first that need somebody."""

    def read(at: datetime, jobs: Page, found: tuple[list[Run], str | None]) -> JobsAndRuns:
        return JobsAndRuns(at, jobs, tuple(found[0]))

    newest = runs(task_type=task_type, limit=LISTED, most=SOUGHT)
    return combine(clock(), needy(limit=LISTED, task_type=task_type), newest, read=read)


def of_group(task_type: str, fingerprint: str) -> Query[JobsAndRuns]:
    """Of a group of errors: its newest jobs."""
    newest = runs_of_group(task_type, fingerprint, limit=LISTED)
    return combine(clock(), group_page(task_type, fingerprint, limit=LISTED), newest, read=JobsAndRuns)


def of_worker(worker_id: str) -> Query[JobsAndRuns]:
    """Of a worker: no jobs, because the page of workers has those that it runs."""
    given = {"worker_id": worker_id, "most": SOUGHT, "limit": LISTED}
    newest = select(_OF_WORKER, given, read=lambda rows: tuple(map(run_from, rows)))
    return combine(clock(), newest, read=lambda at, found: JobsAndRuns(at, Page((), None), found))


def of_series(job_id: UUID) -> Query[JobsAndRuns]:
    """Of a series: no jobs, because a series is one job, which its page has."""
    newest = runs(job_id=job_id, limit=LISTED)
    return combine(clock(), newest, read=lambda at, found: JobsAndRuns(at, Page((), None), tuple(found[0])))
