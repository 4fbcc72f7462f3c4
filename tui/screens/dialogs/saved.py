"""The dialogs for what a person saves: a filter under a name, and the columns of a tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.errors import JobdeckError
from jobdeck.core.read.operators.preferences import SIGN
from jobdeck.tui.commands import save_filter_twin
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.dialogs.dialog import Dialog, ListDialog
from jobdeck.tui.widgets.fields import OneLine, Twin
from jobdeck.tui.widgets.ink import Line
from jobdeck.tui.widgets.jobs.columns import ALWAYS, CATALOGUE
from jobdeck.tui.widgets.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from collections.abc import Collection

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


FRAME: Final = 4
"""The lines of the dialog of columns around its list."""


class ChooseColumns(ListDialog[tuple[str, ...] | None]):
    """Returns the columns in their order, nothing for the usual ones, or None without a change."""

    DIALOG: ClassVar[str] = "columns"

    def __init__(self, tab: str, shown: Collection[str]) -> None:
        """`shown` are the columns of the tab as they are now."""
        super().__init__()
        self.tab = tab
        self.shown = {*shown, ALWAYS}

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(f"Columns of the tab {self.tab}")
            marks, usual = f"{self.key('mark')} marks", f"{self.key('usual')} usual ones"
            box.border_subtitle = Content(f"{marks} · {usual} · enter saves · {self.key('close')} cancels")
            yield Pane(id="found")
            yield Line(id="reason")

    def on_mount(self) -> None:
        self.pane.focus()

    def redraw(self) -> None:
        self.pane.styles.height = min(len(CATALOGUE), max(self.size.height - FRAME, 1))
        self.pane.show([self._entry(name, title) for name, title in CATALOGUE.items()])
        self._say()

    def on_pane_moved(self) -> None:
        self._say()

    def on_lines_resized(self) -> None:
        """Says which lines are seen."""
        self._say()

    def _say(self) -> None:
        said = " What does not fit is left out, from the end."
        self.query_one("#reason", Line).show([(said, "muted")], [(self.pane.place, "muted")])

    def action_mark(self) -> None:
        """Shows or hides the column under the cursor; the task is always shown."""
        name = str(self.pane.current)
        if name != ALWAYS:
            self.shown ^= {name}
        self.redraw()

    def action_take(self) -> None:
        self.dismiss(tuple(name for name in CATALOGUE if name in self.shown))

    def action_usual(self) -> None:
        self.dismiss(())

    def on_pane_chosen(self) -> None:
        self.action_mark()

    def _entry(self, name: str, title: str) -> Entry:
        shown = name in self.shown
        return entry((" ✓ " if shown else "   ", "key"), (title, "text"), key=name)
