"""A page of a plugin: the rows of its query, and the actions on a row. Every text of the plugin is cleaned here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len

from jobdeck.core.plugins import Found
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.format import fit, one_line, plural
from jobdeck.tui.screens.dialogs.picker import Picker
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.widgets.pane import Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.plugins import Page
    from jobdeck.tui.actions import Scope, Situation
    from jobdeck.tui.backend.protocol import Backend
    from jobdeck.tui.widgets.ink import Span

Rows = tuple[tuple[str, ...], ...]
GAP = 2


class TablePage(ListPage[Rows]):
    """The rows of a plugin's query, read again every few seconds."""

    SCOPE: ClassVar[Scope] = "table"
    EVERY: ClassVar[float] = 5.0

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    @property
    def heading(self) -> str:
        return one_line(self.page.title)

    def read(self, backend: Backend) -> Rows:
        return tuple(map(tuple, backend.table(self.page)))

    def entries(self, data: Rows, width: int) -> Sequence[Entry]:
        return lines(self.page.columns, data, width)

    def summary(self, data: Rows) -> list[Span]:
        return [(f"{plural(len(data), 'row')}", "muted")]

    def situation(self) -> Situation:
        """Refuses an action where the page has none, or no row is under the cursor."""
        if not self.page.actions:
            reason = "This page is read-only."
        elif self._row is None:
            reason = "There is no row under the cursor."
        else:
            return super().situation()
        return replace(super().situation(), refused={"table.act": reason})

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"table.act": self._choose}

    def on_pane_chosen(self) -> None:
        self.action_do("table.act")

    @property
    def _row(self) -> tuple[str, ...] | None:
        key = self.pane.current if self.is_there else None
        return next((row for row in self.data or () if ("row", row) == key), None)

    def _choose(self) -> None:
        row = self._row
        if row is None:
            return
        offer = Offer(f"{self.heading}: {one_line(row[0])}", among([Found(name, name) for name in self.page.actions]))

        def chosen(action: Found | None) -> None:
            if action is not None:
                self._act(action.id, row)

        self.app.push_screen(Picker(offer), chosen)

    def _act(self, action: str, row: tuple[str, ...]) -> None:
        def answered(answer: str | Exception) -> None:
            if isinstance(answer, Exception):
                self.deck.say(failure(action, answer), "error")
            else:
                self.deck.say(one_line(answer))
            self.reread()

        self.deck.background(lambda: self.deck.reach().act_on_row(self.page, action, row), answered)


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Entry]:
    """A heading and a line for each row; the key of a line is its row."""
    texts = [[one_line(str(cell)) for cell in row] for row in rows]
    widths = _widths([list(columns), *texts], width - 1)
    head = entry((f" {_line(columns, widths)}", "head"))
    if not rows:
        return [head, entry((" No rows.", "muted"))]
    listed = [
        entry((f" {_line(text, widths)}", "text"), key=("row", tuple(row)))
        for row, text in zip(rows, texts, strict=True)
    ]
    return [head, *listed]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return (" " * GAP).join(fit(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """The width of each column's longest text; the widest columns shrink until all fit in `room` cells."""
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    while widths and max(widths) > 1 and sum(widths) + GAP * (len(widths) - 1) > room:
        widths[widths.index(max(widths))] -= 1
    return widths
