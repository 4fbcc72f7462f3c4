"""A page of a plugin: the rows of its query, and the actions on a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jobdeck.core.plugins import Found
from jobdeck.tui.backend.threads import failure
from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.format import one_line, plural
from jobdeck.tui.screens.dialogs.picker import Picker
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.core.plugins import Page
    from jobdeck.tui.actions import Scope, Situation
    from jobdeck.tui.backend.protocol import Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

Rows = tuple[tuple[str, ...], ...]


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
        return table.lines(self.page.columns, data, width)

    def summary(self, data: Rows) -> list[Span]:
        return [(f"{plural(len(data), 'row')}", "muted")]

    def situation(self) -> Situation:
        """Refuses an action where the page has none, or no row is under the cursor."""
        return table.refusing(super().situation(), acts=bool(self.page.actions), row=self._row)

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
