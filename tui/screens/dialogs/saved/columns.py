"""The dialog that chooses the columns of a tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.content import Content

from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.widgets.ink import Line
from jobdeck.tui.widgets.jobs.columns import CATALOGUE, FIRST
from jobdeck.tui.widgets.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from collections.abc import Collection

    from textual.app import ComposeResult


class ChooseColumns(Dialog[tuple[str, ...] | None]):
    """Returns the columns in their order, nothing for the usual ones, or None without a change."""

    DIALOG: ClassVar[str] = "columns"

    def __init__(self, tab: str, shown: Collection[str]) -> None:
        """`shown` are the columns of the tab as they are now."""
        super().__init__()
        self.tab = tab
        self.shown = {*shown, FIRST}

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(f"Columns of the tab {self.tab}")
            marks, usual = f"{self.key('mark')} marks", f"{self.key('usual')} usual ones"
            box.border_subtitle = Content(f"{marks} · {usual} · enter saves · {self.key('close')} cancels")
            yield Pane(id="found")
            yield Line(id="reason")

    def on_mount(self) -> None:
        self.query_one(Pane).focus()
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        self.query_one(Pane).show([self._entry(name, title) for name, title in CATALOGUE.items()])
        self.query_one("#reason", Line).show([(" What does not fit is left out, from the end.", "muted")])

    def action_move(self, by: int) -> None:
        self.query_one(Pane).move(by)

    def action_mark(self) -> None:
        """Shows or hides the column under the cursor; the job is always shown."""
        name = str(self.query_one(Pane).current)
        if name != FIRST:
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
