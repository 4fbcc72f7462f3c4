"""What a filter by payload key would read, and whether that is too much.

No index covers payloads, because it would slow down each enqueue. So the jobs of one type are read one by one, and a
filter that would read many more is refused before it reads any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.errors import UsageError
from jobdeck.core.model import Status
from jobdeck.core.read.batch import Query, select

if TYPE_CHECKING:
    from jobdeck.core.model import Filter
    from jobdeck.core.read.batch import Connection

MOST: Final = 100_000
"""How many jobs a filter by payload key reads without a type."""

_COUNTS: Final = """
SELECT pending, running, failed, cancelled, succeeded + removed AS succeeded,
    pending + running + failed + cancelled + succeeded AS whole
FROM job_queue_counts(%(most)s::integer)
"""


def check(conn: Connection, wanted: Filter) -> None:
    """Refuses a filter that would read too many jobs.

    Raises:
        UsageError: it would; the sentence says what it would read, and asks for a type.
    """
    sentence = refusal(wanted).run(conn)
    if sentence is not None:
        raise UsageError(sentence)


def refusal(wanted: Filter) -> Query[str | None]:
    """The sentence that refuses a filter by payload key which would read too many jobs; None if it may be read.

    A filter with a type and a status of jobs that are still in the queue is never refused, and asks nothing.
    """
    compared = wanted.payload_is or wanted.payload
    narrow = wanted.task_type is not None and wanted.status not in {None, Status.SUCCEEDED}
    if compared is None or narrow:
        return Query((), lambda _: None)
    most = MOST + 1
    name = wanted.status.value if wanted.status else "whole"
    what = f"{wanted.status.value} jobs" if wanted.status else "jobs of every status"
    sentence = (
        f"To compare the payload key {compared[0]}, this filter would read more than {MOST:,} {what}. "
        "Add a type and a status, like type:TYPE status:pending."
    )
    return select(_COUNTS, {"most": most}, read=lambda rows: sentence if int(rows[0][name]) >= most else None)
