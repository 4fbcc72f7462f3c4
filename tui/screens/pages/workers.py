"""The workers: who is alive, what each runs, and what nobody runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jobdeck.core.read.report_types import Fleet
from jobdeck.tui.actions import bindings
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.binding import BindingType

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.protocol import Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry


class Workers(ListPage[Fleet]):
    """Read anew with every refresh."""

    SCOPE: ClassVar[Scope] = "workers"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings("workers")]
    HEADING: ClassVar[str] = "Workers"

    def read(self, backend: Backend) -> Fleet:
        """Reads workers and running jobs."""
        return backend.fleet()

    def entries(self, data: Fleet, width: int) -> Sequence[Entry]:
        """Each worker with its jobs."""
        return workers.lines(data, width, self.deck.worker.id)

    def summary(self, data: Fleet) -> list[Span]:
        """How many are alive."""
        return [*workers.summary(data), ("  jobdeck status", "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        """Opening a job; the embedded worker and a cycle are at hand."""
        operations = self.deck.operations
        return super().handlers() | {
            "open": self.open_chosen,
            "worker.cycle": operations.run_cycle,
            "worker.embedded": operations.toggle_worker,
        }
