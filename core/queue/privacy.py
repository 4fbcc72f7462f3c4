"""Retention periods and erasure: calls of functions that only the owner of the queue may execute."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg

from jobdeck.core.errors import Refused, StillRunning
from jobdeck.core.plugins import Erased
from jobdeck.core.postgres.refusals import refusals
from jobdeck.core.queue.calls import Connection, rows
from jobdeck.core.read.batch import Query, select

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNING: Final = "running"
"""The hint of the refusal of `job_erase_stop`."""


@dataclass(frozen=True, slots=True)
class Retention:
    """A line of the retention table: what is removed after how many days. `chosen` if the owner set the period."""

    name: str
    days: int
    chosen: bool
    component: str


def periods() -> Query[tuple[Retention, ...]]:
    """All retention periods, those of the queue first."""
    return select(
        """
        SELECT name, coalesce(days, default_days) AS days, days IS NOT NULL AS chosen, component FROM job_retention
        ORDER BY component <> 'queue', component, name
        """,
        read=lambda found: tuple(Retention(**row) for row in found),
    )


def set_period(conn: Connection, name: str, days: int | None, *, actor: str) -> None:
    """Sets a retention period, or resets it with None. Audited.

    Raises:
        Refused: there is no such period, or the number is out of range.
    """
    rows(conn, "SELECT job_retention_set(%s, %s, %s)", (name, days, actor))


def erase_payload(conn: Connection, key: str, value: str, *, actor: str) -> list[Erased]:
    """Removes the payloads, outputs, errors, logs and audit texts of the jobs with this value in their payload.

    Waiting jobs are cancelled, since they could not run any more; series are left. Then it empties the other texts that
    contain the value, and searches for what remains. Audited without the value.

    Raises:
        Refused: no job has the value, one of them is running, or a row is locked. Nothing was changed.
    """
    with refusals(), erasing():
        found = conn.execute(
            "SELECT place, rows, remains FROM job_erase_payload(%s, %s, %s)", (key, value, actor)
        ).fetchall()
    return [Erased(*one) for one in found]


@contextmanager
def erasing() -> Iterator[None]:
    """Converts what the server says of running jobs, of locked rows and of keys that are in use.

    Raises:
        StillRunning: a job whose texts would be erased is running.
        Refused: says the others in a sentence.
    """
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        raise Refused("Another session has locked a row of theirs. Nothing was erased; try again.") from None
    except psycopg.errors.UniqueViolation as error:
        raise Refused(
            f"What is erased would meet an earlier erasure ({error.diag.constraint_name}). Nothing was erased."
        ) from None
    except psycopg.DatabaseError as error:
        if error.diag.message_hint != RUNNING:
            raise
        raise StillRunning(error.diag.message_primary or "A job is running.") from None
