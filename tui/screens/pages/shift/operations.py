"""The actions on notes and mutes. Each runs once, in the background, and ends with a toast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.tui.commands import acknowledge_twin, mute_twin, note_twin, unmute_twin
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from jobdeck.core.read.operators.notes import Note
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.deck import Deck


class ShiftOperations:
    """Starts the actions and reports their results."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def leave_note(self, text: str, days: int) -> None:
        """Leaves a note for the next shift."""

        def done(note_id: int) -> None:
            audit = self._deck.key("page.audit")
            self._deck.say(f"Note {note_id} is left for {days} d. {audit} shows it.\n{note_twin(text, days)}")

        self._deck.operations.run("leave the note", lambda: self._deck.reach().shift.leave_note(text, days), done)

    def acknowledge(self, note: Note) -> None:
        """Closes a note."""

        def done(_none: None) -> None:
            self._deck.say(f"Note {note.id} acknowledged.\n{acknowledge_twin(note)}")

        work = self._deck.reach().shift.acknowledge
        self._deck.operations.run(f"acknowledge note {note.id}", lambda: work(note.id), done)

    def mute(self, group: ErrorGroup, until: datetime, same: timedelta | datetime, reason: str | None) -> None:
        """Mutes a group of errors; `same` is the end as it was typed, for the equivalent command."""

        def done(_none: None) -> None:
            self._deck.say(
                f"Errors of {one_line(group.task_type)} muted until {until:%m-%d %H:%M}Z.\n"
                f"{mute_twin(group, same, reason)}"
            )

        work = self._deck.reach().shift.mute
        self._deck.operations.run("mute these errors", lambda: work(*group.key, until, reason), done)

    def unmute(self, group: ErrorGroup, reason: str | None) -> None:
        """Ends the mute of a group of errors."""

        def done(_none: None) -> None:
            self._deck.say(
                f"Errors of {one_line(group.task_type)} are not muted any more.\n{unmute_twin(group, reason)}"
            )

        work = self._deck.reach().shift.unmute
        self._deck.operations.run("unmute these errors", lambda: work(*group.key, reason), done)
