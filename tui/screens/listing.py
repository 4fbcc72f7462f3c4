"""The jobs that the first screen lists, and their order: tabs, filter, sorting, movement to both ends."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from textual.geometry import Offset

from jobdeck.core.errors import JobdeckError
from jobdeck.core.model import Filter, Status
from jobdeck.core.read.filters import EVERYTHING, SORTS, format_filter
from jobdeck.core.read.report_types import Counts
from jobdeck.core.read.sentences import EACH
from jobdeck.tui.backend.protocol import LONGEST_PAGE, PAGE
from jobdeck.tui.commands import save_filter_twin
from jobdeck.tui.format import one_line, plural
from jobdeck.tui.screens.acting import Acting
from jobdeck.tui.screens.orders import SORT_WORDS, by_need, is_usual
from jobdeck.tui.screens.trail import Place, Trail, reopen, set_aside
from jobdeck.tui.widgets import status_bar
from jobdeck.tui.widgets.filter_bar import FilterBar
from jobdeck.tui.widgets.jobs.job_table import JobTable
from jobdeck.tui.widgets.pane import MOVES

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from jobdeck.core.model import Job
    from jobdeck.core.read.report_types import ErrorGroup
    from jobdeck.tui.backend.protocol import Request

NEAR_END: Final = 50
NOTICED_FOR: Final = 10.0
"""Seconds after which a notice gives its line back to the job under the cursor."""
OPENING: Final = "Opening the database…"
READING: Final = "Reading…"
ENDS: Final = f"Only the first {LONGEST_PAGE:,} jobs are listed. {{filter}} narrows it."
FIRST_OF_EACH: Final = f"The first {EACH:,} of each status; the other tabs have all."
SEARCHED: Final = "Only the first {searched:,} jobs of this list were looked through."
NEWEST_FIRST: Final = frozenset({"natural", "created", "updated", "attempts", "last_run", "error"})


class Listing(Acting):
    """A screen with the live table and the filter line. Subclasses draw the lines around them."""

    def __init__(self) -> None:
        super().__init__()
        self.filter_text = ""
        self.noticed = ""
        self._noticed_at = 0.0
        self._awaited = OPENING
        self._to_end = False
        self._reordered = False
        self._covered = False
        self._sought: UUID | None = None
        self._sought_at = 0.0
        self._gone: UUID | None = None
        self._tab_before: Status | None = None
        self._column_trouble = ""
        self._group: ErrorGroup | None = None
        self._sought_line: int | None = None
        self.trail = Trail()
        """Where `esc` leads, once what a page has listed here is left."""

    def redraw(self) -> None:
        """Draws the lines around the table."""
        raise NotImplementedError

    def draw_foot(self) -> None:
        """Draws the lines under the table: the job under the cursor or a notice, and the keys."""
        raise NotImplementedError

    def handlers(self) -> dict[str, Callable[[], object]]:
        table = self.table
        return super().handlers() | {
            **{f"tab.{name.lower()}": self._tab(status) for name, status in status_bar.TABS},
            "filter": self._edit_filter,
            "columns": self._choose_columns,
            "sort": self._next_sort,
            "sort.reverse": self._reverse,
            "freeze": self._freeze,
            "interval.longer": lambda: self._step_interval(1),
            "interval.shorter": lambda: self._step_interval(-1),
            **{name: partial(step, table) for name, step in MOVES.items()},
            "move.top": self._top,
            "move.bottom": self._bottom,
        }

    @property
    def table(self) -> JobTable:
        return self.query_one("#jobs", JobTable)

    @property
    def bar(self) -> FilterBar:
        return self.query_one(FilterBar)

    def notice(self, text: str) -> None:
        """Shows a notice under the table until the cursor moves, 10 seconds at most; an empty text removes it."""
        self.noticed, self._noticed_at = text, self.deck.monotonic()

    @property
    def group(self) -> ErrorGroup | None:
        """The group of errors whose jobs are listed; None while tab and filter choose the jobs."""
        return self._group if self.deck.poller.request.group is not None else None

    def list_group(self, group: ErrorGroup) -> None:
        """Lists the jobs of a group of errors in place of the open pages, until somebody goes back to them."""
        self._keep_place()
        self._group = group
        self._list(group=group.key, sort="natural", descending=True)

    def list_filter(self, wanted: Filter) -> None:
        """Lists the jobs that match in place of the open pages, until somebody goes back to them."""
        self._keep_place()
        self._filter(f"{'' if wanted.status else f'status:{EVERYTHING} '}{format_filter(wanted)}".rstrip(), wanted)

    def _keep_place(self) -> None:
        request, table = self.deck.poller.request, self.table
        job = table.current.id if table.current and table.cursor else None
        place = Place(request, self.filter_text, self._tab_before, self.group, job, table.cursor - table.top,
                      set_aside(self.app))  # fmt: skip
        self.trail.keep(self.app, place)

    def go_back(self) -> None:
        """Lists what was listed before, with the cursor where it was, and shows the pages that were open then."""
        place = self.trail.back()
        self.filter_text, self._tab_before, self._group = place.filter_text, place.tab_before, place.group
        if place.job_id is not None:
            self.seek(place.job_id, line=place.line)
        before = place.request
        self._list(filter=before.filter, sort=before.sort, descending=before.descending, limit=before.limit,
                   group=before.group)  # fmt: skip
        reopen(self.app, place.pages)

    def seek(self, job_id: UUID, *, line: int | None = None) -> None:
        """Moves the cursor to a job, if the next reading lists it; on this line of the screen, or scrolling least."""
        self._sought, self._sought_at, self._sought_line = job_id, self.deck.monotonic(), line

    def _find_sought(self) -> None:
        poller = self.deck.poller
        place = None if self._sought is None else self.table.seek(self._sought)
        if place is not None:
            self.table.move_to(place, line=self._sought_line)
        elif not poller.request.glance and poller.read_at is not None and poller.read_at >= self._sought_at:
            self._sought = None

    def targets(self) -> tuple[Job, ...]:
        """The marked jobs, otherwise those under the cursor."""
        return self.table.selected

    def on_job_table_moved(self) -> None:
        """Redraws the lines below; near the end of the list, reads more of it."""
        table, view = self.table, self.deck.view
        if view and view.snapshot.page.next and table.above >= len(table.jobs) - NEAR_END:
            self.deck.poller.grow(len(table.jobs) * 2)
        self._sought = None
        self.notice("")
        self.draw_foot()

    def on_job_table_sorted(self, event: JobTable.Sorted) -> None:
        """Sorts by the clicked column; reverses the order if it is sorted by it already."""
        if event.sort == self.deck.poller.request.sort:
            self.action_do("sort.reverse")
        else:
            self._sort_by(event.sort)

    def on_filter_bar_wanted(self, event: FilterBar.Wanted) -> None:
        """Lists the jobs that match; a filter without a status keeps the tab."""
        self.trail.forget(self.app)
        self._filter(event.text, event.found)

    def _filter(self, text: str, wanted: Filter) -> None:
        tab = self.deck.poller.request.filter.status
        if wanted.status is None and "status:" not in text:
            wanted = replace(wanted, status=tab)
        elif "status:" not in self.filter_text:
            self._tab_before = tab
        self.filter_text = text
        self._close_filter()
        self._list(filter=wanted)

    def on_filter_bar_saving(self, event: FilterBar.Saving) -> None:
        """Asks for the name of the filter, which stays in the line."""
        from jobdeck.tui.screens.dialogs.dialog import answer_with  # noqa: PLC0415 -- not needed for the first paint
        from jobdeck.tui.screens.dialogs.saved import NameFilter  # noqa: PLC0415 -- not needed for the first paint

        def saved(name: str) -> None:
            self.deck.say(f"Saved as @{name}.\n{save_filter_twin(name, event.text)}")

        answer_with(self, NameFilter(event.text), saved)

    def chosen_columns(self) -> tuple[str, ...]:
        """The columns that the person chose for this tab; none while they cannot be read, which is said once."""
        try:
            return self.deck.options.preferences.columns(self._tab_name)
        except JobdeckError as error:
            if str(error) != self._column_trouble:
                self._column_trouble = str(error)
                self.deck.say(one_line(str(error)), "warning")
            return ()

    @property
    def _tab_name(self) -> str:
        status = self.deck.poller.request.filter.status
        return status.value if status else "all"

    def _choose_columns(self) -> None:
        from jobdeck.tui.screens.dialogs.dialog import answer_with  # noqa: PLC0415 -- not needed for the first paint
        from jobdeck.tui.screens.dialogs.saved import ChooseColumns  # noqa: PLC0415 -- not needed for the first paint

        tab = self._tab_name

        def chosen(columns: tuple[str, ...]) -> None:
            try:
                self.deck.options.preferences.choose_columns(tab, columns)
            except JobdeckError as error:
                self.deck.say(one_line(str(error)), "warning")
            self.redraw()

        answer_with(self, ChooseColumns(tab, self.table.columns), chosen)

    def on_filter_bar_refused(self, event: FilterBar.Refused) -> None:
        self.deck.say(event.sentence, "warning")

    def on_filter_bar_typing(self) -> None:
        self.draw_foot()

    @property
    def _marking(self) -> bool:
        return bool(self.table.marks) or self.table.ranging

    def left_out(self) -> str:
        """Which jobs are not in the list, once the cursor is on its last one; empty where it has all."""
        view, table = self.deck.view, self.table
        if view is None or table.cursor < table.total - 1:
            return ""
        page, request = view.snapshot.page, self.deck.poller.request
        if len(table.jobs) >= LONGEST_PAGE and page.next is not None:
            return ENDS.format(filter=self.deck.key("filter"))
        if page.searched:
            return SEARCHED.format(searched=page.searched)
        some = EACH <= len(table.jobs) < view.snapshot.counts.of(None)
        return FIRST_OF_EACH if by_need(request) and some and page.next is None else ""

    def _lists_one_type(self) -> bool:
        """Whether one task type is listed: of a group, or by a filter with a type that is in no other known name."""
        if self.group is not None:
            return True
        wanted = (self.deck.poller.request.filter.task_type or "").lower()
        known = self.deck.view.session.task_types if self.deck.view else ()
        return [name.lower() for name in known if wanted and wanted in name.lower()] == [wanted]

    def _empty_text(self) -> str:
        request, view = self.deck.poller.request, self.deck.view
        if view is not None and view.snapshot.page.refusal is not None:
            return one_line(view.snapshot.page.refusal)
        if self.group is not None:
            left = "No job of this group is left in the queue: each was retried, has run again or was removed."
            return f"{left} {self.deck.key('back')} goes back."
        if self.filter_text:
            status = request.filter.status
            what = f"No {status.value} job" if status and "status:" not in self.filter_text else "No job"
            if view is not None and view.snapshot.page.searched:
                what = f"{what} among the first {view.snapshot.page.searched:,}"
            leaves = "goes back" if self.trail else "clears the filter"
            return f"{what} matches {one_line(self.filter_text)}. {self.deck.key('back')} {leaves}."
        if request.filter.status is None:
            hint = "" if self.deck.read_only_reason else f" {self.deck.key('job.new')} creates a job."
            return f"The queue is empty.{hint}"
        return f"No {request.filter.status.value} jobs."

    def _list(self, *, group: tuple[str, str] | None = None, **changes: object) -> None:
        """Lists other jobs. The cursor goes to the first; marks on jobs that are no longer listed are dropped."""
        poller = self.deck.poller
        dropped = len(self.table.marks)
        self.deck.operations.bulk.drop()
        self.table.home()
        self._awaited = READING
        self.table.say_empty(self._awaited)
        poller.change(replace(poller.request, **{"limit": PAGE, "group": group, **changes}))  # type: ignore[arg-type]
        self.notice(f"{plural(dropped, 'mark')} dropped" if dropped else "")
        self.redraw()

    def _order_as(self, wanted: Request, said: str) -> None:
        """Lists the same jobs in another order, with a notice; cursor and marks stay with their jobs."""
        self._reordered = wanted != self.deck.poller.request
        self.notice(said)
        self.deck.poller.change(wanted)
        self.redraw()

    def _tab(self, status: Status | None) -> Callable[[], None]:
        def choose() -> None:
            request = self.deck.poller.request
            wanted = replace(request.filter, status=status)
            if wanted != request.filter or request.group is not None:
                self._list(filter=wanted)

        return choose

    def _next_sort(self) -> None:
        self._sort_by(SORTS[(SORTS.index(self.deck.poller.request.sort) + 1) % len(SORTS)])

    def _sort_by(self, sort: str) -> None:
        wanted = replace(self.deck.poller.request, sort=sort, descending=sort in NEWEST_FIRST)
        reverses = f"{self.deck.key('sort.reverse')} reverses."
        self._order_as(wanted, f"Sorted by {SORT_WORDS.get(sort, sort)}{self._among(wanted)}; {reverses}")

    def _reverse(self) -> None:
        request = self.deck.poller.request
        wanted = replace(request, descending=not request.descending)
        among = self._among(wanted)
        self._order_as(wanted, f"Reversed{among}." if among else "")

    def _among(self, wanted: Request) -> str:
        """How many jobs an order without an index covers; empty where it covers all."""
        view = self.deck.view
        if is_usual(wanted) or view is None:
            return ""
        total = view.snapshot.page.total if wanted.group else view.snapshot.counts.of(wanted.filter.status)
        if (total or 0) <= Counts.LIMIT:
            return ""
        return f", among the first {Counts.LIMIT:,}"

    def _step_interval(self, by: int) -> None:
        interval = self.deck.poller.step_interval(by)
        self.deck.say(f"Refresh every {interval:g} s.")

    def _freeze(self) -> None:
        self.deck.poller.toggle_freeze()

    def _top(self) -> None:
        """Goes to the first job, and reads one page again after `G` has read the whole list."""
        self.table.move_to(0)
        poller = self.deck.poller
        if poller.request.limit > PAGE and not self._marking:
            poller.request = replace(poller.request, limit=PAGE)

    def _bottom(self) -> None:
        view = self.deck.view
        self.table.move_to(self.table.total - 1)
        if view and view.snapshot.page.next and len(self.table.jobs) < LONGEST_PAGE:
            self._to_end = True
            self.deck.poller.grow(LONGEST_PAGE)

    def unmark_or_undo(self) -> None:
        operations = self.deck.operations
        if self._marking:
            self.table.unmark()
        elif operations.bulk.choice is not None:
            self.drop_choice()
        elif operations.can_undo:
            self._ask_to_undo()
        else:
            audit = self.deck.key("page.audit")
            self.deck.say(f"No marks to clear and no delete to undo. {audit} lists earlier deletions; each can be "
                          "opened there and restored for 7 days.")  # fmt: skip

    def _ask_to_undo(self) -> None:
        """Asks before the newest deletion is undone; the answer applies to exactly this one."""
        from jobdeck.tui.screens.dialogs.confirm import ask  # noqa: PLC0415 -- not needed for the first paint
        from jobdeck.tui.screens.dialogs.questions import undo_question  # noqa: PLC0415 -- not needed for the first paint

        deletion = self.deck.operations.undoable()
        if deletion is not None:
            question = undo_question(deletion)
            ask(self, question, lambda: self.deck.operations.undo(deletion, self.seek))

    def drop_choice(self) -> None:
        self.deck.operations.bulk.drop()
        self.draw_foot()

    def _edit_filter(self) -> None:
        view = self.deck.view
        self.bar.edit(self.filter_text, lambda: view.session.task_types if view else ())
        self.draw_foot()

    def _clear_filter(self) -> None:
        """Clears the filter; if it named a status, goes back to the tab from before."""
        status = self.deck.poller.request.filter.status
        if "status:" in self.filter_text:
            status = self._tab_before
        self.filter_text = ""
        self._list(filter=Filter(status=status))

    def _close_filter(self) -> None:
        self.bar.close()
        self._leave_text()
        self.table.focus()
        self.bar.draw(self.filter_text, leads_back=bool(self.trail))
        self.draw_foot()

    def _leave_text(self) -> None:
        """Moves the terminal's cursor out of the filter, so that no update has to move it back there."""
        self.app.cursor_position = Offset(0, 0)
