"""Notes to the next shift and muted errors: thin, typed calls into the functions of `schema.sql`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.queue.calls import Connection, rows
from jobdeck.core.read.operators.notes import SHOWN_DAYS

if TYPE_CHECKING:
    from datetime import datetime


def add(conn: Connection, note: str, *, days: int = SHOWN_DAYS, actor: str) -> int:
    """Leaves a note, which is shown until somebody acknowledges it or for 1 to 30 days. Returns its id.

    Raises:
        Refused: the note is empty or too long, the days are out of range, or it has a character that cannot be stored.
    """
    return int(rows(conn, "SELECT job_note_add(%s, %s, %s) AS id", (note, days, actor))[0]["id"])


def acknowledge(conn: Connection, note_id: int, *, actor: str) -> None:
    """Acknowledges a note, which is shown no longer.

    Raises:
        Refused: there is no open note with this id.
    """
    rows(conn, "SELECT job_note_acknowledge(%s, %s)", (note_id, actor))


def mute(
    conn: Connection, task_type: str, fingerprint: str, *, until: datetime, actor: str, reason: str | None = None
) -> None:
    """Mutes a group of errors until a time, at most 365 days; muted again, it has the new time and reason.

    Raises:
        Refused: the time is in the past or too late.
    """
    _mute(conn, task_type, fingerprint, until, actor, reason)


def unmute(conn: Connection, task_type: str, fingerprint: str, *, actor: str, reason: str | None = None) -> None:
    """Ends a mute.

    Raises:
        Refused: the group is not muted.
    """
    _mute(conn, task_type, fingerprint, None, actor, reason)


def _mute(
    conn: Connection, task_type: str, fingerprint: str, until: datetime | None, actor: str, reason: str | None
) -> None:
    rows(conn, "SELECT job_error_mute(%s, %s, %s, %s, %s)", (task_type, fingerprint, until, actor, reason))
