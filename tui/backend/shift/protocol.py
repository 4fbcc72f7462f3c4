"""What the dashboard asks of the backend for notes and mutes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from jobdeck.core.read.operators.notes import Note


class Shift(Protocol):
    """Notes and mutes. Methods block and raise `JobdeckError`; each change is in the audit."""

    def notes(self) -> Sequence[Note]:
        """Reads the open notes, newest first."""

    def leave_note(self, text: str, days: int) -> int:
        """Leaves a note for some days and returns its id.

        Raises:
            Refused: it is empty or too long, or the days are out of range.
        """

    def acknowledge(self, note_id: int) -> None:
        """Closes a note.

        Raises:
            Refused: it is not open.
        """

    def mute(self, task_type: str, fingerprint: str, until: datetime, reason: str | None) -> None:
        """Mutes a group of errors until a time.

        Raises:
            Refused: the time is in the past or too late.
        """

    def unmute(self, task_type: str, fingerprint: str, reason: str | None) -> None:
        """Ends a mute.

        Raises:
            Refused: the group is not muted.
        """
