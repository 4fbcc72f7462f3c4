"""The job table: the cursor follows its job, marks follow theirs, and only changed rows are repainted."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from jobdeck.tui.format import fit
from jobdeck.tui.widgets.jobs.cells import cell
from jobdeck.tui.widgets.jobs.columns import ARGUMENTS, FIRST_CELL, Column, layout
from jobdeck.tui.widgets.jobs.folds import Rows
from jobdeck.tui.widgets.pane import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from textual.events import Click, Resize

    from jobdeck.core.model import Job, Status
    from jobdeck.tui.widgets.ink import Span
    from jobdeck.tui.widgets.jobs.cells import Cell, Moment


MARK: Final = "▌"


@dataclass(frozen=True, slots=True)
class Row:
    """One screen line. A row that has not changed is not repainted."""

    job_id: UUID | None = None
    cells: tuple[Cell, ...] = ()
    cursor: bool = False
    marked: bool = False
    stale: bool = False
    note: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Gone:
    """What a refresh removed: the job under the cursor, and the number of marked jobs."""

    cursor: UUID | None
    marks: int


class JobTable(Lines[Row], can_focus=True):
    """The live list of jobs. `show` replaces the jobs; cursor and marks belong to the table."""

    HEAD = 1

    class Moved(Message):
        """The user has moved the cursor or changed the marks."""

    class Chosen(Message):
        """A job was double-clicked."""

    class Sorted(Message):
        """The heading of a column was clicked."""

        def __init__(self, sort: str) -> None:
            super().__init__()
            self.sort = sort

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self._listed = Rows()
        self.marks: set[UUID] = set()
        self.cursor = 0
        self._moved = False
        self._empty = ""
        self._range: UUID | None = None
        self._sort = ("created", True)
        self._stale = False
        self._columns: tuple[Column, ...] = ()
        self._tab: tuple[Status | None, bool, tuple[str, ...]] = (None, False, ())

    def say_empty(self, text: str) -> None:
        """Sets the text that an empty table shows."""
        if text != self._empty:
            self._empty = text
            self._repaint()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All listed jobs."""
        return self._listed.jobs

    @property
    def rows(self) -> tuple[tuple[Job, ...], ...]:
        """The jobs of each row."""
        return self._listed.rows

    @property
    def total(self) -> int:
        return len(self.rows)

    @property
    def here(self) -> tuple[Job, ...]:
        """The jobs of the row under the cursor."""
        return self.rows[self.cursor] if self.rows else ()

    @property
    def current(self) -> Job | None:
        """The first job of the row under the cursor."""
        return self.here[0] if self.here else None

    @property
    def above(self) -> int:
        """How many jobs are listed above the row under the cursor."""
        return sum(len(row) for row in self.rows[: self.cursor])

    @property
    def is_unfolded(self) -> bool:
        """Whether jobs that read alike have a row each, because the person wanted it."""
        return bool(self._listed.apart)

    @property
    def selected(self) -> tuple[Job, ...]:
        """The marked jobs and the open range in list order; otherwise the jobs under the cursor."""
        chosen = self._chosen()
        if chosen:
            return tuple(job for job in self.jobs if job.id in chosen)
        return self.here

    @property
    def ranging(self) -> bool:
        return self._range is not None

    def show(self, jobs: Sequence[Job], moment: Moment, *, folds: bool = False, more: bool = False) -> Gone:
        """Replaces the list, which goes on with `more`. The cursor stays on its job, and marks on theirs.

        With `folds`, jobs that read alike and stand next to each other are one row, on which the cursor stays.

        The cursor's job stays on its screen line. At the head of the list it moves down instead, while it is in view,
        so that a new first job is seen. A cursor that nobody has moved stays at the head, until `keep_job`.
        """
        held, line, at_head = self.here, self.cursor - self.top, self.top == 0
        common = self._listed.alike(held[0]) if held else None
        self._listed.take(jobs, moment, folds=folds, more=more)
        lost = {job_id for job_id in self.marks if job_id not in self._listed.index}
        self.marks -= lost
        if self._range not in self._listed.index:
            self._range = None
        at = self._listed.place_of(held, common)
        self.cursor = self._clamp(self.cursor if at is None else at)
        if not self._moved:
            self.cursor = 0
        self.top = max(0, self.cursor - self.lines + 1) if at_head else self.cursor - line
        self._place()
        return Gone(held[0].id if held and at is None else None, len(lost))

    def unfold(self) -> None:
        """Gives each job of the row under the cursor a row of its own."""
        if self.current is not None:
            self._listed.unfold(self.current)
            self.move(0)

    def fold(self) -> None:
        """Makes one row of jobs that read alike again."""
        job = self.current
        self._listed.fold()
        self.move_to(self._listed.index.get(job.id, 0) if job is not None else 0)

    def seek(self, job_id: UUID) -> int | None:
        """The row of a job; None if it is not listed."""
        return self._listed.seek(job_id)

    def set_order(self, sort: str, descending: bool) -> None:
        if self._sort != (sort, descending):
            self._sort = (sort, descending)
            self.refresh(Region(0, 0, self.size.width, 1))

    def set_tab(self, status: Status | None, *, one_type: bool, chosen: tuple[str, ...] = ()) -> None:
        """Chooses the columns: those of a tab, with arguments in place of the task type if there is `one_type`.

        `chosen` are the columns that the person chose for the tab.
        """
        if self._tab != (status, one_type, chosen):
            self._tab = (status, one_type, chosen)
            self._lay_out(self.size.width)
            self.refresh()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns after the signs, as they can be chosen."""
        _, *shown = (column.id for column in self._columns)
        return tuple(name for one in shown for name in (("task", "what") if one == ARGUMENTS else (one,)))

    @property
    def heads_order(self) -> bool:
        """Whether the column that the list is sorted by is visible; the natural order needs none."""
        sort, _ = self._sort
        return not sort or any(column.sort == sort for column in self._columns)

    def set_stale(self, stale: bool) -> None:
        """Dims the rows while they may be out of date."""
        if stale != self._stale:
            self._stale = stale
            self._repaint()

    def home(self) -> None:
        """Clears the list: jobs, cursor, marks and range."""
        self._listed.clear()
        self.cursor, self.top, self._range = 0, 0, None
        self._moved = False
        self.marks.clear()
        self._repaint()

    def keep_job(self) -> None:
        """Lets the cursor follow its job from now on."""
        self._moved = True

    def move(self, by: int) -> None:
        """Moves the cursor by a number of jobs and stops at the ends."""
        self.move_to(self.cursor + by)

    def move_to(self, index: int, *, line: int | None = None) -> None:
        """Puts the cursor on the job at an index, on this `line` of the screen or scrolling no further than needed."""
        self.cursor = self._clamp(index)
        if line is not None:
            self.top = self.cursor - line
        self._moved = True
        self._show_line(self.cursor)
        self._settle()

    def toggle_mark(self) -> None:
        """Marks or unmarks the jobs under the cursor, then moves down."""
        if self.here:
            self._toggle()
            self.move(1)

    def _toggle(self) -> None:
        wanted = {job.id for job in self.here}
        self.marks = self.marks - wanted if wanted <= self.marks else self.marks | wanted

    def toggle_range(self) -> None:
        """Opens a range at the cursor, or marks the jobs of the open range."""
        self._moved = True
        if self._range is None:
            self._range = self.current.id if self.current else None
        else:
            self.marks |= self._chosen()
            self._range = None
        self._settle()

    def toggle_all(self) -> None:
        """Marks every listed job, or unmarks them when all are marked."""
        everything = set(self._listed.index)
        self.marks = set() if self.marks == everything else everything
        self._range = None
        self._settle()

    def close_range(self) -> None:
        """Drops the open range without marking it."""
        self._range = None
        self._settle()

    def unmark(self) -> None:
        self.marks.clear()
        self.close_range()

    def on_resize(self, event: Resize) -> None:
        self._lay_out(event.size.width)
        self._show_from_below(self.cursor)
        self._settle()
        self.refresh()

    def on_click(self, event: Click) -> None:
        """Sorts by a clicked heading, marks a job clicked left of its row, and chooses a double-clicked one."""
        if event.y == 0:
            column = next((one for one in reversed(self._columns) if event.x >= one.x), None)
            if column is not None and column.sort is not None:
                self.post_message(self.Sorted(column.sort))
            return
        if 0 < event.y <= len(self.rows) - self.top:
            self.move_to(self.top + event.y - 1)
            if event.x < self._columns[1].x:
                self._toggle()
                self._settle()
            elif event.chain == 2:
                self.post_message(self.Chosen())

    def render_line(self, y: int) -> Strip:
        if y == 0:
            return self._heading()
        row = self._painted[y - 1] if y <= len(self._painted) else self._row(y - 1)
        if row.job_id is None:
            return self.strip(row.note, self.size.width)
        return self._line(row)

    def _lay_out(self, width: int) -> None:
        status, one_type, chosen = self._tab
        self._columns = layout(width, status, one_type=one_type, chosen=chosen)
        self._painted = []

    def _chosen(self) -> set[UUID]:
        if self._range is None:
            return self.marks
        start = self._listed.index[self._range]
        low, high = sorted((start, self.cursor))
        return self.marks | {job.id for row in self.rows[low : high + 1] for job in row}

    def _settle(self) -> None:
        self._place()
        self.post_message(self.Moved())

    def _place(self) -> None:
        self._stop()
        self._repaint()

    def _row(self, line: int, chosen: set[UUID] | None = None) -> Row:
        at = self.top + line
        moment = self._listed.moment
        if at >= len(self.rows) or moment is None:
            return Row(note=self._note(line, at - len(self.rows)))
        job = self.rows[at][0]
        cells = tuple(cell(column.id, job, column.width, moment) for column in self._columns)
        known = self._chosen() if chosen is None else chosen
        marked = any(one.id in known for one in self.rows[at])
        return Row(job.id, cells, at == self.cursor, marked, self._stale)

    def _repaint(self) -> None:
        chosen = self._chosen()
        self._paint([self._row(line, chosen) for line in range(self.lines)])

    def _note(self, line: int, below: int) -> tuple[Span, ...]:
        """What a line without a job says: in an empty list why it is, otherwise what is to be said below it."""
        if self.jobs:
            return self._said_below(below)
        lines = wrap(self._empty, max(self.size.width - 4, 20))
        return ((f"  {lines[line - 1]}", "muted"),) if 0 < line <= len(lines) else ()

    def _difference(self, before: Row, after: Row) -> tuple[int, int]:
        same_look = (before.cursor, before.marked, before.stale) == (after.cursor, after.marked, after.stale)
        if not same_look or before.note != after.note or len(before.cells) != len(after.cells):
            return 0, self.size.width
        pairs = zip(self._columns, before.cells, after.cells, strict=True)
        changed = [column for column, was, now in pairs if was != now]
        if not changed:
            return 0, 0
        return changed[0].x, min(changed[-1].x + changed[-1].width, self.size.width)

    def _heading(self) -> Strip:
        sort, descending = self._sort
        spans, x = [], 0
        for column in self._columns:
            title = column.title
            if column.sort == sort:
                arrow = "↓" if descending else "↑"
                room = len(title) + 2 <= column.width
                title = f"{title} {arrow}" if room else f"{title[: column.width - 1]}{arrow}"
            spans.append((" " * (column.x - x) + fit(title, column.width), "head"))
            x = column.x + column.width
        return self.strip([*spans, (" " * (self.size.width - x), "head")], self.size.width)

    def _line(self, row: Row) -> Strip:
        base = self.base()
        over = self.ink("cursor") if row.cursor else None
        segments = [Segment(MARK if row.marked else " ", self._tint(self.ink("mark"), over, stale=row.stale))]
        x = FIRST_CELL
        plain = self._tint(base, over, stale=row.stale)
        for column, spans in zip(self._columns, row.cells, strict=True):
            segments.append(Segment(" " * (column.x - x), plain))
            strip = Strip([Segment(text, self._tint(self.ink(ink), over, stale=row.stale)) for text, ink in spans])
            segments.extend(strip.adjust_cell_length(column.width, plain))
            x = column.x + column.width
        return Strip(segments).adjust_cell_length(self.size.width, plain)

    def _tint(self, style: Style, over: Style | None, *, stale: bool) -> Style:
        if stale:
            style = self.ink("muted")
        if over is None:
            return style
        if over.reverse:
            return over
        return style + Style(bgcolor=over.bgcolor, bold=True if over.bold else None)
