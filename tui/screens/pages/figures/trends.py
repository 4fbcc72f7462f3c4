"""The page of trends: runs, waits, durations and the backlog of a window, for all types and each one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from jobdeck.core.read.stats.backlog import TrendReport
from jobdeck.core.words.tables import EVERYTHING
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.pages.figures.split import SplitPage
from jobdeck.tui.text.figures import trends
from jobdeck.tui.widgets.pane import Entry, Pane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.events import Resize

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span

WINDOWS: Final = tuple(timedelta(hours=hours) for hours in (1, 6, 24, 7 * 24, 30 * 24))
FIRST: Final = WINDOWS[1]
BESIDE: Final = 120
"""From this width on, the plots are beside the table."""


class Trends(SplitPage[TrendReport]):
    """All types in the first line, then the types by name; the plots are of the line under the cursor."""

    SCOPE: ClassVar[Scope] = "trends"
    HEADING: ClassVar[str] = "Trends"
    EVERY: ClassVar[float] = 15.0

    def __init__(self, task_type: str | None = None) -> None:
        """With `task_type` the cursor begins on that type."""
        super().__init__()
        self.window = FIRST
        self._wanted = task_type

    def read(self, backend: Backend) -> TrendReport:
        return backend.figures.trends(self.window)

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {"window": self._next_window}

    def on_mount(self) -> None:
        self.set_class(self.app.size.width >= BESIDE, "-wide")
        super().on_mount()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width >= BESIDE, "-wide")
        super().on_resize(event)

    def columns(self, width: int) -> str:
        return trends.columns(width)

    def entries(self, data: TrendReport, width: int) -> Sequence[Entry]:
        window = data.trends
        names = [None, *sorted(window.types)]
        return [trends.line(name, window.total(name), width) for name in names]

    def redraw(self) -> None:
        super().redraw()
        if self._wanted is not None and self.is_there and self.data is not None:
            key = ("type", self._wanted)
            at = next((at for at, one in enumerate(self.list_pane.entries) if one.key == key), None)
            self._wanted = None
            if at is not None:
                self.list_pane.move_to(at)

    def about(self, data: TrendReport, width: int) -> tuple[list[Span], Sequence[Entry]]:
        key = self.key_of_line
        name = key[1] if isinstance(key, tuple) else None
        height = self.query_one("#about", Pane).size.height
        shown = one_line(name) if name is not None else EVERYTHING
        return [(f" {shown} ", "tab")], trends.plots(data, name, width, height)

    def summary(self, data: TrendReport) -> list[Span]:
        return trends.summary(data, self.window)

    def _next_window(self) -> None:
        self.window = WINDOWS[(WINDOWS.index(self.window) + 1) % len(WINDOWS)]
        self.reread()
