"""The dialog that mutes a group of errors, and the question before its mute ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from jobdeck.core.errors import UsageError
from jobdeck.core.read.operators.notes import LONGEST_MUTE
from jobdeck.core.times import parse_ahead
from jobdeck.tui.commands import mute_twin, unmute_twin
from jobdeck.tui.format import age, fit, one_line
from jobdeck.tui.screens.dialogs.confirm import Question, needed_word
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog
from jobdeck.tui.widgets.fields import OneLine, Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from jobdeck.core.read.operators.notes import Mute
    from jobdeck.core.read.report_types import ErrorGroup

UNSAID: Final = timedelta(weeks=52)
"""How long a group is muted if nobody says until when."""
SAMPLE: Final = 64


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
            yield Static(Content("Reason (optional), for other operators"), classes="label")
            yield OneLine("", example="e.g. known vendor outage, INC-123", id="reason")
            yield from self.ending("Mute")

    def draw(self) -> None:
        """Shows the end in full and the equivalent command; no command while the end cannot be read."""
        try:
            end = self.read()
        except UsageError:
            said, twin = "", ""
        else:
            left = age(end.until - self.deck.now())
            said = f"  = {end.until:%Y-%m-%d %H:%M}Z, in {left}" if self.text("until") else "  empty: for 52 weeks"
            twin = mute_twin(self.group, end.typed, end.reason)
        self.query_one("#ends", Static).update(Content.assemble("Mute until", (said, "$ink-muted")))
        self.query_one(Twin).show(twin)

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


def unmute_question(group: ErrorGroup, mute: Mute, now: datetime, *, production: bool) -> Question:
    """The question before a mute ends."""
    why = one_line(mute.reason) if mute.reason else "no reason given"
    lines = [
        Content.styled(fit(one_line(group.sample), SAMPLE).rstrip(), "$error"),
        Content(
            f"Muted by {one_line(mute.actor)} until {mute.until:%Y-%m-%d %H:%M}Z, for {age(mute.until - now)}: {why}"
        ),
        Content("Unmuted, it is marked as new again while it is."),
    ]
    word = needed_word("unmute", 1, production=production)
    title = f"Unmute errors of {one_line(group.task_type)}"
    return Question(title, Content("\n").join(lines), "Unmute", word=word, twin=unmute_twin(group, None), reasoned=True)
