"""Cron Health: the verdict, its evidence, stuck and late jobs, workers, the history of triggers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen

from jobdeck.core.read.report_types import CronReport
from jobdeck.tui.screens.dialogs.dialog import add_cross, leaves
from jobdeck.tui.screens.dialogs.questions import ask_to_clean_up, ask_to_purge, ask_to_toggle_worker
from jobdeck.tui.screens.page import ListPage
from jobdeck.tui.text import cron_health
from jobdeck.tui.widgets.ink import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.events import Click

    from jobdeck.tui.actions import Scope
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.pane import Entry


class CronHealth(ListPage[CronReport], ModalScreen[None]):
    """Whether the queue works, and the evidence for it."""

    SCOPE: ClassVar[Scope] = "health"
    HEADING: ClassVar[str] = "Cron Health"
    EVERY: ClassVar[float] = 5.0

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(self.HEADING)
            box.border_subtitle = Content("jobdeck health")
            yield from super().compose()

    def on_mount(self) -> None:
        super().on_mount()
        if self.deck.options.mouse:
            add_cross(self, self.deck.key("back"))

    def read(self, backend: Backend) -> CronReport:
        return backend.cron()

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
        place = self.pane.place
        shown = self.summary(self.data) if self.data is not None else []
        right = [*self.lateness(), *([(f"{place} ", "muted")] if place else [])]
        self.query_one("#title", Line).show(shown, right)

    def handlers(self) -> dict[str, Callable[[], object]]:
        return super().handlers() | {
            "open": self.open_chosen,
            "worker.embedded": lambda: ask_to_toggle_worker(self, self.deck),
            "stuck.cleanup": lambda: ask_to_clean_up(self, self.deck),
            "queue.purge": lambda: ask_to_purge(self, self.deck),
        }
