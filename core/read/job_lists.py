"""The lists of jobs, one statement for each status tab; `jobdeck.core.read.jobs` runs them.

Each statement reads the tab's natural order from an index, stops at `window` rows, then sorts these rows as requested.
The natural order continues behind `after_key` and `after_id`; every other order is paged by `skip`. `place_key` is the
value that the natural order compares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, LiteralString

from jobdeck.core.model import Filter, Status
from jobdeck.core.read.batch import Query, select
from jobdeck.core.read.report_types import Standing
from jobdeck.core.read.rows import jobs_from
from jobdeck.core.read.standings import (
    CIRCUMSTANCES,
    MAY_BE_DUE,
    MAY_BE_OF,
    MAY_WAIT,
    RANK,
    STANDING,
    STANDS,
    STANDS_SO,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from jobdeck.core.model import Job

WINDOW: Final = 10_000
LOOKED_AT: Final = 100_000
"""Among how many runs, or jobs that stand in one way, a page looks for those that match where no index serves them."""
JOBS_LOOKED_AT: Final = 1_000_000
"""The same among jobs in the queue. They take less time than runs, whose rows are larger."""

# The history knows when a job was created only if its id contains the time.
MATCHES: Final = """
job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, coalesce(j.created_at, j.completed_at),
    j.last_outcome, %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
    %(outcome)s, j.fingerprint, %(fingerprint)s)
    AND (%(payload_is)s::text[] IS NULL OR j.payload @> ANY (%(payload_is)s::text[]::jsonb[]))
"""

_PAGE: Final = """
SELECT {columns} FROM {view} AS j {beside}
WHERE {condition}
    AND (%(after_key)s::timestamptz IS NULL
        OR ({key}, j.id) {behind} (%(after_key)s::timestamptz, %(after_id)s::uuid))
    AND {matches}
ORDER BY {key} {way}, j.id {way} LIMIT %(window)s
"""

_LIST: Final = """
SELECT j.*, {standing} AS standing FROM (
    SELECT j.*, {key}::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY {order}) AS place
    FROM ({rows}) AS j
    ORDER BY {order} LIMIT %(window)s
) AS j {circumstances}
ORDER BY
    CASE WHEN %(descending)s THEN sort_key END DESC,
    CASE WHEN NOT %(descending)s THEN sort_key END,
    CASE WHEN %(sort)s <> 'natural' OR %(descending)s THEN place ELSE -place END
OFFSET %(skip)s LIMIT %(limit)s
"""

_IN_LANE: Final = "j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line"

_LANES: Final = """
WITH RECURSIVE lane (task_type, priority) AS (
    (SELECT j.task_type, j.priority FROM job_list AS j WHERE {in_lane} ORDER BY j.task_type, j.priority DESC LIMIT 1)
    UNION ALL
    (SELECT next.task_type, next.priority FROM lane AS l CROSS JOIN LATERAL (
        (SELECT j.task_type, j.priority FROM job_list AS j
        WHERE {in_lane} AND j.task_type = l.task_type AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
        UNION ALL
        (SELECT j.task_type, j.priority FROM job_list AS j
        WHERE {in_lane} AND j.task_type > l.task_type
        ORDER BY j.task_type, j.priority DESC LIMIT 1)
    ) AS next LIMIT 1)
)
"""

_IN_BOTH: Final = """
j.id, j.task_type, j.payload, j.status, j.run_at, j.attempts, j.max_attempts, j.created_at, j.updated_at, j.version,
j.priority, j.last_error, j.output, j.completed_at, j.is_recurring, j.last_run_at, j.last_outcome, j.last_success_at,
j.removed, j.created_by, j.last_run_dry,
"""
_HERE: Final = _IN_BOTH + "j.recurrence_interval_minutes, j.schedule, j.ended_at"
_LEFT: Final = _IN_BOTH + "NULL::integer, NULL::jsonb, j.completed_at"
"""The columns of succeeded jobs in the queue, and of those that have left it."""


# Jobs that are claimed and have not begun are among the running ones by the time of their claim.
_SINCE: Final = "coalesce(j.started_at, j.updated_at)"


def _rows_of(
    condition: LiteralString, key: LiteralString, *, newest: bool = False, view: LiteralString = "job_list",
    columns: LiteralString = "j.*", beside: LiteralString = "",
) -> LiteralString:  # fmt: skip
    """The first rows of a view behind the cursor that match the filter, by `key` and id."""
    behind, way = ("<", "DESC") if newest else (">", "ASC")
    return _PAGE.format(
        columns=columns, view=view, beside=beside, condition=condition, key=key, behind=behind, way=way,
        matches=MATCHES,
    )  # fmt: skip


def _ordered(
    rows: LiteralString, key: LiteralString, *, newest: bool = False, standing: LiteralString = STANDING,
    circumstances: LiteralString = CIRCUMSTANCES,
) -> LiteralString:  # fmt: skip
    order = key + " DESC, j.id DESC" if newest else key + ", j.id"
    circumstances = circumstances if standing == STANDING else ""
    return _LIST.format(rows=rows, key=key, order=order, standing=standing, circumstances=circumstances)


_ALL: Final = """
SELECT j.* FROM job_list AS j WHERE (%(after_id)s::uuid IS NULL OR j.id < %(after_id)s::uuid) AND {matches}
ORDER BY j.id DESC LIMIT %(window)s
"""
# The lanes of other types are not read.
_OF_TYPE: Final = "(%(task_type)s::text IS NULL OR position(lower(%(task_type)s) IN lower(l.task_type)) > 0)"
_LANES_OF_TYPE: Final = "(SELECT l.* FROM lane AS l WHERE {of_type})"
_PENDING: Final = """
(SELECT h.* FROM {lanes} AS l CROSS JOIN LATERAL ({in_lanes}) AS h) UNION ALL ({beside_them})
"""
_OF_LANE: Final = _IN_LANE + " AND j.task_type = l.task_type AND j.priority = l.priority"
_WAITING: Final = "j.status = 'pending' AND (j.blocked_by IS NOT NULL OR j.in_line)"


def _succeeded_rows(*, here: LiteralString = "", left: LiteralString = "") -> LiteralString:
    """The first rows of succeeded jobs, with more conditions for those in the queue and for those that left it."""
    in_queue = _rows_of(f"j.status = 'succeeded' {here}", "j.ended_at", newest=True, columns=_HERE)
    removed = _rows_of(f"true {left}", "j.completed_at", newest=True, view="job_removed_list", columns=_LEFT)
    return f"({in_queue}) UNION ALL ({removed})"


_AS_STORED: Final = "j.status"
_ENDED: Final = _ordered(
    _rows_of("j.status = %(status)s", "j.ended_at", newest=True), "j.ended_at", newest=True, standing=_AS_STORED
)

# The ids come from an index alone. Ordered by id in one step, the planner would look for the jobs of the group in the
# whole queue, because it expects some of each status.
_OF_GROUP: Final = """
SELECT j.*, (SELECT count(*) FROM alike) AS total FROM (
    SELECT a.id FROM alike AS a WHERE %(after_id)s::uuid IS NULL OR a.id < %(after_id)s::uuid
    ORDER BY a.id DESC LIMIT %(window)s
) AS found CROSS JOIN LATERAL (SELECT l.* FROM job_list AS l WHERE l.id = found.id) AS j
"""
_ALIKE: Final = """
WITH alike AS MATERIALIZED (
    SELECT j.id FROM job_list AS j
    WHERE j.fingerprint = %(fingerprint)s AND j.task_type = %(task_type)s
        AND j.status IN ('failed', 'pending', 'running')
)
"""
GROUP: Final[LiteralString] = _ALIKE + _ordered(_OF_GROUP, "j.id", newest=True)
"""The jobs of a group of errors, newest first, each row with the number of all of them as `total`."""

# All jobs, those first that need somebody. Only what the order compares is read of the first jobs of each status.
LEAST_OF_LANE: Final = 200
_FIRST_OF: Final = """
SELECT j.id, j.status, j.task_type, j.blocked_by, j.in_line, j.run_at, j.attempts, j.last_outcome, j.started_at,
    j.ended_at
FROM job_list AS j WHERE {condition} ORDER BY {order} LIMIT {most}
"""
_FIRST_OF_LANES: Final = "SELECT h.* FROM lane AS l CROSS JOIN LATERAL ({of_lane}) AS h"
# The limit of the last part has the planner look up each job by its id; a join might read the whole table.
_NEAR: Final = """
{lanes}, stood AS MATERIALIZED (
    SELECT j.*, {standing} AS standing FROM ({rows}) AS j {circumstances}
    WHERE %(task_type)s::text IS NULL OR j.task_type = %(task_type)s
), near AS (
    SELECT o.id, o.standing, {rank} AS rank, extract(epoch FROM CASE o.status WHEN 'pending' THEN o.run_at
        WHEN 'running' THEN coalesce(o.started_at, o.run_at) ELSE o.ended_at END)::double precision
        * CASE WHEN o.status IN ('pending', 'running') THEN 1 ELSE -1 END AS moment
    FROM stood AS o
), found AS MATERIALIZED (
    SELECT n.* FROM near AS n
    WHERE %(after_key)s::text IS NULL OR (n.rank, n.moment, n.id) > (split_part(%(after_key)s::text, ' ', 1)::integer,
        split_part(%(after_key)s::text, ' ', 2)::double precision, %(after_id)s::uuid)
    ORDER BY n.rank, n.moment, n.id LIMIT %(limit)s
)
SELECT j.*, f.standing, concat_ws(' ', f.rank, f.moment) AS place_key
FROM found AS f CROSS JOIN LATERAL (SELECT * FROM job_list AS l WHERE l.id = f.id LIMIT 1) AS j
ORDER BY f.rank, f.moment, f.id
"""


def _needy() -> LiteralString:
    # Of a limit that it does not know, the planner expects an early end, and reads the index in its order.
    each, last_ended, first_due = "(SELECT %(each)s)", "j.ended_at DESC, j.id DESC", "j.run_at, j.id"
    share = "(SELECT greatest(%(each)s / count(*), %(of_lane)s) FROM lane)"
    rows = (
        _FIRST_OF.format(condition="j.status = 'failed'", order=last_ended, most=each),
        _FIRST_OF.format(condition="j.status = 'cancelled'", order=last_ended, most=each),
        _FIRST_OF.format(condition="j.status = 'succeeded'", order=last_ended, most=each),
        _FIRST_OF.format(condition="j.status = 'running'", order="j.started_at, j.id", most=each),
        _FIRST_OF_LANES.format(of_lane=_FIRST_OF.format(condition=_OF_LANE, order=first_due, most=share)),
        _FIRST_OF.format(condition=_WAITING, order=first_due, most=each),
    )
    return _NEAR.format(
        lanes=_LANES.format(in_lane=_IN_LANE), rank=RANK.format(standing="o.standing", run_at="o.run_at"),
        standing=STANDING, circumstances=CIRCUMSTANCES, rows="(" + ") UNION ALL (".join(rows) + ")",
    )  # fmt: skip


NEEDY: Final[LiteralString] = _needy()
"""All jobs or those of a type, what needs somebody first, from the first `EACH` of each status."""

STATEMENTS: Final[dict[Status | None, LiteralString]] = {
    None: _ordered(_ALL.format(matches=MATCHES), "j.id", newest=True),
    Status.PENDING: _LANES.format(in_lane=_IN_LANE)
    + _ordered(
        _PENDING.format(
            lanes=_LANES_OF_TYPE.format(of_type=_OF_TYPE),
            in_lanes=_rows_of(_OF_LANE, "j.run_at"),
            beside_them=_rows_of(_WAITING, "j.run_at"),
        ),
        "j.run_at",
    ),
    Status.RUNNING: _ordered(_rows_of("j.status = 'running'", _SINCE), _SINCE, standing=_AS_STORED),
    Status.SUCCEEDED: _ordered(_succeeded_rows(), "j.ended_at", newest=True, standing=_AS_STORED),
    Status.FAILED: _ENDED,
    Status.CANCELLED: _ENDED,
}

# Searches. No index serves words or errors. So a page looks at a limited number of jobs in the tab's natural order, and
# the next page continues behind the last of these.

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
, {stands} wanted AS MATERIALIZED (SELECT l.* FROM lane AS l {beside} WHERE {of_lanes}), last AS MATERIALIZED (
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
    return _SEARCH.format(last=last, page=_ordered(rows, "j.id", newest=True))


def _pending(standing: LiteralString = "") -> LiteralString:
    """With a `standing`, a condition, only those whose standing is `%(standing)s` are found."""
    key, beside = "j.run_at", "CROSS JOIN stands" if standing else ""
    due, waits = (MAY_BE_DUE, MAY_WAIT) if standing else ("", "")
    parts = [
        {"behind": _BEHIND.format(condition=condition, key=key, behind=">", way="ASC"), "most": most}
        for condition, most in ((_OF_LANE + due, _SHARE), (_WAITING + waits, "%(most)s"))
    ]
    of_lane, beside_them = (_LAST.format(key=key, **part) for part in parts)
    last = _LANES.format(in_lane=_IN_LANE) + _LAST_PENDING.format(
        of_lane=of_lane, beside_them=beside_them, beside=beside, of_lanes=_OF_TYPE + (MAY_BE_OF if standing else ""),
        stands=f"stands AS MATERIALIZED ({STANDS})," if standing else "",
    )  # fmt: skip
    in_lanes, rest = (
        _rows_of(_TO_LAST + standing, key, view=_FIRST.format(**part), columns="j.id", beside=beside) for part in parts
    )
    rows = _WHOLE.format(found=_PENDING.format(lanes="wanted", in_lanes=in_lanes, beside_them=rest))
    return _SEARCH.format(last=last, page=_ordered(rows, key, circumstances=beside or CIRCUMSTANCES))


def _ended() -> LiteralString:
    key, most = "j.ended_at", "%(most)s"
    behind = _BEHIND.format(condition="j.status = %(status)s", key=key, behind="<", way="DESC")
    found = _rows_of("true", key, newest=True, view=_FIRST.format(behind=behind, most=most), columns="j.id")
    rows = _WHOLE.format(found=found)
    last = _ONE_ROW.format(last=_LAST.format(key=key, behind=behind, most=most))
    return _SEARCH.format(last=last, page=_ordered(rows, key, newest=True, standing=_AS_STORED))


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
    rows = _succeeded_rows(here=f"AND j.ended_at {bound}", left=f"AND j.completed_at {bound}")
    return _SEARCH.format(last=last, page=_ordered(rows, "j.ended_at", newest=True, standing=_AS_STORED))


_SEARCHES: Final[dict[Status | None, LiteralString]] = {
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


_OF_STANDING: Final[LiteralString] = _pending(STANDS_SO)


def _retrying() -> LiteralString:
    """Jobs that are tried again are in the index of the groups of errors, which has no job that never failed."""
    key, beside = "j.run_at", "CROSS JOIN stands"
    found = _rows_of(
        "j.fingerprint IS NOT NULL AND j.status = 'pending'" + STANDS_SO, key, columns="j.id", beside=beside
    )
    return f"WITH stands AS MATERIALIZED ({STANDS})" + _ordered(_WHOLE.format(found=found), key, circumstances=beside)


_RETRYING: Final[LiteralString] = _retrying()


def page_of(wanted: Filter) -> tuple[LiteralString, int]:
    """The statement for a page of the jobs of a filter, and `most`: a search is only made where no index finds them."""
    if wanted.standing == Standing.RETRYING:
        return _RETRYING, 0
    if wanted.standing is not None:
        return _OF_STANDING, LOOKED_AT
    by_index = [Filter(status=wanted.status)]
    if wanted.status is Status.PENDING:
        by_index.append(Filter(status=wanted.status, task_type=wanted.task_type))
    # Running jobs are few.
    if wanted.status is Status.RUNNING or wanted.fingerprint is not None or wanted in by_index:
        return STATEMENTS[wanted.status], 0
    return _SEARCHES[wanted.status], LOOKED_AT if wanted.status is Status.SUCCEEDED else JOBS_LOOKED_AT


def removed(ids: Sequence[UUID]) -> Query[tuple[Job, ...]]:
    """Those of the jobs that succeeded and left the queue, each with its newest success."""
    return select(
        """
        SELECT DISTINCT ON (r.id) r.* FROM job_removed_list AS r
        WHERE r.id = ANY (%(ids)s) AND NOT EXISTS (SELECT FROM job_list AS j WHERE j.id = r.id)
        ORDER BY r.id, r.left_with DESC
        """,
        {"ids": list(ids)},
        read=jobs_from,
    )


def queued(ids: Sequence[UUID]) -> Query[tuple[Job, ...]]:
    """Those of the jobs that are in the queue."""
    return select("SELECT * FROM job_list WHERE id = ANY (%(ids)s)", {"ids": list(ids)}, read=jobs_from)
