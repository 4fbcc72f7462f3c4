"""The dialogs for what a shift leaves to the next: a note, and a mute of a group of errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from jobdeck.core.errors import UsageError
from jobdeck.core.read.operators.notes import LONGEST_MUTE, LONGEST_NOTE, MOST_DAYS, SHOWN_DAYS
from jobdeck.core.times import parse_ahead
from jobdeck.tui.commands import acknowledge_twin, mute_twin, note_twin, unmute_twin
from jobdeck.tui.format import age, ago, fit, one_line, shown, stamp
from jobdeck.tui.screens.dialogs.confirm import Question
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog
from jobdeck.tui.widgets.fields import OneLine

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from jobdeck.core.read.operators.notes import Mute, Note
    from jobdeck.core.read.report_types import ErrorGroup

UNSAID: Final = timedelta(weeks=52)
"""How long a group is muted if nobody says until when."""
SAMPLE: Final = 64
"""The cells of an error message that dialogs and toasts show."""


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
            yield from self.field("Note", "text", example="e.g. the vendor calls back at 14:00, INC-123")
            yield from self.field(f"Days to show it, 1 to {MOST_DAYS}", "days", example=f"empty: {SHOWN_DAYS}")
            yield from self.ending("Leave note")

    def twin(self, answer: NoteAnswer) -> str:
        return note_twin(answer.text, answer.days)

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


def note_question(note: Note, at: datetime, *, read_only: str | None) -> Question:
    """A note in full, and whether to acknowledge it; with `read_only`, why it cannot be."""
    lines = [
        Content(shown(note.note, multiline=True)),
        Content(""),
        Content.styled(f"shown until {stamp(note.until, at)}", "$ink-muted"),
    ]
    if read_only:
        return Question(_title(note, at), Content("\n").join([*lines, Content(read_only)]), "", no="Close")
    lines.append(Content("Acknowledged, it is shown to nobody any more; the audit keeps who did it."))
    body, twin = Content("\n").join(lines), acknowledge_twin(note)
    return Question(_title(note, at), body, "Acknowledge", "Keep", word="acknowledge", number=1, twin=twin)


def _title(note: Note, at: datetime) -> str:
    return f"Note {note.id} of {one_line(note.actor)}, {ago(note.at, at)}"


@dataclass(frozen=True, slots=True)
class MuteAnswer:
    """Until when a group is muted, and why. `typed` is the end as it was typed."""

    until: datetime
    typed: timedelta | datetime
    reason: str | None


class MuteErrors(FieldsDialog[MuteAnswer]):
    """Asks until when to mute a group, and why. Nothing changes before Mute."""

    DIALOG: ClassVar[str] = "mute"
    FIELDS: ClassVar[tuple[str, ...]] = ("until", "reason")

    def __init__(self, group: ErrorGroup) -> None:
        super().__init__()
        self.group = group

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", can_focus=False) as box:
            box.border_title = Content(f"Mute errors of {one_line(self.group.task_type)}")
            yield Static(Content.styled(fit(one_line(self.group.sample), SAMPLE).rstrip(), "$error"))
            yield Static(
                Content("The group stays listed and counted, but is not marked as new. Its jobs do not change.")
            )
            yield Static(id="ends", classes="label")
            yield OneLine("", example="2h, 3d, tomorrow 9:00 (UTC)", id="until")
            reason = "Reason (optional), for other operators"
            yield from self.field(reason, "reason", example="e.g. known vendor outage, INC-123")
            yield from self.ending("Mute")

    def twin(self, answer: MuteAnswer) -> str:
        return mute_twin(self.group, answer.typed, answer.reason)

    def explain(self, answer: MuteAnswer | None) -> None:
        """Shows the end in full."""
        said = ""
        if answer is not None:
            left = age(answer.until - self.deck.now())
            said = f"  = {answer.until:%Y-%m-%d %H:%M}Z, in {left}" if self.text("until") else "  empty: for 52 weeks"
        self.query_one("#ends", Static).update(Content.assemble("Mute until", (said, "$ink-muted")))

    def read(self) -> MuteAnswer:
        """The answer of the fields.

        Raises:
            UsageError: the end cannot be read, is past, or is more than a year away.
        """
        now, text = self.deck.now(), self.text("until")
        typed = parse_ahead(text, now, what="time until which to mute") if text else UNSAID
        until = now + typed if isinstance(typed, timedelta) else typed
        if until > now + LONGEST_MUTE:
            raise UsageError(f"Errors are muted for {LONGEST_MUTE.days} days at most. Choose an earlier time.")
        return MuteAnswer(until, typed, self.text("reason") or None)

    def refuse(self, problem: str) -> None:
        super().refuse(problem)
        self.query_one("#until", Input).focus()


def unmute_question(group: ErrorGroup, mute: Mute, now: datetime) -> Question:
    """The question before a mute ends."""
    why = one_line(mute.reason) if mute.reason else "no reason given"
    lines = [
        Content.styled(fit(one_line(group.sample), SAMPLE).rstrip(), "$error"),
        Content(
            f"Muted by {one_line(mute.actor)} until {mute.until:%Y-%m-%d %H:%M}Z, for {age(mute.until - now)}: {why}"
        ),
        Content("Unmuted, it is marked as new again while it is."),
    ]
    title = f"Unmute errors of {one_line(group.task_type)}"
    return Question(
        title,
        Content("\n").join(lines),
        "Unmute",
        word="unmute",
        number=1,
        twin=unmute_twin(group, None),
        reasoned=True,
    )
