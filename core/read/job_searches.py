"""Searches among jobs, one for each status tab; `jobdeck.core.read.jobs` runs them.

No index serves words or errors. So a page looks at a limited number of jobs in the tab's natural order, and the next
page continues behind the last of these.
"""

from __future__ import annotations

from typing import Final, LiteralString

from jobdeck.core.model import Filter, Status
from jobdeck.core.read.job_lists import (
    IN_LANE,
    LANES,
    MATCHES,
    OF_LANE,
    PENDING,
    WAITING,
    ordered,
    rows_of,
    succeeded,
)

JOBS_LOOKED_AT: Final = 1_000_000
"""Among how many jobs in the queue one page looks. They take less time than runs, whose rows are larger."""

# Where the page ends is not looked for if it is full, unless a condition needs it.
_SEARCH: Final = """
{last}, page AS MATERIALIZED (SELECT found.*, row_number() OVER () AS number FROM ({page}) AS found)
SELECT page.*,
    CASE WHEN (SELECT count(*) FROM page) < %(limit)s THEN (SELECT at::text FROM last) END AS reached,
    CASE WHEN (SELECT count(*) FROM page) < %(limit)s THEN (SELECT id FROM last) END AS reached_id
FROM (SELECT) AS one LEFT JOIN page ON true
ORDER BY page.number
"""
_BEHIND: Final = """
{condition} AND (%(after_key)s::timestamptz IS NULL
    OR ({key}, j.id) {behind} (%(after_key)s::timestamptz, %(after_id)s::uuid))
ORDER BY {key} {way}, j.id {way}
"""
# The planner does not know this limit, and so reads an index; for a limit beyond all jobs it would sort them.
_FIRST: Final = "(SELECT * FROM job_list AS j WHERE {behind} LIMIT (SELECT {most}))"
_LAST: Final = "SELECT {key} AS at, j.id FROM job_list AS j WHERE {behind} OFFSET {most} - 1 LIMIT 1"
# Other columns than the filter's are read of the jobs that were found alone: to make some of them takes longer.
_WHOLE: Final = """
SELECT whole.* FROM ({found}) AS found CROSS JOIN LATERAL (SELECT * FROM job_list AS l WHERE l.id = found.id) AS whole
"""
_ONE_ROW: Final = "WITH last AS MATERIALIZED ({last})"

_OF_ALL: Final = "%(after_id)s::uuid IS NULL OR j.id < %(after_id)s::uuid ORDER BY j.id DESC"
_MATCHING: Final = "SELECT j.id FROM {first} AS j WHERE {matches} ORDER BY j.id DESC LIMIT %(window)s"

# Each lane has its share. What is behind the share that ends first is left to the next page.
_SHARE: Final = "greatest(%(most)s / (SELECT count(*) FROM wanted), 1)"
_LAST_PENDING: Final = """
, wanted AS MATERIALIZED (
    SELECT l.* FROM lane AS l
    WHERE %(task_type)s::text IS NULL OR position(lower(%(task_type)s) IN lower(l.task_type)) > 0
), last AS MATERIALIZED (
    SELECT found.at, found.id FROM (
        (SELECT one.* FROM wanted AS l CROSS JOIN LATERAL ({of_lane}) AS one) UNION ALL ({beside_them})
    ) AS found ORDER BY found.at, found.id LIMIT 1
)
"""
_TO_LAST: Final = """
(j.run_at, j.id) <= (coalesce((SELECT at FROM last), 'infinity'),
    coalesce((SELECT id FROM last), 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
"""


def _all() -> LiteralString:
    most = "%(most)s"
    rows = _WHOLE.format(found=_MATCHING.format(first=_FIRST.format(behind=_OF_ALL, most=most), matches=MATCHES))
    last = _ONE_ROW.format(last=_LAST.format(key="j.id", behind=_OF_ALL, most=most))
    return _SEARCH.format(last=last, page=ordered(rows, "j.id", newest=True))


def _pending() -> LiteralString:
    key = "j.run_at"
    parts = [
        {"behind": _BEHIND.format(condition=condition, key=key, behind=">", way="ASC"), "most": most}
        for condition, most in ((OF_LANE, _SHARE), (WAITING, "%(most)s"))
    ]
    of_lane, beside_them = (_LAST.format(key=key, **part) for part in parts)
    last = LANES.format(in_lane=IN_LANE) + _LAST_PENDING.format(of_lane=of_lane, beside_them=beside_them)
    in_lanes, rest = (rows_of(_TO_LAST, key, view=_FIRST.format(**part), columns="j.id") for part in parts)
    rows = _WHOLE.format(found=PENDING.format(in_lanes=in_lanes, beside_them=rest))
    return _SEARCH.format(last=last, page=ordered(rows, key))


def _ended() -> LiteralString:
    key, most = "j.ended_at", "%(most)s"
    behind = _BEHIND.format(condition="j.status = %(status)s", key=key, behind="<", way="DESC")
    found = rows_of("true", key, newest=True, view=_FIRST.format(behind=behind, most=most), columns="j.id")
    rows = _WHOLE.format(found=found)
    last = _ONE_ROW.format(last=_LAST.format(key=key, behind=behind, most=most))
    return _SEARCH.format(last=last, page=ordered(rows, key, newest=True))


# The page has all that match of this time, so the next one is behind it and the lowest id.
_LAST_REMOVED: Final = """
SELECT j.completed_at AS at, '00000000-0000-0000-0000-000000000000'::uuid AS id FROM job_removed_list AS j
WHERE %(after_key)s::timestamptz IS NULL OR j.completed_at <= %(after_key)s::timestamptz AND (
    j.completed_at < %(after_key)s::timestamptz OR %(after_id)s::uuid <> '00000000-0000-0000-0000-000000000000'::uuid)
ORDER BY j.completed_at DESC OFFSET %(most)s - 1 LIMIT 1
"""


def _succeeded() -> LiteralString:
    """Of these, only those that left the queue are counted: the others are few."""
    last = _ONE_ROW.format(last=_LAST_REMOVED)
    bound = ">= coalesce((SELECT at FROM last), '-infinity')"
    rows = succeeded(here=f"AND j.ended_at {bound}", left=f"AND j.completed_at {bound}")
    return _SEARCH.format(last=last, page=ordered(rows, "j.ended_at", newest=True))


SEARCHES: Final[dict[Status | None, LiteralString]] = {
    None: _all(),
    Status.PENDING: _pending(),
    Status.SUCCEEDED: _succeeded(),
    Status.FAILED: _ended(),
    Status.CANCELLED: _ended(),
}
"""Pages of jobs that look at `most` jobs, and where they end.

The first row of a page with fewer than `limit` jobs has `reached` and `reached_id`, if there are `most` jobs: the next
page continues behind this place. If no job was found, the only row has no id.
"""


def is_search(wanted: Filter) -> bool:
    """Whether the jobs of a filter have to be searched for. Others are found by an index, and running ones are few."""
    by_index = [Filter(status=wanted.status)]
    if wanted.status is Status.PENDING:
        by_index.append(Filter(status=wanted.status, task_type=wanted.task_type))
    return wanted.status is not Status.RUNNING and wanted.fingerprint is None and wanted not in by_index
