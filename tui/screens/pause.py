"""The dialog that pauses Automatic Processing: why, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from core.errors import UsageError
from core.timeparse import parse_duration
from tui.form_widgets import Twin
from tui.format import count
from tui.twins import pause_twin

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType


@dataclass(frozen=True, slots=True)
class PauseAnswer:
    """Why processing is to be paused, and after how long it resumes by itself; None is not by itself."""

    reason: str | None
    resume_after: timedelta | None


class Pause(ModalScreen[PauseAnswer | None]):
    """Asks for a reason and a time. Nothing is paused until Pause is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "keep running"),
        ("up", "app.focus_previous", "previous"),
        ("down", "app.focus_next", "next"),
    ]

    def __init__(self, waiting: int) -> None:
        super().__init__()
        self.waiting = waiting

    def compose(self) -> ComposeResult:
        """One box: two fields, what is wrong with them, the command, the buttons."""
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content("Pause Automatic Processing")
            yield Static(
                Content(
                    "No worker claims another job. Running jobs finish; jobs can still be added. "
                    f"{count(self.waiting)} pending jobs wait."
                )
            )
            yield Static(Content("Reason, for the other operators"), classes="label")
            yield self._field("reason", "MetaCTF is down")
            yield Static(Content("Resume by itself after"), classes="label")
            yield self._field("after", "30m, 2h, 1d; empty: when someone resumes")
            yield Static(id="problem")
            yield Twin()
            with Horizontal(id="buttons"):
                yield Button(Content("Keep running"), id="cancel")
                yield Button(Content("Pause"), id="yes", classes="-danger")
                yield Static(Content("enter next · esc keep running"), id="hint")

    def on_mount(self) -> None:
        """The reason comes first."""
        self.query_one("#reason", Input).focus()
        self._draw_twin()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter goes on: from the reason to the time, from there to the button."""
        if event.input.id == "reason":
            self.query_one("#after", Input).focus()
        elif self._after() is not None:
            self.query_one("#yes", Button).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """What was wrong is taken back while it is being corrected."""
        if event.input.id == "after":
            self.query_one("#problem", Static).update(Content(""))
        self._draw_twin()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Pauses, or does not."""
        if event.button.id != "yes":
            self.dismiss(None)
            return
        after = self._after()
        if after is not None:
            self.dismiss(PauseAnswer(self._reason(), after or None))

    def _field(self, name: str, example: str) -> Input:
        field = Input(id=name, placeholder=example, compact=True)
        field.cursor_blink = False
        return field

    def _reason(self) -> str | None:
        return self.query_one("#reason", Input).value.strip() or None

    def _draw_twin(self) -> None:
        """The command that does the same; none while the time cannot be read."""
        try:
            text = pause_twin(self._reason(), self._span() or None)
        except UsageError:
            text = ""
        self.query_one(Twin).show(text)

    def _span(self) -> timedelta:
        """The time asked for, zero for none.

        Raises:
            UsageError: it cannot be read.
        """
        text = self.query_one("#after", Input).value.strip()
        return parse_duration(text, what="time to resume after") if text else timedelta(0)

    def _after(self) -> timedelta | None:
        """The same, and None, with the reason shown, where it cannot be read."""
        try:
            return self._span()
        except UsageError as error:
            self.query_one("#problem", Static).update(Content.styled(str(error), "$error"))
            self.query_one("#after", Input).focus()
            return None
