"""The dialog that pauses Automatic Processing, with a reason and a time to resume."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from jobdeck.core.errors import UsageError
from jobdeck.core.times import parse_ahead
from jobdeck.tui.commands import pause_twin
from jobdeck.tui.format import age, count
from jobdeck.tui.screens.dialogs.dialog import Dialog, Hint
from jobdeck.tui.widgets.fields import Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """The reason of a pause, and the duration or time after which it ends; None until someone resumes."""

    reason: str | None
    until: timedelta | datetime | None


class Pause(Dialog[PauseAnswer | None]):
    """Asks for a reason and a time. Nothing is paused until the button Pause is pressed."""

    DIALOG: ClassVar[str] = "pause"

    def __init__(self, waiting: int) -> None:
        super().__init__()
        self.waiting = waiting

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content("Pause Automatic Processing")
            yield Static(
                Content(
                    "No worker will take another job. Running jobs finish; jobs can still be added. "
                    f"{count(self.waiting)} jobs are pending."
                )
            )
            yield Static(Content("Reason (optional), for other operators"), classes="label")
            yield self._field("reason", "e.g. vendor outage, INC-123")
            yield Static(id="resumes", classes="label")
            yield self._field("until", "2h, 1d, tomorrow 9:00 (UTC)")
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Keep running"), id="cancel")
                yield Button(Content("Pause"), id="yes", classes="-danger")
                yield Hint([("enter next", ""), (f"{self.key('close')} cancels", "dismiss")])

    def on_mount(self) -> None:
        self.query_one("#reason", Input).focus()
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter moves from the reason to the time, and from there to the button."""
        if event.input.id == "reason":
            self.query_one("#until", Input).focus()
        elif self._is_readable():
            self.query_one("#yes", Button).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "until":
            self.query_one("#problem", Static).update(Content(""))
        self._draw()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id != "yes":
            self.dismiss(None)
            return
        if self._is_readable():
            self.dismiss(PauseAnswer(self._reason(), self._until()))

    def _field(self, name: str, example: str) -> Input:
        field = Input(id=name, placeholder=example, compact=True)
        field.cursor_blink = False
        return field

    def _reason(self) -> str | None:
        return self.query_one("#reason", Input).value.strip() or None

    def _draw(self) -> None:
        """Shows the full time and the equivalent command; neither while the time cannot be read."""
        at = twin = ""
        try:
            until = self._until()
        except UsageError:
            pass
        else:
            twin = pause_twin(self._reason(), until)
            at = self._in_full(until) if until else "leave empty to stay paused until someone resumes"
        label = Content.assemble("Resume time", (f"  {at}", "$ink-muted"))
        self.query_one("#resumes", Static).update(label)
        self.query_one(Twin).show(twin)

    def _in_full(self, until: timedelta | datetime) -> str:
        now = self.deck.now()
        moment = until if isinstance(until, datetime) else now + until
        return f"= {moment:%Y-%m-%d %H:%M}Z, in {age(moment - now)}"

    def _until(self) -> timedelta | datetime | None:
        """The duration or time that was typed; None for an empty field.

        Raises:
            UsageError: it cannot be read, or is past.
        """
        text = self.query_one("#until", Input).value.strip()
        return parse_ahead(text, self.deck.now(), what="time to resume") if text else None

    def _is_readable(self) -> bool:
        """Whether the time can be read; if not, shows the reason."""
        try:
            self._until()
        except UsageError as error:
            self.query_one("#problem", Static).update(Content.styled(str(error), "$error"))
            self.query_one("#until", Input).focus()
            return False
        return True
