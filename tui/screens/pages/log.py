"""The log of the worker inside this dashboard; it follows new lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jobdeck.tui.format import JOINERS, plural, wrapped
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.widgets.pane import Pane, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

INKS = {"WARNING": "warn", "ERROR": "bad", "CRITICAL": "bad"}
TIME_WIDTH = len("2026-07-04T")


class Log(ListPage[int]):
    """The lines that this process has logged; `data` is the number of all messages so far."""

    SCOPE: ClassVar[Scope] = "log"
    HEADING: ClassVar[str] = "Log"

    def make_pane(self) -> Pane:
        return Pane(id="pane", cursor=False, follow=True)

    def on_mount(self) -> None:
        super().on_mount()
        self.pane.move_to(len(self.pane.entries))

    def fetch(self) -> None:
        """Redraws if there are new lines. They are in this process, so nothing is read in the background."""
        count = self.deck.log_lines.count
        if count != self.data:
            self.data = count
            self.redraw()

    def read(self, backend: Backend) -> int:
        del backend
        return self.deck.log_lines.count

    def tick(self) -> None:
        super().tick()
        self.fetch()

    def entries(self, data: int, width: int) -> Sequence[Entry]:
        del data
        found: list[Entry] = []
        for line in self.deck.log_lines.lines:
            level = line.split(" ", 2)[1] if line.count(" ") > 1 else ""
            ink = INKS.get(level, "text")
            first, *rest = wrapped(line[TIME_WIDTH:].translate(JOINERS), max(width - 3, 10))
            found += [entry((f" {first}", ink)), *(entry((f"   {part}", ink)) for part in rest)]
        key = self.deck.key("worker.embedded")
        start = f" {key} on the list starts the worker." if self.deck.worker.state == "off" else ""
        return found or [entry((f" Nothing has been logged yet.{start}", "muted"))]

    def summary(self, data: int) -> list[Span]:
        worker = self.deck.worker
        state = "is off" if worker.state == "off" else f"is {worker.state}"
        return [(f"the worker in this dashboard {state}; {plural(data, 'message')}", "muted")]
