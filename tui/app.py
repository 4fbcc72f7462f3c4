"""The application: theme, clock, connection, signals, and the state that screens share."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from jobdeck.core.model import Filter
from jobdeck.tui import themes
from jobdeck.tui.actions import CONNECTING, NO_ANSWER, Situation
from jobdeck.tui.backend.bulk_driver import unfinished
from jobdeck.tui.backend.operations import Operations
from jobdeck.tui.backend.poller import Poller
from jobdeck.tui.backend.protocol import EmbeddedWorker, Request
from jobdeck.tui.backend.worker_log import WorkerLog
from jobdeck.tui.format import fit, one_line, plural
from jobdeck.tui.screens.acting import Acting
from jobdeck.tui.screens.dashboard import Dashboard
from jobdeck.tui.screens.nouns import ALL_HERE
from jobdeck.tui.terminal.hosting import Hosting

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from uuid import UUID

    from textual.screen import Screen

    from jobdeck.core.model import Job
    from jobdeck.core.plugins import Page as PluginPage
    from jobdeck.core.queue.bulk_model import Bulk
    from jobdeck.core.read.operators.notes import Note
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.backend.live import LiveBackend as Backend
    from jobdeck.tui.backend.protocol import Canary, View
    from jobdeck.tui.backend.threads import Background
    from jobdeck.tui.deck import Options
    from jobdeck.tui.screens.page import ListPage


PAGES: Final = {
    "health": ("workers", "CronHealth"),
    "errors": ("errors", "Errors"),
    "workers": ("workers", "Workers"),
    "types": ("figures", "Types"),
    "trends": ("figures", "Trends"),
    "series": ("figures", "Series"),
    "audit": ("operators", "Audit"),
    "bulk": ("bulk", "BulkPage"),
    "runs": ("runs", "Runs"),
    "facets": ("facets", "FacetsOfJobs"),
    "playbook": ("operators", "Playbook"),
    "log": ("workers", "Log"),
}
"""Module and class of each page, by its name in the table of actions. They are imported after the first paint."""
AFTERWARDS: Final = ("screens.job_detail", "screens.dialogs.help", "screens.dialogs.processing")
"""Modules that bring all others with them that a key on the list needs. They are imported after the first data."""


class JobdeckApp(Hosting):
    """The dashboard. `make_backend` is called in another thread; `background` and `monotonic` are for tests."""

    CSS_PATH: ClassVar[list[Any]] = [
        "app.tcss",
        "screens/dashboard.tcss",
        "screens/dialogs/dialog.tcss",
        "screens/job_detail.tcss",
        "screens/dialogs/help.tcss",
        "screens/page.tcss",
        "screens/dialogs/palette.tcss",
        "screens/pages/cron_health.tcss",
        "screens/pages/split.tcss",
        "screens/dialogs/payload.tcss",
        "screens/dialogs/create_job.tcss",
    ]

    def __init__(
        self,
        make_backend: Callable[[], Backend],
        options: Options | None = None,
        *,
        background: Background | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(options, background=background, monotonic=monotonic)
        self.backend: Backend | None = None
        self._make_backend = make_backend
        self.view: View | None = None
        self.operations = Operations(self)
        self.poller = Poller(Request(Filter()), self, interval=self.options.interval)
        self.dashboard = Dashboard()
        self.canaries: dict[tuple[str, str], Canary] = {}
        self.log_lines = WorkerLog()
        self._page_reads = False
        """Whether the page on top has read since the poller asked."""
        self.returns = False
        """Whether the user has left this database for the fleet."""

    def get_default_screen(self) -> Screen[Any]:
        return self.dashboard

    def on_mount(self) -> None:
        self.begin(self.poller.poke)

    def reach(self) -> Backend:
        """The backend, made on first use: in a thread, after the first paint."""
        if self.backend is None:
            self.backend = self._make_backend()
        return self.backend

    def now(self) -> datetime:
        """The database's time at the last read plus the time since then; this machine's time before the first read."""
        read_at = self.poller.read_at
        if self.view is None or read_at is None:
            return datetime.now(UTC)
        return self.view.snapshot.at + timedelta(seconds=self.monotonic() - read_at)

    def shows(self, screen: Screen[Any]) -> bool:
        return bool(self._screen_stack) and self._screen_stack[-1] is screen

    @property
    def facing(self) -> Acting | None:
        """The list or page on top. None under a dialog, while a page is composed, and while the app ends.

        Answers and clock ticks arrive at those moments too, so check for None.
        """
        top = self._screen_stack[-1] if self._screen_stack and self.is_running else None
        return top if isinstance(top, Acting) and top.is_there else None

    def situation(self, jobs: Sequence[Job]) -> Situation:
        return Situation(
            jobs=tuple(jobs),
            unreached=self._unreached(),
            read_only=self.read_only_reason,
            no_work=self.no_work_reason,
            cycle_running=self.operations.cycle is not None,
            worker_changing=self.operations.worker_changing,
            can_undo=self.operations.can_undo,
            keymap=self.options.keymap,
            mouse=self.options.mouse,
            in_fleet=bool(self.options.opened),
        )

    @property
    def read_only_reason(self) -> str | None:
        return self._forbidden("operate", "has read-only access. Connect as a member of job_operator to make changes.")

    @property
    def no_work_reason(self) -> str | None:
        """Why jobs may not be run here; None when they may."""
        return self._forbidden("work", "may not run jobs. Connect as a member of job_worker to run them.")

    def _forbidden(self, what: Literal["operate", "work"], sentence: str) -> str | None:
        if self.options.read_only:
            return "This dashboard was started with --read-only. Start it without --read-only to make changes."
        if self.view is None or getattr(self.view.session.permissions, what):
            return None
        return f"The database role {one_line(self.view.session.permissions.role)} {sentence}"

    @property
    def worker(self) -> EmbeddedWorker:
        return self.backend.worker() if self.backend else EmbeddedWorker()

    def act_on_list(self, action_id: str) -> None:
        self.dashboard.action_do(action_id)

    def seek(self, job_id: UUID) -> None:
        self.dashboard.seek(job_id)

    def list_group(self, group: ErrorGroup) -> None:
        self.dashboard.list_group(group)

    def list_filter(self, wanted: Filter) -> None:
        self.dashboard.list_filter(wanted)

    def open_job(self, job: Job | UUID, run: int | None = None) -> None:
        from jobdeck.tui.screens.job_detail import JobDetailScreen  # noqa: PLC0415 -- not needed for the first paint

        self.push_screen(JobDetailScreen(job, run))

    def open_page(self, name: str) -> None:
        """Opens a page by its name. It replaces an open list page; job pages stay open below it."""
        page = _page(name)
        if not isinstance(self.screen, page):
            self._show_page(page())

    def open_over(self, name: str, wanted: Hashable | None = None, **given: str) -> None:
        page = _page(name)
        if isinstance(self.screen, page) and all(getattr(self.screen, what) == value for what, value in given.items()):
            self.say(ALL_HERE)
            return
        opened = page(**given)
        opened.wanted = wanted
        self.push_screen(opened)

    def open_table(self, page: PluginPage) -> None:
        """Opens a page of a plugin. It replaces an open list page."""
        from jobdeck.tui.screens.pages.table import TablePage  # noqa: PLC0415 -- not needed for the first paint

        if not (isinstance(self.screen, TablePage) and self.screen.page is page):
            self._show_page(TablePage(page))

    def _show_page(self, page: ListPage[Any]) -> None:
        from jobdeck.tui.screens.page import ListPage  # noqa: PLC0415 -- not needed for the first paint

        if isinstance(self.screen, ListPage):
            self.switch_screen(page)
        else:
            self.push_screen(page)

    def next_theme(self) -> None:
        names = themes.CHOICES
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]
        self.say(f"Theme {self.theme}. Set JOBDECK_THEME={themes.word(self.theme)} to keep it.")

    def look_away(self, *, covered: bool) -> None:
        wanted = replace(self.poller.request, glance=covered and self.view is not None)
        if covered:
            self.poller.request = wanted
        else:
            self.poller.change(wanted)

    def on_app_blur(self) -> None:
        self.poller.set_away(away=True)

    def on_app_focus(self) -> None:
        self.poller.set_away(away=False)

    def _unreached(self) -> str | None:
        if self.poller.connected:
            return None
        return NO_ANSWER if self.poller.link.failures else CONNECTING

    def leave(self) -> None:
        self._leave(returns=False)

    def return_to_fleet(self) -> None:
        self._leave(returns=True)

    def _leave(self, *, returns: bool) -> None:
        from jobdeck.tui.screens.dialogs.questions import Leave  # noqa: PLC0415 -- not needed for the first paint

        self.returns = returns
        running = self.worker.running
        cycle = self.operations.cycle is not None
        if not running and not cycle:
            self.exit(0)
        elif not isinstance(self.screen, Leave):
            self.push_screen(Leave(running, cycle=cycle, patience=self.options.patience), self._leave_as)

    def _leave_as(self, choice: str | None) -> None:
        if choice not in {"finish", "hand back"}:
            return
        self.say("Leaving when the running jobs have finished. Press ctrl+c again for other choices.")
        timeout = None if choice == "finish" else 0.0
        self.background(lambda: self.reach().stop_worker(timeout), lambda _answer: self._left())

    def _left(self) -> None:
        if self.operations.cycle is None:
            self.exit(0)
        else:
            self.later(0.2, self._left)

    def reading(self) -> None:
        """Lets the page on top read at the same time, so that a refresh takes one round trip.

        After a lost connection it reads after the answer, because it would only fail as well.
        """
        facing = self.facing
        self._page_reads = facing not in {None, self.dashboard} and self.poller.connected
        if facing is not None and self._page_reads:
            facing.fetch()

    def take_view(self, view: View) -> None:
        glance = self.poller.request.glance and self.view is not None
        first = self.view is None
        self.view = self._with_earlier_list(view) if glance else view
        if not glance:
            self.dashboard.show_view(view)
        facing = self.facing
        if facing is not None and not self._page_reads:
            facing.fetch()
        self.operations.bulk.go_on()
        if first:
            self.background(_load_rest, _keep_objects)
            self.background(self.reach().notes, self._tell_notes)
        if first and self.read_only_reason is None:
            self.background(self.reach().bulk.newest, self._tell_unfinished)

    def _tell_notes(self, answer: Sequence[Note] | Exception) -> None:
        """Shows the newest note to this shift, and how many there are."""
        if isinstance(answer, Exception) or not answer:
            return
        newest = answer[0]
        others = f" and {plural(len(answer) - 1, 'other')}" if len(answer) > 1 else ""
        text = fit(one_line(newest.note), 100).rstrip()
        self.say(f"Note of {one_line(newest.actor)}{others}: {text}\n{self.key('page.audit')} shows all notes.")

    def _tell_unfinished(self, answer: Sequence[Bulk] | Exception) -> None:
        """Shows the bulk actions of an earlier session that are still running."""
        text = "" if isinstance(answer, Exception) else unfinished(answer)
        if text:
            self.say(f"{text} {self.key('page.bulk')} shows it.", "warning")

    def _with_earlier_list(self, view: View) -> View:
        assert self.view is not None  # noqa: S101 -- checked by the caller
        seen = view.snapshot
        return replace(view, snapshot=replace(self.view.snapshot, at=seen.at, processing=seen.processing))

    def changed(self) -> None:
        self.poller.poke()
        self.redraw()

    def link_changed(self) -> None:
        """Redraws the screen. Screens behind a dialog do not refresh, so there a toast reports a lost connection."""
        if self.poller.connected:
            self.unsay(NO_ANSWER)
            self.unsay(CONNECTING)
        elif self.poller.link.failures == 1 and self._screen_stack and not isinstance(self.screen, Acting):
            self.say(NO_ANSWER, "warning")
        self.redraw()

    def redraw(self) -> None:
        facing = self.facing
        if facing is not None:
            facing.redraw()

    def tick(self) -> None:
        """Updates displayed durations now, and again at the next second of the clock."""
        facing = self.facing
        if facing is not None:
            facing.tick()
        self.later(1.01 - self.now().microsecond / 1e6, self.tick)


def _load_rest() -> None:
    for name in AFTERWARDS:
        import_module(f"jobdeck.tui.{name}")


def _keep_objects(_answer: object) -> None:
    """Freezes the objects that exist now, because they stay.

    They are then not scanned in each collection, so that later objects (a form has ten thousand) are freed quickly.
    """
    gc.collect()
    gc.freeze()


def _page(name: str) -> type[ListPage[Any]]:
    module, class_name = PAGES[name]
    page: type[ListPage[Any]] = getattr(import_module(f"jobdeck.tui.screens.pages.{module}"), class_name)
    return page
