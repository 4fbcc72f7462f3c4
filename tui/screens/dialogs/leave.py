"""The dialog that stands before leaving while jobs run in this dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Button, Static

from jobdeck.tui.dialog_keys import bindings
from jobdeck.tui.format import plural
from jobdeck.tui.screens.dialogs.dialog import Dialog

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType


class Leave(Dialog[str | None]):
    """Asks what becomes of the jobs that run here: `finish`, `hand back`, or stay (None)."""

    DIALOG: ClassVar[str] = "leave"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("leave")]

    def __init__(self, running: int, *, cycle: bool, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self.running = running
        self.cycle = cycle

    def compose(self) -> ComposeResult:
        """One box: what runs, and the three ways."""
        what = [plural(self.running, "job")] if self.running else []
        what += ["a cycle of Run Worker"] if self.cycle else []
        one = self.running == 1 and not self.cycle
        verbs = "it gets {}, then it is" if one else "they get {}, then they are"
        given_back = "it is asked to stop and goes" if one else "they are asked to stop and go"
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content("Leave Jobdeck")
            yield Static(
                Content(
                    f"{' and '.join(what).capitalize()} still running in this dashboard.\n\n"
                    f"Finish: claim nothing more; {verbs.format(f'{self.patience:g} s')} handed back.\n"
                    f"Hand back: {given_back} back to the queue, the attempt not counted.\n"
                    "Stay: go on as before."
                )
            )
            with Horizontal(id="buttons"):
                yield Button(Content("Stay"), id="stay")
                yield Button(Content("Finish"), id="finish")
                yield Button(Content("Hand back"), id="back", disabled=not self.running)

    def on_mount(self) -> None:
        """The harmless answer is in focus."""
        self.query_one("#stay", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The answer."""
        self.dismiss({"finish": "finish", "back": "hand back"}.get(event.button.id or ""))
