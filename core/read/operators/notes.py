"""The open notes to the next shift, and the groups of errors that are muted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from jobdeck.core.read.batch import select

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.read.batch import Query

LISTED: Final = 100
SHOWN_DAYS: Final = 7
"""How long a note is shown when nobody acknowledges it and its author says nothing else."""
MOST_DAYS: Final = 30
LONGEST_NOTE: Final = 2000
LONGEST_MUTE: Final = timedelta(days=365)
"""Limits of `job_note_add` and `job_error_mute`, for what asks a person before it calls them."""


@dataclass(frozen=True, slots=True)
class Note:
    """A note that nobody has acknowledged yet."""

    id: int
    at: datetime
    actor: str
    note: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Mute:
    """A group of errors, by type and fingerprint, that is muted until a time."""

    task_type: str
    fingerprint: str
    until: datetime
    reason: str | None
    actor: str

    @property
    def key(self) -> tuple[str, str]:
        return self.task_type, self.fingerprint


def open_notes() -> Query[tuple[Note, ...]]:
    """The newest open notes, newest first."""
    return select(
        "SELECT id, at, actor, note, until FROM job_note_list ORDER BY id DESC LIMIT %(most)s",
        {"most": LISTED},
        read=lambda rows: tuple(Note(**row) for row in rows),
    )


def mutes() -> Query[tuple[Mute, ...]]:
    """The mutes that have not ended, by type and fingerprint."""
    return select(
        """
        SELECT task_type, fingerprint, until, reason, actor FROM job_error_mutes
        WHERE until > now() ORDER BY task_type, fingerprint LIMIT 10000
        """,
        read=lambda rows: tuple(Mute(**row) for row in rows),
    )
