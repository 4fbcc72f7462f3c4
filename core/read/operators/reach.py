"""What a filter means and would read: names become ids, too broad ones are refused, and so are types that do not exist.

No index covers payloads, because it would slow down each enqueue. So the jobs of one type are read one by one, and a
filter that would read many more is refused before it reads any.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, LiteralString

from jobdeck.core import plugins
from jobdeck.core.errors import UsageError, meant
from jobdeck.core.model import Status
from jobdeck.core.read.batch import Query, select
from jobdeck.core.redact import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobdeck.core.model import Filter
    from jobdeck.core.plugins import Found, Search
    from jobdeck.core.read.batch import Connection

_ID: Final = re.compile(r"(?=.*[0-9])[0-9a-f-]{1,36}", re.IGNORECASE)
"""An id or the beginning of one. Letters alone, such as those of Ada, are a name first."""
LISTED: Final = 5
MOST: Final = 100_000
"""How many jobs a filter by payload key reads without a type."""
NEWEST: Final = 10_000
"""The number of the newest runs whose types are known."""
BESIDE: Final = 1000
"""The number of jobs whose types are known: of the first that wait for others, and of the last ended in each status."""

_COUNTS: Final = """
SELECT pending, running, failed, cancelled, succeeded + removed AS succeeded,
    pending + running + failed + cancelled + succeeded AS whole
FROM job_queue_counts(%(most)s::integer)
"""

CLAIMABLE: Final[LiteralString] = """
WITH RECURSIVE claimable (name) AS (
    (SELECT j.task_type FROM job_list AS j
    WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line ORDER BY j.task_type LIMIT 1)
    UNION ALL
    SELECT (SELECT j.task_type FROM job_list AS j
        WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line AND j.task_type > c.name
        ORDER BY j.task_type LIMIT 1)
    FROM claimable AS c WHERE c.name IS NOT NULL
)
"""
"""The types that a worker could claim, as `claimable (name)`, each by one look into the index of the claim."""
_ALL_SEEN: Final = """
{claimable}
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
UNION SELECT task_type FROM job_stat_list WHERE minutes = 0 AND NOT dry_run
UNION SELECT unnest(task_types) FROM job_workers
ORDER BY 1
"""
_SEEN: Final[LiteralString] = _ALL_SEEN.format(claimable=CLAIMABLE)


def with_ids(conn: Connection, wanted: Filter) -> Filter:
    """The filter with a name replaced by the id of the one that it fits; any other filter as it is.

    Raises:
        UsageError: the name fits nobody, or several; the sentence lists no names, but ids.
    """
    key, text = wanted.payload or ("", "")
    search = plugins.searches().get(key)
    if search is None or _ID.fullmatch(text):
        return wanted
    found = search.find(conn, text)
    if any(one.id.startswith(text.lower()) for one in found):
        return wanted
    return replace(wanted, payload=(key, _only(found, text, search).id))


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


def _only(found: Sequence[Found], text: str, search: Search) -> Found:
    hint = f" Give {search.hint}." if search.hint else ""
    if not found:
        raise UsageError(clean(f'No {search.noun} was found for "{text}".{hint}'))
    if len(found) > 1:
        ids = ", ".join(one.id for one in found[:LISTED])
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UsageError(clean(f'{len(found)} {search.plural} fit "{text}": {ids}{more}. Give one of these ids.'))
    return found[0]
