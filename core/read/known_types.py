"""Whether a task type that a filter names exists, so that a slip is refused instead of matching no job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.errors import UsageError, meant
from jobdeck.core.read.batch import Connection, Query, select
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Iterable


NEWEST = 10_000
"""Number of the newest runs whose types are known."""


def types_seen() -> Query[list[str]]:
    """The task types of the jobs in the queue, of the newest runs, and of the workers that were heard of."""
    return select(
        """
        SELECT DISTINCT task_type FROM job_list
        UNION SELECT task_type FROM (
            SELECT task_type FROM job_run_list ORDER BY run_token DESC LIMIT %(newest)s) AS newest
        UNION SELECT unnest(task_types) FROM job_workers
        ORDER BY 1
        """,
        {"newest": NEWEST},
        read=lambda rows: [row["task_type"] for row in rows],
    )


def check_type(conn: Connection, wanted: str, registered: Iterable[str], *, whole: bool = False) -> None:
    """Checks the task type of a filter that matched nothing; with `whole` a part of a type's name is not enough.

    It reads the whole queue if no handler of this process has such a type, so call it only for an empty answer.

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
