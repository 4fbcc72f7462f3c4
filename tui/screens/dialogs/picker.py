"""A dialog to choose from a list that typing narrows down."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.containers import Vertical
from textual.content import Content

from jobdeck.core.plugins import Found
from jobdeck.tui.format import fit, one_line
from jobdeck.tui.screens.dialogs.dialog import Dialog
from jobdeck.tui.widgets.fields import OneLine
from jobdeck.tui.widgets.ink import Line
from jobdeck.tui.widgets.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.events import Resize

    from jobdeck.tui.form.lookup import Offer


class Picker(Dialog[Found | None]):
    """Returns the chosen item, or None."""

    DIALOG: ClassVar[str] = "picker"

    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self.offer = offer
        self.found: Sequence[Found] = ()
        self.said = "Looking…"
        self._asked = 0

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(self.offer.title)
            box.border_subtitle = Content(f"{self.or_click('enter')} chooses · {self.key('close')} cancels")
            yield OneLine(self.offer.typed, example=self.offer.example, id="words")
            yield Pane(id="found")
            yield Line(id="reason")

    def on_mount(self) -> None:
        field = self.query_one("#words", OneLine)
        field.focus()
        field.cursor_position = len(field.value)
        field.selection = field.selection.cursor(len(field.value))
        self.look()
        self.call_after_refresh(self.redraw)

    def on_resize(self, _event: Resize) -> None:
        self.call_after_refresh(self.redraw)

    def look(self) -> None:
        """Looks up the typed words; answers for words that have changed since are dropped."""
        self._asked += 1
        asked = self._asked

        def deliver(found: Sequence[Found] | str) -> None:
            if asked != self._asked or not self.is_attached:
                return
            self.said = found if isinstance(found, str) else ""
            self.found = () if isinstance(found, str) else found
            pane = self.query_one("#found", Pane)
            pane.cursor = 0
            self.redraw()
            if not self.query_one("#words", OneLine).value:
                pane.find(self.offer.chosen)
                pane.move_to(pane.cursor)

        self.offer.fetch(self.query_one("#words", OneLine).value, deliver)

    def redraw(self) -> None:
        pane = self.query_one("#found", Pane)
        words = self.query_one("#words", OneLine).value.strip()
        offered = [Found("", self.offer.empty)] if self.offer.empty and not words else []
        listed = [*offered, *self.found]
        width = min(max((cell_len(one_line(one.label)) for one in listed), default=0), max(pane.size.width - 24, 12))
        pane.show([self._entry(one, width, pane.size.width) for one in listed])
        reason = self.said or ("" if listed else "No matches.")
        self.query_one("#reason", Line).show([(f" {reason}", "warn")])

    def on_input_changed(self) -> None:
        self.look()

    def on_input_submitted(self) -> None:
        pane = self.query_one("#found", Pane)
        if pane.entries:
            key = pane.current
            listed = [Found("", self.offer.empty), *self.found]
            self.dismiss(next((one for one in listed if one.id == key), None))

    def on_pane_chosen(self) -> None:
        self.on_input_submitted()

    def action_move(self, by: int) -> None:
        self.query_one("#found", Pane).move(by)

    def _entry(self, one: Found, width: int, room: int) -> Entry:
        detail = fit(one_line(one.detail), max(room - width - 3, 0)) if one.detail else ""
        ink = "strong" if one.id else "muted"
        return entry((f" {fit(one_line(one.label), width)}  ", ink), (detail, "muted"), key=one.id)
