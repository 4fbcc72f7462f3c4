"""The dialog that asks for the name under which a filter is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.errors import JobdeckError
from jobdeck.core.read.operators.preferences import SIGN
from jobdeck.tui.commands import save_filter_twin
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.widgets.fields import OneLine, Twin

if TYPE_CHECKING:
    from textual.app import ComposeResult


class NameFilter(Dialog[str | None]):
    """Saves a filter and returns the name of it, or None."""

    DIALOG: ClassVar[str] = "name_filter"

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content("Save this filter")
            box.border_subtitle = Content(f"enter saves · {self.key('close')} cancels")
            yield Static(Content(one_line(self.words)))
            yield Static(Content("Name, letters and digits; a name that is taken is replaced"), classes="label")
            yield OneLine("", example="stuck-pushes", id="name")
            yield Static(id="problem")
            yield Twin()

    def on_mount(self) -> None:
        self.query_one("#name", OneLine).focus()
        self._draw()

    def on_input_changed(self) -> None:
        self.query_one("#problem", Static).update(Content(""))
        self._draw()

    def on_input_submitted(self) -> None:
        """Saves it; what is refused is said, and the dialog stays."""
        name = self._typed()
        try:
            self.deck.options.preferences.save_filter(name, self.words)
        except JobdeckError as error:
            self.query_one("#problem", Static).update(Content.styled(one_line(str(error)), "$error"))
            return
        self.dismiss(name.lower())

    def _typed(self) -> str:
        return self.query_one("#name", OneLine).value.strip().removeprefix(SIGN)

    def _draw(self) -> None:
        self.query_one(Twin).show(save_filter_twin(self._typed(), self.words) if self._typed() else "")
