"""The lists of jobs, one statement for each status tab; `jobdeck.core.read.jobs` runs them.

Each statement reads the tab's natural order from an index, stops at `window` rows, then sorts these rows as requested.
The natural order continues behind `after_key` and `after_id`; every other order is paged by `skip`. `place_key` is the
value that the natural order compares.
"""

from __future__ import annotations

from typing import Final, LiteralString

from jobdeck.core.model import Status

WINDOW: Final = 10_000
LOOKED_AT: Final = 100_000
"""Among how many runs one page looks for those that match, where no index serves what is looked for."""
NO_CURSOR: Final = "This is not a cursor. Use the cursor from the end of the page before."

# The history knows when a job was created only if its id contains the time.
MATCHES: Final = """
job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, coalesce(j.created_at, j.completed_at),
    j.last_outcome, %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
    %(outcome)s, j.fingerprint, %(fingerprint)s)
    AND (%(payload_is)s::text[] IS NULL OR j.payload @> ANY (%(payload_is)s::text[]::jsonb[]))
"""

_PAGE: Final = """
SELECT {columns} FROM {view} AS j
WHERE {condition}
    AND (%(after_key)s::timestamptz IS NULL
        OR ({key}, j.id) {behind} (%(after_key)s::timestamptz, %(after_id)s::uuid))
    AND {matches}
ORDER BY {key} {way}, j.id {way} LIMIT %(window)s
"""

_LIST: Final = """
SELECT * FROM (
    SELECT j.*, {key}::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY {order}) AS place
    FROM ({rows}) AS j
    ORDER BY {order} LIMIT %(window)s
) AS found
ORDER BY
    CASE WHEN %(descending)s THEN sort_key END DESC,
    CASE WHEN NOT %(descending)s THEN sort_key END,
    CASE WHEN %(sort)s <> 'natural' OR %(descending)s THEN place ELSE -place END
OFFSET %(skip)s LIMIT %(limit)s
"""

IN_LANE: Final = "j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line"

LANES: Final = """
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


def rows_of(
    condition: LiteralString, key: LiteralString, *, newest: bool = False, view: LiteralString = "job_list",
    columns: LiteralString = "j.*",
) -> LiteralString:  # fmt: skip
    """The first rows of a view behind the cursor that match the filter, by `key` and id."""
    behind, way = ("<", "DESC") if newest else (">", "ASC")
    return _PAGE.format(
        columns=columns, view=view, condition=condition, key=key, behind=behind, way=way, matches=MATCHES
    )


def ordered(rows: LiteralString, key: LiteralString, *, newest: bool = False) -> LiteralString:
    order = key + " DESC, j.id DESC" if newest else key + ", j.id"
    return _LIST.format(rows=rows, key=key, order=order)


_ALL: Final = """
SELECT j.* FROM job_list AS j WHERE (%(after_id)s::uuid IS NULL OR j.id < %(after_id)s::uuid) AND {matches}
ORDER BY j.id DESC LIMIT %(window)s
"""
# The lanes of other types are not read.
PENDING: Final = """
(SELECT h.* FROM lane AS l CROSS JOIN LATERAL ({in_lanes}) AS h
WHERE %(task_type)s::text IS NULL OR position(lower(%(task_type)s) IN lower(l.task_type)) > 0)
UNION ALL ({beside_them})
"""
OF_LANE: Final = IN_LANE + " AND j.task_type = l.task_type AND j.priority = l.priority"
WAITING: Final = "j.status = 'pending' AND (j.blocked_by IS NOT NULL OR j.in_line)"


def succeeded(*, here: LiteralString = "", left: LiteralString = "") -> LiteralString:
    """The first rows of succeeded jobs, with more conditions for those in the queue and for those that left it."""
    in_queue = rows_of(f"j.status = 'succeeded' {here}", "j.ended_at", newest=True, columns=_HERE)
    removed = rows_of(f"true {left}", "j.completed_at", newest=True, view="job_removed_list", columns=_LEFT)
    return f"({in_queue}) UNION ALL ({removed})"


_ENDED: Final = ordered(rows_of("j.status = %(status)s", "j.ended_at", newest=True), "j.ended_at", newest=True)

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
GROUP: Final[LiteralString] = _ALIKE + ordered(_OF_GROUP, "j.id", newest=True)
"""The jobs of a group of errors, newest first, each row with the number of all of them as `total`."""

STATEMENTS: Final[dict[Status | None, LiteralString]] = {
    None: ordered(_ALL.format(matches=MATCHES), "j.id", newest=True),
    Status.PENDING: LANES.format(in_lane=IN_LANE)
    + ordered(
        PENDING.format(in_lanes=rows_of(OF_LANE, "j.run_at"), beside_them=rows_of(WAITING, "j.run_at")), "j.run_at"
    ),
    Status.RUNNING: ordered(rows_of("j.status = 'running'", "j.started_at"), "j.started_at"),
    Status.SUCCEEDED: ordered(succeeded(), "j.ended_at", newest=True),
    Status.FAILED: _ENDED,
    Status.CANCELLED: _ENDED,
}
