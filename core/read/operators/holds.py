"""The holds, and what one would keep: see `jobdeck.core.read.operators.hold`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.read.batch import select
from jobdeck.core.read.operators.hold import COUNTED, Hold

if TYPE_CHECKING:
    from jobdeck.core.read.batch import Query


def holds() -> Query[tuple[Hold, ...]]:
    """The holds, oldest first; at most 100 exist."""
    return select(
        """
        SELECT number, task_type, key, value::text AS value, reason, held_by, held_at, until,
            job_hold_jobs(id, %(most)s) AS jobs
        FROM job_hold_list ORDER BY number
        """,
        {"most": COUNTED},
        read=lambda rows: tuple(Hold(**row) for row in rows),
    )


def reach(task_type: str, key: str, value: str) -> Query[tuple[int, int]]:
    """How many waiting jobs have the value (JSON text) under the key, and how many have the key; up to `COUNTED`."""
    return select(
        """
        SELECT job_hold_reach(%(type)s, %(key)s, %(value)s::jsonb, false, %(most)s) AS jobs,
            job_hold_reach(%(type)s, %(key)s, NULL, true, %(most)s) AS any
        """,
        {"type": task_type, "key": key, "value": value, "most": COUNTED},
        read=lambda rows: (rows[0]["jobs"], rows[0]["any"]),
    )
