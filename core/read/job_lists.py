"""The lists of jobs, one statement for each status tab; `jobdeck.core.read.jobs` runs them.

Each statement reads the tab's natural order from an index, stops at `window` rows, then sorts these rows as requested.
The natural order continues behind `after_key` and `after_id`; every other order is paged by `skip`. `place_key` is the
value that the natural order compares.
"""

from __future__ import annotations

from typing import Final, LiteralString

from jobdeck.core.model import Status

WINDOW: Final = 10_000
NO_CURSOR: Final = "This is not a cursor. Use the cursor from the end of the page before."

_ALL: Final = """
SELECT * FROM (
    SELECT j.*, j.id::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY j.id DESC) AS place
    FROM job_list AS j
    WHERE (%(after_id)s::uuid IS NULL OR j.id < %(after_id)s::uuid)
        AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, j.created_at, j.last_outcome,
            %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
            %(outcome)s)
    ORDER BY j.id DESC LIMIT %(window)s
) AS found
"""

_PENDING: Final = """
WITH RECURSIVE lane (task_type, priority) AS (
    (SELECT j.task_type, j.priority FROM job_list AS j
    WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line
    ORDER BY j.task_type, j.priority DESC LIMIT 1)
    UNION ALL
    (SELECT next.task_type, next.priority FROM lane AS l CROSS JOIN LATERAL (
        (SELECT j.task_type, j.priority FROM job_list AS j
        WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line
            AND j.task_type = l.task_type AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
        UNION ALL
        (SELECT j.task_type, j.priority FROM job_list AS j
        WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line AND j.task_type > l.task_type
        ORDER BY j.task_type, j.priority DESC LIMIT 1)
    ) AS next LIMIT 1)
)
SELECT * FROM (
    SELECT j.*, j.run_at::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY j.run_at, j.id) AS place
    FROM (
        (SELECT h.* FROM lane AS l CROSS JOIN LATERAL (
            SELECT j.* FROM job_list AS j
            WHERE j.status = 'pending' AND j.blocked_by IS NULL AND NOT j.in_line
                AND j.task_type = l.task_type AND j.priority = l.priority
                AND (%(after_key)s::timestamptz IS NULL
                    OR (j.run_at, j.id) > (%(after_key)s::timestamptz, %(after_id)s::uuid))
                AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, j.created_at, j.last_outcome,
                    %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
                    %(outcome)s)
            ORDER BY j.run_at, j.id LIMIT %(window)s
        ) AS h)
        UNION ALL
        (SELECT j.* FROM job_list AS j
        WHERE j.status = 'pending' AND (j.blocked_by IS NOT NULL OR j.in_line)
            AND (%(after_key)s::timestamptz IS NULL
                OR (j.run_at, j.id) > (%(after_key)s::timestamptz, %(after_id)s::uuid))
            AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, j.created_at, j.last_outcome,
                %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
                %(outcome)s)
        ORDER BY j.run_at, j.id LIMIT %(window)s)
    ) AS j
    ORDER BY j.run_at, j.id LIMIT %(window)s
) AS found
"""

_RUNNING: Final = """
SELECT * FROM (
    SELECT j.*, j.started_at::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY j.started_at, j.id) AS place
    FROM job_list AS j
    WHERE j.status = 'running'
        AND (%(after_key)s::timestamptz IS NULL
            OR (j.started_at, j.id) > (%(after_key)s::timestamptz, %(after_id)s::uuid))
        AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, j.created_at, j.last_outcome,
            %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
            %(outcome)s)
    ORDER BY j.started_at, j.id LIMIT %(window)s
) AS found
"""

_SUCCEEDED: Final = """
SELECT * FROM (
    SELECT j.*, j.ended_at::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY j.ended_at DESC, j.id DESC) AS place
    FROM (
        (SELECT j.id, j.task_type, j.payload, j.status, j.run_at, j.attempts, j.max_attempts, j.created_at,
            j.updated_at, j.version, j.priority, j.last_error, j.output, j.completed_at, j.is_recurring,
            j.last_run_at, j.last_outcome, j.last_success_at,
            j.recurrence_interval_minutes, j.removed, j.ended_at
        FROM job_list AS j
        WHERE j.status = 'succeeded'
            AND (%(after_key)s::timestamptz IS NULL
                OR (j.ended_at, j.id) < (%(after_key)s::timestamptz, %(after_id)s::uuid))
            AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, j.created_at, j.last_outcome,
                %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
                %(outcome)s)
        ORDER BY j.ended_at DESC, j.id DESC LIMIT %(window)s)
        UNION ALL
        (SELECT j.id, j.task_type, j.payload, j.status, j.run_at, j.attempts, j.max_attempts, j.created_at,
            j.updated_at, j.version, j.priority, j.last_error, j.output, j.completed_at, j.is_recurring,
            j.last_run_at, j.last_outcome, j.last_success_at,
            NULL::integer, j.removed, j.completed_at
        FROM job_removed_list AS j
        WHERE (%(after_key)s::timestamptz IS NULL
                OR (j.completed_at, j.id) < (%(after_key)s::timestamptz, %(after_id)s::uuid))
            AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts,
                coalesce(j.created_at, j.completed_at), j.last_outcome,
                %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
                %(outcome)s)
        ORDER BY j.completed_at DESC, j.id DESC LIMIT %(window)s)
    ) AS j
    ORDER BY j.ended_at DESC, j.id DESC LIMIT %(window)s
) AS found
"""

_ENDED: Final = """
SELECT * FROM (
    SELECT j.*, j.ended_at::text AS place_key,
        job_order_key(%(sort)s, j.id, j.created_at, j.task_type, j.status, j.attempts, j.run_at, j.updated_at,
            j.last_run_at, j.last_error) AS sort_key,
        row_number() OVER (ORDER BY j.ended_at DESC, j.id DESC) AS place
    FROM job_list AS j
    WHERE j.status = %(status)s
        AND (%(after_key)s::timestamptz IS NULL
            OR (j.ended_at, j.id) < (%(after_key)s::timestamptz, %(after_id)s::uuid))
        AND job_matches(j.id, j.task_type, j.payload, j.last_error, j.attempts, j.created_at, j.last_outcome,
            %(task_type)s, %(search)s, %(error)s, %(payload_key)s, %(payload_value)s, %(attempts)s, %(age)s,
            %(outcome)s)
    ORDER BY j.ended_at DESC, j.id DESC LIMIT %(window)s
) AS found
"""

_IN_ORDER: Final = """
ORDER BY
    CASE WHEN %(descending)s THEN sort_key END DESC,
    CASE WHEN NOT %(descending)s THEN sort_key END,
    CASE WHEN %(sort)s <> 'natural' OR %(descending)s THEN place ELSE -place END
OFFSET %(skip)s LIMIT %(limit)s
"""

STATEMENTS: Final[dict[Status | None, LiteralString]] = {
    None: _ALL + _IN_ORDER,
    Status.PENDING: _PENDING + _IN_ORDER,
    Status.RUNNING: _RUNNING + _IN_ORDER,
    Status.SUCCEEDED: _SUCCEEDED + _IN_ORDER,
    Status.FAILED: _ENDED + _IN_ORDER,
    Status.CANCELLED: _ENDED + _IN_ORDER,
}
