"""The page of workers: which are alive, what each runs, and task types without a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from jobdeck.core.read.report_types import WorkerReport
from jobdeck.tui.screens.dialogs.questions import ask_to_run_worker, ask_to_toggle_worker
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry


class Workers(ListPage[WorkerReport]):
    """The workers, read at every refresh."""

    SCOPE: ClassVar[Scope] = "workers"
    HEADING: ClassVar[str] = "Workers"

    def read(self, backend: Backend) -> WorkerReport:
        return backend.worker_report()

    def entries(self, data: WorkerReport, width: int) -> Sequence[Entry]:
        return workers.lines(data, width, self.deck.worker.id)

    def summary(self, data: WorkerReport) -> list[Span]:
        return [*workers.summary(data), ("  jobdeck status", "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "worker.cycle": lambda: ask_to_run_worker(self, self.deck),
            "worker.embedded": lambda: ask_to_toggle_worker(self, self.deck),
        }
