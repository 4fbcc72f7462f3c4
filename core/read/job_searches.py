"""Searches among jobs, one for each status tab; `jobdeck.core.read.jobs` runs them.

No index serves words or errors. So a page looks at a limited number of jobs in the tab's natural order, and the next
page continues behind the last of these.
"""

from __future__ import annotations

from typing import Final, LiteralString, NamedTuple

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


class Search(NamedTuple):
    """The statement of a page, and the one that says where it ends.

    The second one has a row (`reached`, `reached_id`) if there are at least `most` jobs: the next page continues behind
    this place. Both are given `most`.
    """

    page: LiteralString
    reached: LiteralString


_LAST: Final = """
SELECT {key} AS at, j.id FROM job_list AS j
WHERE {condition}
    AND (%(after_key)s::timestamptz IS NULL
        OR ({key}, j.id) {behind} (%(after_key)s::timestamptz, %(after_id)s::uuid))
ORDER BY {key} {way}, j.id {way} OFFSET greatest(%(most)s / {shares}, 1) - 1 LIMIT 1
"""
_REACHED: Final = "SELECT at::text AS reached, id AS reached_id FROM last"
_TO_LAST: Final = """
AND ({key}, j.id) {to} (
    coalesce((SELECT at FROM last), '{end}infinity'), coalesce((SELECT id FROM last), '{uuid}'::uuid))
"""
_LOWEST: Final = "00000000-0000-0000-0000-000000000000"
_HIGHEST: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"

_LAST_OF_ALL: Final = """
WITH last AS MATERIALIZED (
    SELECT j.id AS at, j.id FROM job_list AS j WHERE %(after_id)s::uuid IS NULL OR j.id < %(after_id)s::uuid
    ORDER BY j.id DESC OFFSET %(most)s - 1 LIMIT 1
)
"""
_OF_ALL: Final = """
SELECT j.* FROM job_list AS j
WHERE (%(after_id)s::uuid IS NULL OR j.id < %(after_id)s::uuid)
    AND j.id >= coalesce((SELECT id FROM last), '{lowest}'::uuid) AND {matches}
ORDER BY j.id DESC LIMIT %(window)s
"""

# Each lane has its share. What is behind the share that ends first is left to the next page.
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


def _all() -> Search:
    rows = _OF_ALL.format(matches=MATCHES, lowest=_LOWEST)
    return Search(_LAST_OF_ALL + ordered(rows, "j.id", newest=True), _LAST_OF_ALL + _REACHED)


def _pending() -> Search:
    key = "j.run_at"
    to_last = _TO_LAST.format(key=key, to="<=", end="", uuid=_HIGHEST)
    rows = PENDING.format(in_lanes=rows_of(OF_LANE + to_last, key), beside_them=rows_of(WAITING + to_last, key))
    of_lane, beside_them = (
        _LAST.format(condition=condition, key=key, behind=">", way="ASC", shares=shares)
        for condition, shares in ((OF_LANE, "(SELECT count(*) FROM wanted)"), (WAITING, "1"))
    )
    last = LANES.format(in_lane=IN_LANE) + _LAST_PENDING.format(of_lane=of_lane, beside_them=beside_them)
    return Search(last + ordered(rows, key), last + _REACHED)


def _ended() -> Search:
    key, condition = "j.ended_at", "j.status = %(status)s"
    last = _LAST.format(condition=condition, key=key, behind="<", way="DESC", shares="1")
    last = f"WITH last AS MATERIALIZED ({last})"
    rows = rows_of(condition + _TO_LAST.format(key=key, to=">=", end="-", uuid=_LOWEST), key, newest=True)
    return Search(last + ordered(rows, key, newest=True), last + _REACHED)


# The page has all that match of this time, so the next one is behind it and the lowest id.
_LAST_REMOVED: Final = """
WITH last AS MATERIALIZED (
    SELECT j.completed_at AS at, '{lowest}'::uuid AS id FROM job_removed_list AS j
    WHERE %(after_key)s::timestamptz IS NULL OR j.completed_at <= %(after_key)s::timestamptz AND (
        j.completed_at < %(after_key)s::timestamptz OR %(after_id)s::uuid <> '{lowest}'::uuid)
    ORDER BY j.completed_at DESC OFFSET %(most)s - 1 LIMIT 1
)
"""


def _succeeded() -> Search:
    """Of these, only those that left the queue are counted: the others are few."""
    last = _LAST_REMOVED.format(lowest=_LOWEST)
    bound = ">= coalesce((SELECT at FROM last), '-infinity')"
    rows = succeeded(here=f"AND j.ended_at {bound}", left=f"AND j.completed_at {bound}")
    return Search(last + ordered(rows, "j.ended_at", newest=True), last + _REACHED)


_SEARCHES: Final[dict[Status | None, Search]] = {
    None: _all(),
    Status.PENDING: _pending(),
    Status.SUCCEEDED: _succeeded(),
    Status.FAILED: _ended(),
    Status.CANCELLED: _ended(),
}
"""There is none of running jobs, because no queue runs so many."""


def search_of(wanted: Filter) -> Search | None:
    """The search for the jobs of a filter; None if all of its pages are near the beginning of an index."""
    by_index = {Filter(status=wanted.status)}
    if wanted.status is Status.PENDING:
        by_index.add(Filter(status=wanted.status, task_type=wanted.task_type))
    return None if wanted in by_index else _SEARCHES.get(wanted.status)
