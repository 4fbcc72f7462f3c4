"""The columns of the job table at each width, and the cells of a job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from jobdeck.core.model import SUCCESSES, Status
from jobdeck.core.read.sentences import DRY_RUN, status_word
from jobdeck.tui.format import (
    DASH,
    DRY_MARK,
    age,
    ago,
    badge,
    bar,
    due,
    fit,
    fraction,
    middle,
    one_line,
    outcome_look,
    payload_summary,
    short_id,
    status_look,
)
from jobdeck.tui.widgets.ink import width_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from jobdeck.core.model import Job
    from jobdeck.tui.widgets.ink import Span

LEASE_STEP = 10
LAST_WIDE = 16
"""The width of the column of the last run from which on it names the outcome."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `sort` is the sort key of its heading, `grow` its share of spare cells, `x` its first cell."""

    id: str
    title: str
    width: int
    sort: str | None = None
    grow: int = 0
    x: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """What all cells of one refresh depend on: the time and what is paused."""

    now: datetime
    paused: bool = False
    paused_types: frozenset[str] = frozenset()


Cell = tuple["Span", ...]

ROOMY = 132
"""From this width on, columns are two cells apart; below it, one."""
STATUS = Column("status", "status", 12, "status")
NARROW = (
    Column("id", "job", 8, "natural"),
    Column("task", "task", 16, "task", grow=1),
    STATUS,
    Column("attempts", "try", 4, "attempts"),
    Column("last", "last", 6, "last_run"),
    Column("next", "next", 12, "run_at"),
)
MEDIUM = (
    Column("id", "job", 8, "natural"),
    Column("task", "task", 24, "task", grow=3),
    STATUS,
    Column("attempts", "try", 4, "attempts"),
    Column("created", "created", 8, "created"),
    Column("last", "last run", 8, "last_run"),
    Column("next", "next", 14, "run_at"),
    Column("error", "error", 12, "error", grow=2),
)
WIDE = (
    Column("id", "job", 8, "natural"),
    Column("task", "task", 40, "task", grow=1),
    STATUS,
    Column("attempts", "attempts", 8, "attempts"),
    Column("created", "created", 8, "created"),
    Column("last", "last run", LAST_WIDE, "last_run"),
    Column("next", "next scheduled", 26, "run_at"),
    Column("error", "error", 20, "error", grow=2),
)
TINY = (
    Column("id", "job", 8, "natural"),
    Column("task", "task", 8, "task", grow=1),
    STATUS,
    Column("next", "next", 13, "run_at"),
)


LEFT_OUT: Final[Mapping[Status | None, frozenset[str]]] = {
    Status.PENDING: frozenset({"status"}),
    Status.RUNNING: frozenset({"status", "next", "error"}),
    Status.SUCCEEDED: frozenset({"status", "error"}),
    Status.FAILED: frozenset({"status", "next"}),
    Status.CANCELLED: frozenset({"status", "next"}),
}
"""The columns that would be equal in all rows of a tab."""
ADDED: Final[Mapping[Status | None, tuple[Column, ...]]] = {
    Status.RUNNING: (Column("started", "for", 5), Column("progress", "progress", 28)),
    Status.SUCCEEDED: (Column("created", "created", 8, "created"),),
    Status.FAILED: (Column("error", "error", 20, "error", grow=2),),
    Status.CANCELLED: (Column("created", "created", 8, "created"),),
}
"""The columns that tell the rows of a tab apart, in the cells that are free without those."""
ARGUMENTS: Final = "arguments"
FIRST: Final = "id"
"""The column that every list has."""
_EVERY: Final = {
    column.id: column
    for column in (*WIDE, *(one for of_tab in ADDED.values() for one in of_tab))
    if column.id != "error"
} | {"error": WIDE[-1]}
CATALOGUE: Final = {column.id: column.title for column in _EVERY.values()}
"""The titles of the columns that can be chosen, in their order."""
LEAST: Final = 4
"""The cells to which a column that grows may shrink."""


def layout(
    width: int, status: Status | None = None, *, one_type: bool = False, chosen: Collection[str] = ()
) -> tuple[Column, ...]:
    """The columns for a table of `width` cells. Two cells are kept for the mark and one at the right edge.

    `chosen` are those that the person chose for the tab, as many of them as fit; without them, the usual ones.

    They depend on the tab and the filter alone, never on the rows, so that no column comes or goes while an operator
    scrolls or the list is read again. With `one_type`, all jobs have one task type, and their arguments are shown.
    """
    gap = 1 if width < ROOMY else 2
    kept = _chosen(width, chosen, gap) if chosen else _of_tab(width, status)
    return _placed(_with_arguments(kept) if one_type else kept, width, gap)


def _usual(width: int) -> tuple[Column, ...]:
    return WIDE if width >= 160 else MEDIUM if width >= 110 else NARROW if width >= 72 else TINY


def _of_tab(width: int, status: Status | None) -> list[Column]:
    kept = [column for column in _usual(width) if column.id not in LEFT_OUT.get(status, ())]
    known = {column.id for column in kept}
    return [*kept, *(column for column in ADDED.get(status, ()) if column.id not in known)]


def _chosen(width: int, chosen: Collection[str], gap: int) -> list[Column]:
    """The chosen columns in the order of the catalogue, as wide as is usual at this width, while they fit."""
    sized = _EVERY | {column.id: column for column in _usual(width)}
    kept: list[Column] = []
    room = width - 3
    for name in _EVERY:
        if name in chosen or name == FIRST:
            room -= (LEAST if sized[name].grow else sized[name].width) + (gap if kept else 0)
            if room < 0:
                break
            kept.append(sized[name])
    return kept


def _with_arguments(kept: Sequence[Column]) -> list[Column]:
    return [replace(one, id=ARGUMENTS, title=ARGUMENTS, sort=None) if one.id == "task" else one for one in kept]


def _placed(chosen: Sequence[Column], width: int, gap: int) -> tuple[Column, ...]:
    """The columns with their first cells; those that grow share the spare cells."""
    spare = width - 3 - sum(column.width for column in chosen) - gap * (len(chosen) - 1)
    shares = sum(column.grow for column in chosen)
    placed, x, left = [], 2, max(spare, 0)
    growing = [column for column in chosen if column.grow]
    for column in chosen:
        extra = 0
        if column.grow:
            extra = left if column is growing[-1] else max(spare, 0) * column.grow // shares
            left -= extra
        width_now = column.width + extra if spare >= 0 or not column.grow else max(column.width + spare, LEAST)
        placed.append(replace(column, width=width_now, x=x))
        x += width_now + gap
    return tuple(placed)


def cell(column: Column, job: Job, moment: Moment) -> Cell:
    """The cell of one column for one job, at most as wide as the column."""
    return CELLS[column.id](job, column.width, moment)


def _id(job: Job, width: int, _moment: Moment) -> Cell:
    return ((fit(short_id(job.id), width), "muted"),)


def _marks(job: Job) -> list[Span]:
    marks: list[Span] = []
    if job.is_recurring:
        marks.append((f" {badge(job)}", "accent"))
    if job.is_dry:
        marks.append((f" {DRY_MARK}", "warn"))
    return marks


def _arguments(job: Job, width: int, _moment: Moment) -> Cell:
    """The payload without the task type, for a list of one type."""
    marks = _marks(job)
    room = width - width_of(marks)
    return ((fit(payload_summary(job.payload) or DASH, room).rstrip(), "text"), *marks)


def _task(job: Job, width: int, _moment: Moment) -> Cell:
    marks = _marks(job)
    room = width - width_of(marks)
    name = middle(one_line(job.task_type), room)
    left = room - cell_len(name)
    summary = payload_summary(job.payload) if left > 6 else ""
    arguments: list[Span] = [(f"  {fit(summary, left - 2).rstrip()}", "muted")] if summary else []
    return ((name, "text"), *marks, *arguments)


def _status(job: Job, width: int, _moment: Moment) -> Cell:
    if job.status is Status.RUNNING and job.cancel_requested_at is not None:
        return ((fit("⊘ cancelling", width), "warn"),)
    glyph, ink = status_look(job)
    if job.status is Status.SUCCEEDED and job.last_run_dry:
        return ((fit(f"{glyph} {DRY_RUN}", width), "warn"),)
    return ((fit(f"{glyph} {status_word(job)}", width), ink),)


def _attempts(job: Job, width: int, _moment: Moment) -> Cell:
    spent = job.status is Status.FAILED and job.attempts >= (job.max_attempts or 0)
    return (
        (
            fit(f"{job.attempts}/{job.max_attempts or DASH}", width),
            "bad" if spent else "text" if job.attempts else "muted",
        ),
    )


def _created(job: Job, width: int, moment: Moment) -> Cell:
    return ((fit(ago(job.created_at, moment.now), width), "muted"),)


def _last(job: Job, width: int, moment: Moment) -> Cell:
    """The outcome of the last run, with its word where there is room, and its age."""
    at = job.last_run_at
    if at is None or job.last_outcome is None:
        return ((fit(DASH, width), "muted"),)
    glyph, ink = outcome_look(job.last_outcome, dry=job.last_run_dry)
    known = DRY_RUN if job.last_run_dry and job.last_outcome in SUCCESSES else job.last_outcome.value
    word = f"{glyph} {known}" if width >= LAST_WIDE else glyph
    return ((word, ink), (f" {age(moment.now - at)}", "text"))


def lease_left(job: Job, now: datetime) -> str:
    """The rest of a running job's lease in steps of ten seconds, so that it does not change at every refresh."""
    if job.lease_expires_at is None:
        return ""
    left = (job.lease_expires_at - now).total_seconds()
    if left <= 0:
        return "lease expired"
    return f"lease {max(int(left) // LEASE_STEP * LEASE_STEP, 1)}s"


def _next(job: Job, width: int, moment: Moment) -> Cell:
    if job.status is Status.RUNNING:
        return _running(job, width, moment)
    if job.removed:
        return ((fit("left queue", width), "muted"),)
    if job.status is not Status.PENDING:
        return ((fit(DASH, width), "muted"),)
    if job.is_paused:
        return ((fit("paused", width), "warn"),)
    if job.blocked_by is not None:
        return ((fit(f"on {short_id(job.blocked_by)}", width), "muted"),)
    paused = moment.paused or job.task_type in moment.paused_types
    text, ink = due(job.next_run_at or job.run_at, moment.now, paused=paused)
    return ((fit(text, width), ink),)


def _running(job: Job, width: int, moment: Moment) -> Cell:
    share = fraction(job.progress)
    lease = lease_left(job, moment.now)
    lease_ink = "bad" if lease == "lease expired" else "muted"
    if share is None:
        return ((fit(lease or status_word(job), width), lease_ink),)
    percent = f"{int(share * 100)}%"
    if width < 22:
        short = lease.removeprefix("lease ")
        return ((f"{bar(share, 4)} {percent:>3} ", "run"), (fit(short, width - 9).rstrip(), lease_ink))
    return ((f"{bar(share, 10)} {percent:>4}", "run"), (f"  {lease}", lease_ink))


def _started(job: Job, width: int, moment: Moment) -> Cell:
    return ((fit(age(moment.now - job.started_at) if job.started_at else DASH, width), "text"),)


def _progress(job: Job, width: int, moment: Moment) -> Cell:
    """The progress and the lease; whether it was asked to stop, which the column of the status would say."""
    if job.cancel_requested_at is None:
        return _running(job, width, moment)
    return (("⊘ cancelling", "warn"), (f"  {lease_left(job, moment.now)}", "muted"))


def _error(job: Job, width: int, _moment: Moment) -> Cell:
    if not job.last_error:
        return ((fit(DASH, width), "muted"),)
    return ((fit(one_line(job.last_error), width), "bad" if job.status is Status.FAILED else "warn"),)


CELLS: Mapping[str, Callable[[Job, int, Moment], Cell]] = {
    "id": _id,
    "task": _task,
    "arguments": _arguments,
    "status": _status,
    "attempts": _attempts,
    "created": _created,
    "last": _last,
    "next": _next,
    "started": _started,
    "progress": _progress,
    "error": _error,
}
