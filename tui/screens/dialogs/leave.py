"""The dialog before leaving while jobs run in this dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static

from jobdeck.tui.format import plural
from jobdeck.tui.screens.dialogs.dialog import Dialog

if TYPE_CHECKING:
    from textual.app import ComposeResult


class Leave(Dialog[str | None]):
    """Asks what to do with the jobs that run here: `finish`, `hand back`, or None to stay."""

    DIALOG: ClassVar[str] = "leave"

    def __init__(self, running: int, *, cycle: bool, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self.running = running
        self.cycle = cycle

    def compose(self) -> ComposeResult:
        what = [plural(self.running, "job")] if self.running else []
        what += ["a cycle of Run Worker"] if self.cycle else []
        one = self.running == 1 and not self.cycle
        running, them = ("the running job", "it") if one else ("running jobs", "them")
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content("Leave Jobdeck")
            yield Static(
                Content(
                    f"{' and '.join(what).capitalize()} still running in this dashboard.\n\n"
                    f"Finish: take no new jobs; give {running} {self.patience:g} s, then return {them} to the queue.\n"
                    f"Return now: stop {them} and return {them} to the queue; the attempt does not count.\n"
                    "Stay: keep working."
                )
            )
            with Horizontal(id="buttons"):
                yield Button(Content("Stay"), id="stay")
                yield Button(Content("Finish"), id="finish")
                yield Button(Content("Return now"), id="back", disabled=not self.running)

    def on_mount(self) -> None:
        self.query_one("#stay", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss({"finish": "finish", "back": "hand back"}.get(event.button.id or ""))
