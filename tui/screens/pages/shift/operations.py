"""The actions on notes and mutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.tui.commands import acknowledge_twin, mute_twin, note_twin, unmute_twin
from jobdeck.tui.format import one_line

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from jobdeck.core.read.operators.notes import Note
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.deck import Deck


def leave_note(deck: Deck, text: str, days: int) -> None:
    deck.operations.do(
        "leave the note",
        lambda: deck.reach().shift.leave_note(text, days),
        lambda note_id: f"Note {note_id} is left for {days} d. {deck.key('page.audit')} shows it.",
        note_twin(text, days),
    )


def acknowledge(deck: Deck, note: Note) -> None:
    work = deck.reach().shift.acknowledge
    said = f"Note {note.id} acknowledged."
    deck.operations.do(f"acknowledge note {note.id}", lambda: work(note.id), lambda _: said, acknowledge_twin(note))


def mute(deck: Deck, group: ErrorGroup, until: datetime, same: timedelta | datetime, reason: str | None) -> None:
    """Mutes a group of errors; `same` is the end as it was typed, for the equivalent command."""
    work = deck.reach().shift.mute
    said = f"Errors of {one_line(group.task_type)} muted until {until:%m-%d %H:%M}Z."
    twin = mute_twin(group, same, reason)
    deck.operations.do("mute these errors", lambda: work(*group.key, until, reason), lambda _: said, twin)


def unmute(deck: Deck, group: ErrorGroup, reason: str | None) -> None:
    work = deck.reach().shift.unmute
    said = f"Errors of {one_line(group.task_type)} are not muted any more."
    deck.operations.do(
        "unmute these errors", lambda: work(*group.key, reason), lambda _: said, unmute_twin(group, reason)
    )
