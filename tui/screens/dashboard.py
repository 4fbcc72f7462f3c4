"""The first screen: header, health, tabs, filter, banner, the live table, the job under the cursor, the keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.model import Filter
from jobdeck.tui.actions import ACTIONS, ON_MANY
from jobdeck.tui.backend.poller import LinkState
from jobdeck.tui.format import one_line, plural, seconds, short_id
from jobdeck.tui.screens.beside import Beside
from jobdeck.tui.screens.listing import NOTICED_FOR, Listing
from jobdeck.tui.screens.orders import by_need, is_usual, order, ordered
from jobdeck.tui.screens.top import Top
from jobdeck.tui.shape import LEAST, TALL, Shape
from jobdeck.tui.text.first.coming import coming
from jobdeck.tui.widgets import key_line, status_bar
from jobdeck.tui.widgets.filter_bar import FilterBar
from jobdeck.tui.widgets.ink import Line, Reason, release_painted
from jobdeck.tui.widgets.jobs.cells import moment_of
from jobdeck.tui.widgets.jobs.job_table import Gone, JobTable
from jobdeck.tui.widgets.pause_banner import is_paused

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from jobdeck.core.model import Job
    from jobdeck.tui.actions import Scope, Situation
    from jobdeck.tui.backend.protocol import Verb, View
    from jobdeck.tui.screens.dialogs.payloads import WantedEdit
    from jobdeck.tui.widgets.ink import Span

WHEN_SMALL: Final = ("quit", "refresh", "move.")
"""The ids or their beginnings of actions that a terminal too small for the list still allows."""
STILL_READING: Final = "The jobs are still being read. Press the key again in a moment."
NOTHING_YET: Final = "No data yet."
OF_GROUP: Final = "The facets of this error are on the page of errors. {back} goes back to it."
OF_ONE: Final = ("job.edit", "job.retry_with", "job.duplicate")
CHOOSING: Final = "Matching jobs are being selected. Press the key again in a moment."


class Dashboard(Listing):
    """The list of jobs and the state of the queue."""

    SCOPE: ClassVar[Scope] = "list"

    def __init__(self) -> None:
        super().__init__()
        self._beside = Beside()

    def compose(self) -> ComposeResult:
        self._divide()
        with Horizontal(id="top"):
            yield Line(id="header")
            yield Line(id="clock")  # on its own, because Textual paints a line from its first cell on
        yield Top()
        yield Reason()
        yield Line(id="tabs")
        yield FilterBar(self.deck, id="filter")
        yield Line(id="banner")
        with Horizontal(id="middle"):
            yield JobTable(id="jobs")
            yield self._beside
        yield Line(id="peek")
        yield Line(id="keys")
        yield Static(id="small")

    def on_mount(self) -> None:
        self.table.say_empty(self._awaited)
        self.table.focus()
        if self.deck.view is not None:
            self.show_view(self.deck.view)
        self.redraw()

    def on_screen_suspend(self) -> None:
        """Stops refreshing while another screen or a dialog is on top.

        Textual repaints the whole terminal whenever something changes behind a dialog. So the header shows the time of
        the last reading instead of the clock.
        """
        self._covered = True
        self.table.keep_job()  # What has opened may be about its job.
        self._follow()
        self.tick()
        self.deck.look_away(covered=True)

    def on_screen_resume(self) -> None:
        release_painted()
        self._covered = False
        self._follow()
        self._leave_text()
        self.redraw()
        self.deck.look_away(covered=False)

    def line(self, name: str) -> Line:
        return self.query_one(f"#{name}", Line)

    @property
    def shape(self) -> Shape:
        """How the parts of the screen divide the terminal."""
        return Shape(self.size.width, self.size.height, pane=self._beside.wanted)

    def handlers(self) -> dict[str, Callable[[], object]]:
        from jobdeck.tui.screens.dialogs import questions  # noqa: PLC0415 -- not needed for the first paint

        table = self.table
        return super().handlers() | {
            "job.detail": self._open_here,
            "mark.undo": self.unmark_or_undo,
            "worker.embedded": lambda: questions.ask_to_toggle_worker(self, self.deck),
            "stuck.cleanup": lambda: questions.ask_to_clean_up(self, self.deck),
            "queue.purge": lambda: questions.ask_to_purge(self, self.deck),
            "job.edit": self._edit,
            "mark": table.toggle_mark,
            "mark.range": table.toggle_range,
            "mark.all": table.toggle_all,
            "mark.matching": self._choose_matching,
            "beside": self._toggle_beside,
            "quick.sync": self._open_quick_sync,
            "back": self._back,
            "quit": self.deck.return_to_fleet if self.deck.options.opened else self.deck.leave,
        }

    def show_view(self, view: View) -> None:
        """Shows new data; only what differs is repainted. Data that arrives before the screen is shown on mount."""
        if not self.is_mounted:
            return
        jobs = view.snapshot.page.jobs
        self._awaited = ""
        self.table.say_empty(self._empty_text())
        request, more = self.deck.poller.request, view.snapshot.page.next is not None
        gone = self.table.show(jobs, moment_of(view), folds=by_need(request), more=more)
        if self._to_end:
            self._to_end = False
            self.table.move_to(self.table.total - 1)
        self._report_gone(gone)
        self._find_sought()

    def _report_gone(self, gone: Gone) -> None:
        """Shows a notice about jobs that left the list; not after a change of order, which may only have moved them."""
        said = [self.noticed] if self._reordered and self.noticed else []
        if gone.cursor and not self._reordered and not self.deck.operations.deletions.holds(gone.cursor):
            said.append(f"{short_id(gone.cursor)} left this list")
            self._gone = gone.cursor
        if gone.marks:
            said.append(f"{plural(gone.marks, 'marked job')} left this list, no longer marked")
        if said:
            self.notice(" · ".join(said))
        elif self._gone in {job.id for job in self.table.jobs}:
            self._gone = None
            self.notice("")
        self._reordered = False

    def redraw(self) -> None:
        if not self.is_mounted:
            return
        deck = self.deck
        view, link, poller = deck.view, deck.poller.link, deck.poller
        table = self.table
        if view is None and link.state is LinkState.DISCONNECTED:
            table.say_empty(NOTHING_YET)
        tab = None if self.group else poller.request.filter.status
        table.set_tab(tab, one_type=self._lists_one_type(), chosen=self.chosen_columns())
        table.set_order(*order(poller.request))
        table.set_stale(view is not None and not poller.connected)
        counts = view.snapshot.counts if view else None
        width = self.size.width
        stale = link.state is LinkState.DISCONNECTED
        if self.group is not None:
            total = view.snapshot.page.total if view else None
            self.line("tabs").show(*status_bar.group(self.group, total, stale=stale, key=deck.key))
        else:
            filtered = poller.request.filter != Filter(status=tab)
            spans = status_bar.tabs(counts, tab, width, stale=stale, filtered=filtered, key=deck.key)
            self.line("tabs").show(spans)
        self.query_one(Reason).say(one_line(link.error) if stale else "")
        self.query_one(Top).draw(self.shape, stale=stale)
        banner = self._banner()
        self.line("banner").display = bool(banner) and not self.has_class("-small")
        self.line("banner").show(banner)
        self.bar.draw("" if self.group else self.filter_text, leads_back=bool(self.trail))
        known = view if by_need(poller.request) else None
        table.say_below(coming(known, table.size.width, table.spare))
        self.draw_foot()
        self._follow()
        self.tick()

    def tick(self) -> None:
        """Redraws the clock and whatever counts seconds."""
        if not self.is_mounted:
            return
        deck = self.deck
        poller, now = deck.poller, deck.monotonic()
        left, right = status_bar.header(status_bar.bar_of(deck, covered=self._covered), self.size.width)
        self.line("header").show(left)
        self.line("clock").fit(right)
        if self.noticed and now - self._noticed_at >= NOTICED_FOR:
            self.notice("")
            self.draw_foot()
        if not poller.connected and self.line("banner").display:
            self.line("banner").show(self._banner())
        if self._awaited and poller.waited >= status_bar.LATE and poller.link.state is not LinkState.DISCONNECTED:
            self.table.say_empty(f"{self._awaited} {seconds(poller.waited)}")

    def _banner(self) -> list[Span]:
        deck = self.deck
        return status_bar.banner(
            deck.view, deck.poller.link, deck.monotonic(), deck.now(), width=self.size.width, named=True, key=deck.key
        )

    def on_job_table_moved(self) -> None:
        super().on_job_table_moved()
        self._follow()

    def _follow(self) -> None:
        """Shows the job under the cursor beside the list, where there is room and nothing covers it."""
        if self.has_class("-beside") and not self._covered:
            self._beside.follow(self.table.current)
        else:
            self._beside.leave()

    def _open_here(self) -> None:
        """Opens the job under the cursor; jobs that read alike get a row each."""
        if len(self.table.here) > 1:
            self.table.unfold()
        elif self.table.current is not None:
            self.deck.open_job(self.table.current)

    def _toggle_beside(self) -> None:
        self._beside.toggle()
        self._divide()
        self.call_after_refresh(self._follow)

    def _divide(self) -> None:
        """Shows the details right of the list or below it, if they are wanted and there is room."""
        shape = self.shape
        self.set_class(shape.too_small, "-small")
        self.set_class(shape.pane_right or shape.pane_below, "-beside")
        self.set_class(shape.pane_below, "-below")
        self._beside.place(shape)

    def action_do(self, action_id: str) -> None:
        """Runs an action, unless the terminal is too small to show its job."""
        if not self.has_class("-small") or action_id.startswith(WHEN_SMALL):
            super().action_do(action_id)

    def acted(self) -> None:
        self.table.unmark()

    def on_resize(self) -> None:
        """Replaces the list by a sentence in a terminal that is too small for it."""
        self._divide()
        shape = self.shape
        if not (shape.too_small or self.bar.editing or self.table.has_focus):
            self.call_after_refresh(self.table.focus)  # a hidden widget loses the focus
        if shape.too_small:
            sizes = f"Jobdeck needs {LEAST[0]} columns and {LEAST[1]} lines; this terminal has {shape.width} and"
            leave = f"{shape.height}. Enlarge it, or press {self.deck.key('quit')} to quit."
            self.query_one("#small", Static).update(Content(f"{sizes} {leave}"))
        self.call_after_refresh(self.redraw)

    def on_top_led(self, event: Top.Led) -> None:
        self.action_do(event.action_id)

    def on_job_table_chosen(self) -> None:
        self.action_do("job.detail")

    def on_line_clicked(self, event: Line.Clicked) -> None:
        """Handles clicks on the hint of the filter line; Textual also calls `Acting`, which handles the rest."""
        if event.line.id == "peek" and self.bar.editing:
            self.call_later(self.bar.take_click, event.line.spans, event.x)

    def situation(self) -> Situation:
        """Actions apply to the jobs chosen with A, otherwise to the selected jobs."""
        chosen = self.deck.operations.bulk.choice
        return replace(super().situation(), chosen=chosen, folded=len(self.table.here) > 1)

    def refused(self) -> dict[str, str]:
        """Refuses actions on jobs while some are being chosen, and details where they have no room.

        A key typed ahead means all the chosen jobs, not the job under the cursor.
        """
        refused = dict.fromkeys(ON_MANY, CHOOSING) if self.deck.operations.bulk.choosing else {}
        if self._awaited and not self.table.jobs:
            refused |= {action.id: STILL_READING for action in ACTIONS if action.states is not None}
        if len(self.table.here) > 1:
            unfolds = self.deck.key("job.detail")
            refused |= dict.fromkeys(
                OF_ONE, f"{plural(len(self.table.here), 'job')} in this row. {unfolds} unfolds it."
            )
        if self.group is not None:
            refused["page.facets"] = OF_GROUP.format(back=self.deck.key("back"))
        if self.app.size.height < TALL:
            refused["beside"] = f"The details of the job under the cursor need {TALL} lines."
        return refused

    def subject(self) -> tuple[Job, ...]:
        """The job under the cursor, even if others are marked."""
        return (self.table.current,) if self.table.current else ()

    def ask(self, verb: Verb) -> None:
        """Asks about the jobs chosen with A, otherwise about the selected jobs."""
        driver = self.deck.operations.bulk
        choice = driver.choice
        if choice is None or verb == "run-again":
            super().ask(verb)
            return
        from jobdeck.tui.screens.dialogs.confirm import Confirm, choice_question  # noqa: PLC0415 -- not needed for the first paint

        def answered(yes: bool | None) -> None:
            if yes and driver.choice is choice:
                driver.act_on_choice(verb, reason=dialog.reason)
            self.draw_foot()

        dialog = Confirm(choice_question(verb, choice))
        self.app.push_screen(dialog, answered)

    def _edit(self) -> None:
        """Edits the payloads of the jobs chosen with A, otherwise the job under the cursor."""
        driver = self.deck.operations.bulk
        choice = driver.choice
        if choice is None:
            self.open_form(*self.subject(), editing=True)
            return

        def answered(answer: WantedEdit | None) -> None:
            if answer is not None and driver.choice is choice:
                driver.edit_choice(answer.change, reason=answer.reason)
            self.draw_foot()

        from jobdeck.tui.screens.dialogs.payloads import BulkEdit  # noqa: PLC0415 -- not needed for the first paint

        self.app.push_screen(BulkEdit(choice), answered)

    def draw_foot(self) -> None:
        table, deck = self.table, self.deck
        view = deck.view
        more = bool(view and view.snapshot.page.next)
        where = "" if self._awaited else status_bar.place(table.above, table.top, len(table.jobs), more=more)
        if where and not self.noticed and not table.heads_order and not is_usual(deck.poller.request):
            where = f"{ordered(deck.poller.request)}  {where}"
        choice = deck.operations.bulk.choice
        left, right = status_bar.peek(
            None if self.has_class("-beside") else table.current,
            len(table.selected) if self._marking else 0, where, ranging=table.ranging,
            chosen=choice.bulk.total if choice else 0, key=deck.key,
        )  # fmt: skip
        if self.bar.editing:
            left, right = self.bar.hint(), self.bar.ways() if deck.options.mouse else []
        elif deck.operations.cycle is not None:
            left = [(f" Run Worker: {deck.operations.cycle}", "run")]
        elif deck.operations.bulk.telling:
            left = [(f" {deck.operations.bulk.telling}", "run"), (f"  {deck.key('page.bulk')} shows it", "muted")]
        elif said := self.noticed or self.left_out():
            left = [(f" {said}", "warn")]
        self.line("peek").show(left, right)
        paused = view is not None and is_paused(view.snapshot.processing)
        situation = self.situation()
        self.line("keys").show(key_line.keys("list", situation, self.size.width, paused=paused))

    def _choose_matching(self) -> None:
        """Chooses and freezes all matching jobs; drops them if they were chosen already."""
        driver = self.deck.operations.bulk
        if driver.choice is not None:
            self.drop_choice()
        elif not driver.choosing:
            self.table.unmark()
            request = self.deck.poller.request
            driver.choose(request.filter, request.group)

    def _open_quick_sync(self) -> None:
        from jobdeck.tui.screens.dialogs.quick_sync import QuickSyncDialog  # noqa: PLC0415 -- not needed for the first paint

        self.app.push_screen(QuickSyncDialog(self.deck.reach().creating))

    def _back(self) -> None:
        if self.bar.editing:
            self._close_filter()
        elif self.table.ranging:
            self.table.close_range()
        elif self.deck.operations.bulk.choice is not None:
            self.drop_choice()
        elif self.trail:
            self.go_back()
        elif self.filter_text:
            self._clear_filter()
        elif self.table.marks:
            self.table.unmark()
        elif self.table.is_unfolded:
            self.table.fold()
        elif self.deck.options.opened:
            self.deck.return_to_fleet()
