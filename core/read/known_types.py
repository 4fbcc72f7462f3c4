"""Whether a task type that a filter names exists, so that a slip is refused instead of matching no job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import UsageError, meant
from jobdeck.core.read.batch import Connection, Query, select
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Iterable


NEWEST = 10_000
"""The number of the newest runs whose types are known."""
BESIDE = 1000
"""The number of jobs whose types are known: of the first that wait for others, and of the last ended in each status."""

# All types that a worker could claim are known, each by one look into the index of the claim.
_SEEN: Final = """
WITH RECURSIVE claimable (name) AS (
    (SELECT j.task_type FROM job_list AS j
    WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line ORDER BY j.task_type LIMIT 1)
    UNION ALL
    SELECT (SELECT j.task_type FROM job_list AS j
        WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line AND j.task_type > c.name
        ORDER BY j.task_type LIMIT 1)
    FROM claimable AS c WHERE c.name IS NOT NULL
)
SELECT name AS task_type FROM claimable WHERE name IS NOT NULL
UNION SELECT task_type FROM (
    SELECT j.task_type FROM job_list AS j WHERE j.status = 'pending' AND (j.blocked_by IS NOT NULL OR j.in_line)
    ORDER BY j.run_at, j.id LIMIT %(beside)s) AS waiting
UNION SELECT task_type FROM job_list WHERE status = 'running'
UNION SELECT ended.task_type FROM unnest(array['succeeded', 'failed', 'cancelled']) AS s (status) CROSS JOIN LATERAL (
    SELECT j.task_type FROM job_list AS j WHERE j.status = s.status
        AND j.status IN ('succeeded', 'failed', 'cancelled')
    ORDER BY j.ended_at DESC, j.id DESC LIMIT %(beside)s) AS ended
UNION SELECT task_type FROM (
    SELECT task_type FROM job_run_list ORDER BY run_token DESC LIMIT %(newest)s) AS newest
UNION SELECT task_type FROM job_stat_time_list
UNION SELECT unnest(task_types) FROM job_workers
ORDER BY 1
"""


def types_seen() -> Query[list[str]]:
    """The task types of jobs that wait, run or ended lately, of all runs that were counted, and of known workers."""
    return select(_SEEN, {"newest": NEWEST, "beside": BESIDE}, read=lambda rows: [row["task_type"] for row in rows])


def check_type(conn: Connection, wanted: str, registered: Iterable[str], *, whole: bool = False) -> None:
    """Checks the task type of a filter that matched nothing; with `whole` a part of a type's name is not enough.

    It reads up to 14,000 rows if no handler of this process has such a type, so call it only for an empty answer.

    Raises:
        UsageError: no handler, job, run or worker has such a type.
    """
    text = wanted.lower()

    def fits(known: str) -> bool:
        return known == wanted if whole else text in known.lower()

    registered = list(registered)
    if any(map(fits, registered)):
        return
    seen = types_seen().run(conn)
    if not any(map(fits, seen)):
        near = meant(wanted, {*registered, *seen})
        raise UsageError(clean(f'Unknown task type "{wanted}"{near} No handler, job or recent run has this type.'))
