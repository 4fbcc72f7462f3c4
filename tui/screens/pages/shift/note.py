"""The dialog that leaves a note for the next shift, and the question that shows a note in full."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.errors import UsageError
from jobdeck.core.read.operators.notes import LONGEST_NOTE, MOST_DAYS, SHOWN_DAYS
from jobdeck.tui.commands import acknowledge_twin, note_twin
from jobdeck.tui.format import ago, one_line, shown, stamp
from jobdeck.tui.screens.dialogs.confirm import Question, needed_word
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog
from jobdeck.tui.widgets.fields import OneLine, Twin

if TYPE_CHECKING:
    from datetime import datetime

    from textual.app import ComposeResult

    from jobdeck.core.read.operators.notes import Note


@dataclass(frozen=True, slots=True)
class NoteAnswer:
    """The text of a note, and the days that it is shown."""

    text: str
    days: int


class LeaveNote(FieldsDialog[NoteAnswer]):
    """Asks for the text of a note, and how long to show it."""

    DIALOG: ClassVar[str] = "note"
    FIELDS: ClassVar[tuple[str, ...]] = ("text", "days")

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", can_focus=False) as box:
            box.border_title = Content("Leave a note for the next shift")
            yield Static(Content("The status, the digest and this page show it to everybody until somebody "
                                 "acknowledges it."))  # fmt: skip
            yield Static(Content("Note"), classes="label")
            yield OneLine("", example="e.g. the vendor calls back at 14:00, INC-123", id="text")
            yield Static(Content(f"Days to show it, 1 to {MOST_DAYS}"), classes="label")
            yield OneLine("", example=f"empty: {SHOWN_DAYS}", id="days")
            yield from self.ending("Leave note")

    def draw(self) -> None:
        """Shows the equivalent command; none while a field cannot be used."""
        try:
            answer = self.read()
        except UsageError:
            self.query_one(Twin).show("")
        else:
            self.query_one(Twin).show(note_twin(answer.text, answer.days))

    def read(self) -> NoteAnswer:
        return NoteAnswer(self._note(), self._days())

    def _note(self) -> str:
        """The text of the note.

        Raises:
            UsageError: it is empty or too long.
        """
        text = self.text("text")
        if not 1 <= len(text) <= LONGEST_NOTE:
            raise UsageError(f"A note has 1 to {LONGEST_NOTE:,} characters.")
        return text

    def _days(self) -> int:
        """The days to show it.

        Raises:
            UsageError: they are no number from 1 to `MOST_DAYS`.
        """
        text = self.text("days") or str(SHOWN_DAYS)
        if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= MOST_DAYS:
            raise UsageError(f"A note is shown for 1 to {MOST_DAYS} days.")
        return int(text)


def note_question(note: Note, at: datetime, *, production: bool, read_only: str | None) -> Question:
    """A note in full, and whether to acknowledge it; with `read_only`, why it cannot be."""
    lines = [
        Content(shown(note.note, multiline=True)),
        Content(""),
        Content.styled(f"shown until {stamp(note.until, at)}", "$ink-muted"),
    ]
    if read_only:
        return Question(_title(note, at), Content("\n").join([*lines, Content(read_only)]), "", no="Close")
    lines.append(Content("Acknowledged, it is shown to nobody any more; the audit keeps who did it."))
    word = needed_word("acknowledge", 1, production=production)
    return Question(
        _title(note, at), Content("\n").join(lines), "Acknowledge", no="Keep", word=word, twin=acknowledge_twin(note)
    )


def _title(note: Note, at: datetime) -> str:
    return f"Note {note.id} of {one_line(note.actor)}, {ago(note.at, at)}"
