"""The dialog that pauses everything or one task type, with a reason and a time to resume."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Input, Static

from jobdeck.core.errors import UsageError
from jobdeck.core.plugins import Found
from jobdeck.core.times import parse_ahead
from jobdeck.tui.commands import pause_twin
from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.form.widgets import PickField
from jobdeck.tui.format import age, count, one_line
from jobdeck.tui.screens.dialogs.dialog import Dialog, Hint
from jobdeck.tui.screens.dialogs.picker import Picker
from jobdeck.tui.widgets.fields import Twin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

EVERYTHING: Final = "Everything (Automatic Processing)"


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """The reason of a pause, and the duration or time after which it ends; None until someone resumes.

    `task_type` is the type that is paused, None for everything.
    """

    reason: str | None
    until: timedelta | datetime | None
    task_type: str | None = None


class Pause(Dialog[PauseAnswer | None]):
    """Asks what to pause, why, and until when. Nothing is paused until the button Pause is pressed."""

    DIALOG: ClassVar[str] = "pause"

    def __init__(self, waiting: int, types: Sequence[str] = (), task_type: str | None = None) -> None:
        """`types` are those to choose from, and `task_type` the one that is chosen first, None for everything."""
        super().__init__()
        self.waiting = waiting
        self.types = types
        self.task_type = task_type

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", classes="-warn", can_focus=False):
            yield Static(id="effect")
            yield Static(Content(f"What  {self.key('previous')} and enter choose another"), classes="label")
            yield PickField("", id="what")
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
            self.dismiss(PauseAnswer(self._reason(), self._until(), self.task_type))

    def on_pick_field_opened(self, event: PickField.Opened) -> None:
        """Opens the list of task types."""
        names = [Found(name, name) for name in self.types]
        offer = Offer("Pause", among(names), event.typed, EVERYTHING, self.task_type or "")
        self.app.push_screen(Picker(offer), self._choose)

    def on_pick_field_cleared(self) -> None:
        self._choose(Found("", EVERYTHING))

    def _choose(self, found: Found | None) -> None:
        if found is not None:
            self.task_type = found.id or None
            self._draw()

    def _field(self, name: str, example: str) -> Input:
        field = Input(id=name, placeholder=example, compact=True)
        field.cursor_blink = False
        return field

    def _reason(self) -> str | None:
        return self.query_one("#reason", Input).value.strip() or None

    def _draw(self) -> None:
        """Shows what is paused, the full time and the equivalent command; no command while the time is unreadable."""
        self._draw_effect()
        at = twin = ""
        try:
            until = self._until()
        except UsageError:
            pass
        else:
            twin = pause_twin(self._reason(), until, self.task_type)
            at = self._in_full(until) if until else "leave empty to stay paused until someone resumes"
        label = Content.assemble("Resume time", (f"  {at}", "$ink-muted"))
        self.query_one("#resumes", Static).update(label)
        self.query_one(Twin).show(twin)

    def _draw_effect(self) -> None:
        name = one_line(self.task_type) if self.task_type else ""
        self.query_one("#box").border_title = Content(f"Pause {name or 'Automatic Processing'}")
        self.query_one("#what", PickField).set_label(name or EVERYTHING)
        of_it = " of this type" if name else ""
        pending = "" if name else f" {count(self.waiting)} jobs are pending."
        self.query_one("#effect", Static).update(
            Content(f"No worker will take another job{of_it}. Running jobs finish; jobs can still be added.{pending}")
        )

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
