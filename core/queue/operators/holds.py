"""Holds jobs of one type by a value in their payload, and releases them: thin, typed calls into `schema.sql`."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from jobdeck.core.queue.calls import Connection, rows
from jobdeck.core.read.jobs import clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID


def hold(
    conn: Connection,
    *,
    task_type: str,
    key: str,
    value: Any,
    actor: str,
    reason: str | None = None,
    until: datetime | timedelta | None = None,
) -> tuple[int, int]:
    """Holds the jobs of a type whose payload has this JSON value under this key; `until` a time or for a period.

    Returns the hold's number, and how many jobs wait for it. See `begin`.
    """
    ends = clock().run(conn) + until if isinstance(until, timedelta) else until
    number = begin(conn, task_type, key, value, actor=actor, reason=reason, until=ends)
    return number, sum(carry_out(conn, number))


def release(conn: Connection, *, number: int, actor: str) -> int:
    """Ends a hold and releases its jobs. Returns how many. See `end`."""
    end(conn, number, actor=actor)
    return sum(carry_out(conn, number))


def begin(
    conn: Connection,
    task_type: str,
    key: str,
    value: Any,
    *,
    actor: str,
    reason: str | None = None,
    until: datetime | None = None,
) -> int:
    """Begins a hold of the jobs of a type whose payload has this JSON value under this key, and returns its number.

    No such job starts once the transaction has ended, also none that is enqueued later; running ones go on. Then call
    `carry_out`, which moves those that wait out of the way of claims.

    Raises:
        Refused: there is such a hold, there are 100, the end is in the past, or a text is empty or too long.
    """
    given = (task_type, key, json.dumps(value), until, actor, reason)
    return int(
        rows(conn, "SELECT job_hold(%s, %s, %s::jsonb, %s, %s, %s) AS number", given, locked=_LOCKED)[0]["number"]
    )


def end(conn: Connection, number: int, *, actor: str) -> None:
    """Ends a hold. Then call `carry_out`, which lets its jobs start; upkeep does what is left of it.

    Raises:
        Refused: there is no such hold.
    """
    rows(conn, "SELECT job_release(%s, %s)", (number, actor), locked=_LOCKED)


def carry_out(conn: Connection, number: int) -> Iterator[int]:
    """Has the jobs wait for a hold, or releases those of one that has ended, 1,000 in each step.

    Yields how many jobs each step changed. Each step is a transaction unless the caller has one open. What an
    interrupted call leaves, claims and upkeep do.
    """
    reached: UUID | None = None
    while True:
        (row,) = rows(conn, "SELECT * FROM job_hold_step(%s, %s)", (number, reached), locked=_LOCKED)
        yield int(row["jobs"])
        reached = row["reached"]
        if reached is None:
            return


_LOCKED = "Another session changes the holds. Nothing was changed; try again."
