"""The dialog that mutes a group of errors, and the question before its mute ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from jobdeck.core.errors import UsageError
from jobdeck.core.times import parse_ahead
from jobdeck.tui.commands import mute_twin, unmute_twin
from jobdeck.tui.format import age, fit, one_line
from jobdeck.tui.screens.dialogs.confirm import Question, needed_word
from jobdeck.tui.screens.dialogs.dialog import Dialog, Hint
from jobdeck.tui.widgets.fields import OneLine, Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from jobdeck.core.read.operators.notes import Mute
    from jobdeck.core.read.report_types import ErrorGroup

LONGEST: Final = timedelta(days=365)
"""How long the queue allows a mute to be."""
UNSAID: Final = timedelta(weeks=52)
"""How long a group is muted if nobody says until when."""
SAMPLE: Final = 64


@dataclass(frozen=True, slots=True)
class MuteAnswer:
    """Until when a group is muted, and why. `typed` is the end as it was typed."""

    until: datetime
    typed: timedelta | datetime
    reason: str | None


class MuteErrors(Dialog[MuteAnswer | None]):
    """Asks until when to mute a group, and why. Nothing changes before Mute."""

    DIALOG: ClassVar[str] = "mute"

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
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Cancel"), id="cancel")
                yield Button(Content("Mute"), id="yes")
                yield Hint([("enter next", ""), (f"{self.key('close')} cancels", "dismiss")])

    def on_mount(self) -> None:
        self.query_one("#until", Input).focus()
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter moves from the end to the reason, and from there to the button."""
        if event.input.id == "until":
            self.query_one("#reason", Input).focus()
        elif self._answer() is not None:
            self.query_one("#yes", Button).focus()

    def on_input_changed(self) -> None:
        self.query_one("#problem", Static).update(Content(""))
        self._draw()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id != "yes":
            self.dismiss(None)
            return
        answer = self._answer()
        if answer is not None:
            self.dismiss(answer)

    def _draw(self) -> None:
        """Shows the end in full and the equivalent command; no command while the end cannot be read."""
        try:
            end = self._read()
        except UsageError:
            said, twin = "", ""
        else:
            left = age(end.until - self.deck.now())
            said = f"  = {end.until:%Y-%m-%d %H:%M}Z, in {left}" if self._text("until") else "  empty: for 52 weeks"
            twin = mute_twin(self.group, end.typed, end.reason)
        self.query_one("#ends", Static).update(Content.assemble("Mute until", (said, "$ink-muted")))
        self.query_one(Twin).show(twin)

    def _text(self, name: str) -> str:
        return self.query_one(f"#{name}", Input).value.strip()

    def _read(self) -> MuteAnswer:
        """The fields.

        Raises:
            UsageError: the end cannot be read, is past, or is more than a year away.
        """
        now, text = self.deck.now(), self._text("until")
        typed = parse_ahead(text, now, what="time until which to mute") if text else UNSAID
        until = now + typed if isinstance(typed, timedelta) else typed
        if until > now + LONGEST:
            raise UsageError("Errors are muted for 365 days at most. Choose an earlier time.")
        return MuteAnswer(until, typed, self._text("reason") or None)

    def _answer(self) -> MuteAnswer | None:
        """The answer; None if the end cannot be used, which is shown."""
        try:
            return self._read()
        except UsageError as error:
            self.query_one("#problem", Static).update(Content.styled(str(error), "$error"))
            self.query_one("#until", Input).focus()
            return None


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
