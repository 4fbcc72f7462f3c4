"""Notes and mutes in an in-memory queue."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from jobdeck.core.errors import Refused
from jobdeck.core.read.operators.notes import Mute, Note
from jobdeck.tui.backend.parts import Shift

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tests.tui.fake import FakeBackend

ALICE = "alice@10.0.0.7"


class FakeShift(Shift):
    """Keeps notes and mutes where the pages of a `FakeBackend` read them."""

    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend

    def notes(self) -> Sequence[Note]:
        return self.backend.evidence.notes

    def leave_note(self, text: str, days: int) -> int:
        self._reach("leave note", text, days)
        found = self.backend.evidence
        note_id = max((note.id for note in found.notes), default=0) + 1
        at = self.backend.at
        found.notes = (Note(note_id, at, ALICE, text, at + timedelta(days=days)), *found.notes)
        return note_id

    def acknowledge(self, note_id: int) -> None:
        self._reach("acknowledge", note_id)
        found = self.backend.evidence
        if note_id not in {note.id for note in found.notes}:
            raise Refused(f"There is no open note {note_id}.")
        found.notes = tuple(note for note in found.notes if note.id != note_id)

    def mute(self, task_type: str, fingerprint: str, until: datetime, reason: str | None) -> None:
        self._reach("mute", task_type, fingerprint, until, reason)
        self.backend.evidence.mutes = (Mute(task_type, fingerprint, until, reason, ALICE),)

    def unmute(self, task_type: str, fingerprint: str, reason: str | None) -> None:
        self._reach("unmute", task_type, fingerprint, reason)
        if not self.backend.evidence.mutes:
            raise Refused("This group of errors is not muted.")
        self.backend.evidence.mutes = ()

    def _reach(self, *call: object) -> None:
        self.backend.calls.append(call)
        if self.backend.failure is not None:
            raise self.backend.failure
