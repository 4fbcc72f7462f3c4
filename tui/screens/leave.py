"""The dialog that stands before leaving while jobs run in this dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from tui.format import plural

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType


class Leave(ModalScreen[str | None]):
    """Asks what becomes of the jobs that run here: `finish`, `hand back`, or stay (None)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q", "dismiss", "stay"),
        ("left,up,h,k", "app.focus_previous", "previous"),
        ("right,down,l,j", "app.focus_next", "next"),
    ]

    def __init__(self, running: int, *, cycle: bool, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self.running = running
        self.cycle = cycle

    def compose(self) -> ComposeResult:
        """One box: what runs, and the three ways."""
        what = [plural(self.running, "job")] if self.running else []
        what += ["a cycle of Run Worker"] if self.cycle else []
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content("Leave Jobdeck")
            yield Static(
                Content(
                    f"{' and '.join(what).capitalize()} still running in this dashboard.\n\n"
                    f"Finish: claim nothing more; they get {self.patience:g} s, then they are handed back.\n"
                    "Hand back: they are asked to stop and go back to the queue, their attempt not counted.\n"
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
