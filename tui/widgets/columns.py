"""The columns of the job table at each width, and the cells of a job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len

from jobdeck.core.model import Status
from jobdeck.tui.format import (
    DASH,
    OUTCOME_LOOK,
    STATUS_LOOK,
    age,
    ago,
    badge,
    bar,
    due,
    fit,
    fraction,
    middle,
    one_line,
    payload_summary,
    short_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
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


def layout(width: int) -> tuple[Column, ...]:
    """The columns for a table of `width` cells. Two cells are kept for the mark and one at the right edge."""
    chosen = WIDE if width >= 160 else MEDIUM if width >= 110 else NARROW if width >= 72 else TINY
    gap = 1 if width < ROOMY else 2
    spare = width - 3 - sum(column.width for column in chosen) - gap * (len(chosen) - 1)
    shares = sum(column.grow for column in chosen)
    placed, x, left = [], 2, max(spare, 0)
    growing = [column for column in chosen if column.grow]
    for column in chosen:
        extra = 0
        if column.grow:
            extra = left if column is growing[-1] else max(spare, 0) * column.grow // shares
            left -= extra
        width_now = column.width + extra if spare >= 0 or not column.grow else max(column.width + spare, 4)
        placed.append(replace(column, width=width_now, x=x))
        x += width_now + gap
    return tuple(placed)


def cell(column: Column, job: Job, moment: Moment) -> Cell:
    """The cell of one column for one job, at most as wide as the column."""
    return CELLS[column.id](job, column.width, moment)


def _id(job: Job, width: int, _moment: Moment) -> Cell:
    return ((fit(short_id(job.id), width), "muted"),)


def _task(job: Job, width: int, _moment: Moment) -> Cell:
    marks: list[Span] = []
    if job.is_recurring:
        marks.append((f" {badge(job)}", "accent"))
    if job.payload.get("dryRun") is True:
        marks.append((" DRY RUN", "warn"))
    room = width - sum(cell_len(text) for text, _ in marks)
    name = middle(one_line(job.task_type), room)
    left = room - cell_len(name)
    summary = payload_summary(job.payload) if left > 6 else ""
    arguments: list[Span] = [(f"  {fit(summary, left - 2).rstrip()}", "muted")] if summary else []
    return ((name, "text"), *marks, *arguments)


def _status(job: Job, width: int, _moment: Moment) -> Cell:
    if job.status is Status.RUNNING and job.cancel_requested_at is not None:
        return ((fit("⊘ cancelling", width), "warn"),)
    glyph, ink = STATUS_LOOK[job.status]
    return ((fit(f"{glyph} {job.status.value}", width), ink),)


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
    glyph, ink = OUTCOME_LOOK[job.last_outcome]
    word = f"{glyph} {job.last_outcome.value}" if width >= LAST_WIDE else glyph
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
        return ((fit(lease or "running", width), lease_ink),)
    percent = f"{int(share * 100)}%"
    if width < 22:
        short = lease.removeprefix("lease ")
        return ((f"{bar(share, 4)} {percent:>3} ", "run"), (fit(short, width - 9).rstrip(), lease_ink))
    return ((f"{bar(share, 10)} {percent:>4}", "run"), (f"  {lease}", lease_ink))


def _error(job: Job, width: int, _moment: Moment) -> Cell:
    if not job.last_error:
        return ((fit(DASH, width), "muted"),)
    return ((fit(one_line(job.last_error), width), "bad" if job.status is Status.FAILED else "warn"),)


CELLS: Mapping[str, Callable[[Job, int, Moment], Cell]] = {
    "id": _id,
    "task": _task,
    "status": _status,
    "attempts": _attempts,
    "created": _created,
    "last": _last,
    "next": _next,
    "error": _error,
}
