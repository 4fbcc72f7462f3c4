"""The application: theme, clock, connection, signals, and what the screens share."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from textual import events

from jobdeck.core.model import Filter
from jobdeck.tui import themes
from jobdeck.tui.actions import NO_ANSWER, Situation, key_of
from jobdeck.tui.backend.bulk_driver import unfinished
from jobdeck.tui.backend.operations import Operations
from jobdeck.tui.backend.poller import Poller
from jobdeck.tui.backend.protocol import EmbeddedWorker, Request
from jobdeck.tui.backend.threads import Answer, Threads
from jobdeck.tui.backend.worker_log import WorkerLog
from jobdeck.tui.deck import Options
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.dashboard import Dashboard
from jobdeck.tui.screens.dialogs.leave import Leave
from jobdeck.tui.screens.job_detail import JobDetailScreen
from jobdeck.tui.screens.page import ListPage, Page
from jobdeck.tui.terminal.toasts import Toasting
from jobdeck.tui.terminal.type_ahead import TypeAhead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from textual.screen import Screen

    from jobdeck.core.model import Job
    from jobdeck.core.plugins import Page as PluginPage
    from jobdeck.core.queue.bulk_model import Bulk
    from jobdeck.tui.backend.canary import Canary
    from jobdeck.tui.backend.protocol import Backend, View
    from jobdeck.tui.backend.threads import Background


PAGES: Final = {
    "health": ("cron_health", "CronHealth"),
    "errors": ("errors", "Errors"),
    "workers": ("workers", "Workers"),
    "audit": ("audit", "Audit"),
    "bulk": ("bulk", "BulkPage"),
    "playbook": ("playbook", "Playbook"),
    "log": ("log", "Log"),
}
"""Module and class of each page, by the name in the table of actions. None is needed for the first paint."""


class JobdeckApp(Toasting):
    """The dashboard. `make_backend` is called off the UI's thread; `background` and `monotonic` are for tests."""

    TITLE = "Jobdeck"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH: ClassVar[list[Any]] = [
        "app.tcss",
        "screens/dashboard.tcss",
        "screens/dialogs/dialog.tcss",
        "screens/job_detail.tcss",
        "screens/dialogs/help.tcss",
        "screens/page.tcss",
        "screens/dialogs/palette.tcss",
        "screens/pages/cron_health.tcss",
        "screens/pages/errors.tcss",
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
        super().__init__()
        for theme in themes.THEMES:
            self.register_theme(theme)
        self.options = options or Options()
        self.theme = self.options.theme if self.options.theme in self.available_themes else themes.DARK.name
        self.backend: Backend | None = None
        self._make_backend = make_backend
        self.monotonic = monotonic
        self.view: View | None = None
        self._threads = Threads(self)
        self.background: Background = background or self._threads
        self.operations = Operations(self)
        self.poller = Poller(Request(Filter()), self, interval=self.options.interval)
        self.dashboard = Dashboard()
        self.canaries: dict[tuple[str, str], Canary] = {}
        self.log_lines = WorkerLog()
        self._typed = TypeAhead(self, super().on_event, self.later)

    async def on_event(self, event: events.Event) -> None:
        """What is typed waits until what was typed before it has had its effect."""
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            await self._typed.take(event)
        else:
            await super().on_event(event)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The dashboard's own colour variables, for themes that do not know them."""
        return themes.FALLBACKS

    def get_default_screen(self) -> Screen[Any]:
        """The dashboard is the screen below all others."""
        return self.dashboard

    def on_mount(self) -> None:
        """Starts reading once the first, empty screen is painted, and takes the signals."""
        self.set_keymap({action_id: ",".join(keys) for action_id, keys in self.options.keymap.items()})
        self.call_after_refresh(self.poller.poke)
        if self.options.ticking:
            self._tick()
        self.heed_signals(self.tell)

    def reach(self) -> Backend:
        """The backend, made at its first use, which is in a thread and after the first paint."""
        if self.backend is None:
            self.backend = self._make_backend()
        return self.backend

    def tell(self, deliver: Callable[[], None]) -> None:
        """Has something called on the UI's thread; may be called in any thread."""
        self._threads.tell(deliver)

    def later(self, seconds: float, callback: Callable[[], Awaitable[None] | None]) -> asyncio.TimerHandle:
        """Calls something on this thread after so many seconds, unless the dashboard is being left by then.

        Textual's own timer for that never fires where the process is held up for as long just when it is set.
        """

        def due() -> None:
            if self.is_running and not self._exit:
                self.call_next(callback)

        return asyncio.get_running_loop().call_later(seconds, due)

    def on_answer(self, event: Answer) -> None:
        """Takes what a thread has brought to whoever asked for it."""
        event.deliver()

    def now(self) -> datetime:
        """The database's clock, carried on by this machine's; before any answer, this machine's alone."""
        return self.time_at(self.monotonic())

    def time_at(self, monotonic: float) -> datetime:
        """What that clock showed, or will show, when the monotonic one showed this."""
        read_at = self.poller.read_at
        if self.view is None or read_at is None:
            return datetime.now(UTC) + timedelta(seconds=monotonic - self.monotonic())
        return self.view.snapshot.at + timedelta(seconds=monotonic - read_at)

    def shows(self, screen: Screen[Any]) -> bool:
        """Whether nothing lies over a screen, not even a dialog."""
        return bool(self._screen_stack) and self._screen_stack[-1] is screen

    @property
    def facing(self) -> Dashboard | Page[Any] | None:
        """The list or the page one looks at. None under a dialog, while a page is being made, and at the end.

        What comes by itself, an answer or the clock's next second, comes at those moments too.
        """
        top = self._screen_stack[-1] if self._screen_stack and self.is_running else None
        return top if isinstance(top, Dashboard | Page) and top.is_there else None

    def situation(self, jobs: Sequence[Job]) -> Situation:
        """What decides which actions can be taken on these jobs now."""
        return Situation(
            jobs=tuple(jobs),
            connected=self.poller.connected,
            read_only=self.read_only_reason,
            no_work=self.no_work_reason,
            cycle_running=self.operations.cycle is not None,
            worker_changing=self.operations.worker_changing,
            can_undo=self.operations.can_undo,
            keymap=self.options.keymap,
            mouse=self.options.mouse,
        )

    def key(self, action_id: str) -> str:
        """The key of an action or of a dialog, as a person reads it, wherever it was moved to."""
        return key_of(action_id, self.options.keymap)

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing may be changed, or None."""
        return self._forbidden("operate", "may only look. Connect as a member of job_operator to change anything.")

    @property
    def no_work_reason(self) -> str | None:
        """Why no job may be run here, or None."""
        return self._forbidden("work", "may not run jobs. Connect as a member of job_worker for that.")

    def _forbidden(self, what: Literal["operate", "work"], sentence: str) -> str | None:
        if self.options.read_only:
            return "This dashboard was started with --read-only. Start it without to change anything."
        if self.view is None or getattr(self.view.session.permissions, what):
            return None
        return f"The database role {one_line(self.view.session.permissions.role)} {sentence}"

    @property
    def worker(self) -> EmbeddedWorker:
        """The worker inside this dashboard."""
        return self.backend.worker() if self.backend else EmbeddedWorker()

    def act_on_list(self, action_id: str) -> None:
        """Takes an action of the list, which may be covered by another screen."""
        self.dashboard.action_do(action_id)

    def seek(self, job_id: UUID) -> None:
        """Has the list's cursor go to a job that has just come."""
        self.dashboard.seek(job_id)

    def open_job(self, job: Job | UUID) -> None:
        """Opens the page of one job, of which at least the id is known."""
        self.push_screen(JobDetailScreen(job))

    def open_page(self, name: str) -> None:
        """Opens a page by its name, in the place of the one that is open; pages of jobs stay below it."""
        module, class_name = PAGES[name]
        page: type[ListPage[Any]] = getattr(import_module(f"jobdeck.tui.screens.pages.{module}"), class_name)
        if isinstance(self.screen, page):
            return
        self._show_page(page())

    def open_table(self, page: PluginPage) -> None:
        """Opens a page of a plugin, in the place of the page that is open."""
        from jobdeck.tui.screens.pages.table import TablePage  # noqa: PLC0415 -- not needed for the first paint

        if not (isinstance(self.screen, TablePage) and self.screen.page is page):
            self._show_page(TablePage(page))

    def _show_page(self, page: ListPage[Any]) -> None:
        if isinstance(self.screen, ListPage):
            self.switch_screen(page)
        else:
            self.push_screen(page)

    def next_theme(self) -> None:
        """Changes to the next theme, for this session."""
        names = themes.CHOICES
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]
        self.say(f"Theme {self.theme}. JOBDECK_THEME={themes.word(self.theme)} keeps it.")

    def look_away(self, *, covered: bool) -> None:
        """Reads the list no more while another screen is on top of it, and at once when none is."""
        wanted = replace(self.poller.request, glance=covered and self.view is not None)
        if covered:
            self.poller.request = wanted
        else:
            self.poller.change(wanted)

    def on_app_blur(self) -> None:
        """Nobody looks at this terminal now."""
        self.poller.set_away(away=True)

    def on_app_focus(self) -> None:
        """Somebody does again."""
        self.poller.set_away(away=False)

    async def action_quit(self) -> None:
        """Ctrl+q leaves as q does."""
        self.leave()

    def action_help_quit(self) -> None:
        """Ctrl+c, which in a terminal means to leave."""
        self.leave()

    def leave(self) -> None:
        """Leaves at once, or asks first when jobs run here."""
        running = self.worker.running
        cycle = self.operations.cycle is not None
        if not running and not cycle:
            self.exit(0)
        elif not isinstance(self.screen, Leave):
            self.push_screen(Leave(running, cycle=cycle, patience=self.options.patience), self._leave_as)

    def _leave_as(self, choice: str | None) -> None:
        if choice not in {"finish", "hand back"}:
            return
        self.say("Leaving when the running jobs have ended. Ctrl+c again: other choices.")
        timeout = None if choice == "finish" else 0.0
        self.background(lambda: self.reach().stop_worker(timeout), lambda _answer: self._left())

    def _left(self) -> None:
        if self.operations.cycle is None:
            self.exit(0)
        else:
            self.later(0.2, self._left)

    def take_view(self, view: View) -> None:
        """Shows what was read."""
        glance = self.poller.request.glance and self.view is not None
        first = self.view is None
        self.view = self._with_what_was_known(view) if glance else view
        if not glance:
            self.dashboard.show_view(view)
        facing = self.facing
        if isinstance(facing, Page):
            facing.fetch()
        self.operations.bulk.go_on()
        if first:
            # What there is now stays. Set aside, it is not looked through again and again, and what comes and goes
            # (a form is ten thousand objects) is let go of soon after.
            gc.collect()
            gc.freeze()
        if first and self.read_only_reason is None:
            self.background(self.reach().bulk.newest, self._tell_unfinished)

    def _tell_unfinished(self, answer: Sequence[Bulk] | Exception) -> None:
        """Says on return what was begun and is not at its end."""
        text = "" if isinstance(answer, Exception) else unfinished(answer)
        if text:
            self.say(f"{text} {self.key('page.bulk')} shows it.", "warning")

    def _with_what_was_known(self, view: View) -> View:
        assert self.view is not None  # noqa: S101 -- the caller looked
        seen = view.snapshot
        return replace(view, snapshot=replace(self.view.snapshot, at=seen.at, processing=seen.processing))

    def changed(self) -> None:
        """Reads the queue again and redraws the screen."""
        self.poller.poke()
        self.redraw()

    def link_changed(self) -> None:
        """Screens behind a dialog do not refresh, so a lost connection is said in a toast, until it is back."""
        if self.poller.connected:
            self.unsay(NO_ANSWER)
        elif self.poller.link.failures == 1 and self._screen_stack and not isinstance(self.screen, Dashboard | Page):
            self.say(NO_ANSWER, "warning")
        self.redraw()

    def redraw(self) -> None:
        """Redraws the screen from what is known."""
        facing = self.facing
        if facing is not None:
            facing.redraw()

    def _tick(self) -> None:
        """Has what counts seconds said anew, now and when the clock's next second has begun."""
        facing = self.facing
        if facing is not None:
            facing.tick()
        self.later(1.01 - self.now().microsecond / 1e6, self._tick)
