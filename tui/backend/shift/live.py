"""Notes and mutes on Postgres. All methods block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.queue.operators import notes
from jobdeck.core.read.operators.notes import open_notes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from jobdeck.core.read.operators.notes import Note
    from jobdeck.tui.backend.link import Link


class LiveShift:
    """Implements `Shift`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def notes(self) -> Sequence[Note]:
        with self._link.reach("to read the notes") as conn:
            return open_notes().run(conn)

    def leave_note(self, text: str, days: int) -> int:
        with self._link.reach("to leave a note") as conn:
            return notes.add(conn, text, days=days, actor=self._link.who())

    def acknowledge(self, note_id: int) -> None:
        with self._link.reach("to acknowledge a note") as conn:
            notes.acknowledge(conn, note_id, actor=self._link.who())

    def mute(self, task_type: str, fingerprint: str, until: datetime, reason: str | None) -> None:
        with self._link.reach("to mute a group of errors") as conn:
            notes.mute(conn, task_type, fingerprint, until=until, actor=self._link.who(), reason=reason)

    def unmute(self, task_type: str, fingerprint: str, reason: str | None) -> None:
        with self._link.reach("to unmute a group of errors") as conn:
            notes.unmute(conn, task_type, fingerprint, actor=self._link.who(), reason=reason)
