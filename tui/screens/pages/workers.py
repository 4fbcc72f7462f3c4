"""The pages that show whether work is done: the workers, Cron Health, and the log of the worker in this dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from jobdeck.core.read import reports
from jobdeck.core.read.pages import jobs_and_runs
from jobdeck.core.read.report_types import CronReport, WorkerReport
from jobdeck.tui.format import JOINERS, one_line, plural, wrapped
from jobdeck.tui.screens.below import Subject
from jobdeck.tui.screens.dialogs.dialog import add_cross, leaves
from jobdeck.tui.screens.dialogs.questions import ask_to_clean_up, ask_to_purge, ask_to_run_worker, ask_to_toggle_worker
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import cron_health, workers
from jobdeck.tui.widgets.ink import Line
from jobdeck.tui.widgets.pane import Pane, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.events import Click

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry

INKS = {"WARNING": "warn", "ERROR": "bad", "CRITICAL": "bad"}
TIME_WIDTH = len("2026-07-04T")


class Workers(ListPage[WorkerReport]):
    """The workers, read at every refresh; with a release of the application those of it alone, and their jobs."""

    SCOPE: ClassVar[Scope] = "workers"
    HEADING: ClassVar[str] = "Workers"
    QUERY = staticmethod(reports.worker_report)

    def __init__(self, release: str | None = None) -> None:
        super().__init__()
        self.release = release

    @property
    def heading(self) -> str:
        return self.HEADING if self.release is None else f"Workers of the release {one_line(self.release)}"

    def arrived(self, data: WorkerReport) -> None:
        super().arrived(data if self.release is None else workers.of_release(data, self.release))

    def entries(self, data: WorkerReport, width: int) -> Sequence[Entry]:
        return workers.lines(data, width, self.deck.worker.id)

    @property
    def subject_below(self) -> Subject | None:
        """The worker that the line under the cursor is of."""
        above = reversed(self.list_pane.entries[: self.list_pane.cursor + 1])
        keys = (one.key for one in above if isinstance(one.key, tuple))
        worker_id = next((key[1] for key in keys if key[0] == "worker"), None)
        return None if worker_id is None else Subject(jobs_and_runs.of_worker, (worker_id,), without=("worker",))

    def summary(self, data: WorkerReport) -> list[Span]:
        return [*workers.summary(data), ("  jobdeck status", "muted")]

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "worker.cycle": lambda: ask_to_run_worker(self, self.deck),
            "worker.embedded": lambda: ask_to_toggle_worker(self, self.deck),
        }


class CronHealth(ListPage[CronReport], ModalScreen[None]):
    """Whether the queue works, and the evidence for it."""

    SCOPE: ClassVar[Scope] = "health"
    HEADING: ClassVar[str] = "Cron Health"
    EVERY: ClassVar[float] = 5.0
    QUERY = staticmethod(reports.cron)

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(self.HEADING)
            box.border_subtitle = Content("jobdeck health")
            yield from super().compose()

    def on_mount(self) -> None:
        if self.deck.options.mouse:
            add_cross(self, self.deck.key("back"))

    def given(self) -> dict[str, Any]:
        return {"timeouts": self.deck.reach().timeouts(), "production": self.deck.options.production}

    def entries(self, data: CronReport, width: int) -> Sequence[Entry]:
        cleanup = self.deck.key("stuck.cleanup")
        height = self.pane.size.height
        return cron_health.lines(data, self.deck.reach().timeouts(), width, height=height, cleanup_key=cleanup)

    def summary(self, data: CronReport) -> list[Span]:
        return cron_health.verdict(data)

    def on_click(self, event: Click) -> None:
        """Leaves the page on a click beside the box or on the cross in its border."""
        if leaves(self, event):
            self.action_do("back")

    def draw_title(self) -> None:
        shown = self.summary(self.data) if self.data is not None else []
        self.query_one("#title", Line).show(shown, self.place())

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "worker.embedded": lambda: ask_to_toggle_worker(self, self.deck),
            "stuck.cleanup": lambda: ask_to_clean_up(self, self.deck),
            "queue.purge": lambda: ask_to_purge(self, self.deck),
        }


class Log(ListPage[int]):
    """The lines that this process has logged; `data` is the number of all messages so far."""

    SCOPE: ClassVar[Scope] = "log"
    HEADING: ClassVar[str] = "Log"

    def make_pane(self) -> Pane:
        return Pane(id="pane", cursor=False, follow=True)

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
