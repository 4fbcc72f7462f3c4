"""Runs as lines: their page, and with jobs below a list that leaves room. Pure.

Every foreign text is cleaned and masked here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from jobdeck.core.words.runs import HIDDEN, NOTHING_LOST, RUNS, same_words, sent, sentences
from jobdeck.tui.format import DASH, fit, one_line, payload_summary, wrapped
from jobdeck.tui.text.first.frames import merged
from jobdeck.tui.text.lines import cells, heading, width_of
from jobdeck.tui.widgets.ink import cut
from jobdeck.tui.widgets.jobs.cells import Moment, cell
from jobdeck.tui.widgets.jobs.columns import layout
from jobdeck.tui.widgets.jobs.folds import Rows
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from jobdeck.core.model import Job, Run
    from jobdeck.core.read.pages.jobs_and_runs import JobsAndRuns
    from jobdeck.core.read.runs.ran_twice import RunReport
    from jobdeck.tui.text.first.frames import Row
    from jobdeck.tui.widgets.jobs.columns import Column

ROOMY: Final = 130
AROUND: Final = 3
"""The lines above the rows of a part: a blank one, its name and the heading of its columns."""
LEAST: Final = 5
"""The lines of the smallest part."""
ROOMY_BELOW: Final = 100
"""From this width on, a run below a list has all its columns."""


def lines(report: RunReport, width: int, error: str) -> list[Entry]:
    """Which jobs may have acted twice, their runs, and the newest ones; of a group of errors those with `error`."""
    roomy = width >= ROOMY
    found = [
        entry((f" {part}", "good" if said == NOTHING_LOST else "warn" if "twice" in said else "text"))
        for said in sentences(report.twice)
        for part in wrapped(said, max(width - 2, 20))
    ]
    if report.twice.hidden:
        found += [entry((f" {part}", "muted")) for part in wrapped(HIDDEN, max(width - 2, 20))]
    found += _part("Runs of jobs that may have acted twice", report.twice.lost.runs, width, roomy=roomy)
    same = [
        entry((f" {part}", "text"), key=None if at else ("job", one.job_ids[-1], n))
        for n, one in enumerate(report.twice.same)
        for at, part in enumerate(wrapped(one_line(same_words(one)), max(width - 2, 20)))
    ]
    if same:
        found += [BLANK, entry((" Same content", "run")), *same]
    title = f"Runs with this error: {one_line(error)}" if error else "Newest runs"
    found += _part(fit(title, max(width - 2, 20)).rstrip(), report.newest, width, roomy=roomy)
    return found if report.newest else [*found, BLANK, entry((" No run has ended yet.", "muted"))]


def _part(title: str, runs: Iterable[Run], width: int, *, roomy: bool) -> list[Entry]:
    head, *listed = table(title, runs, width, ("sent", sent), roomy=roomy)
    return [BLANK, entry((f" {title}", "run")), head, *listed] if listed else []


def table(
    part: str, runs: Iterable[Run], width: int, last: tuple[str, Callable[[Run], str | None]], *, roomy: bool,
    without: Collection[str] = (),
) -> list[Entry]:  # fmt: skip
    """The heading and a line for each run of a part of a page, `without` some columns.

    The `last` column, a title and what it tells of a run, has the room that is left.
    """
    title, tell = last
    columns = [one for one in RUNS if one.name not in without]
    left = max(width - width_of(columns, roomy=roomy) - 1, 0)

    def line(run: Run) -> Entry:
        told = fit(one_line(tell(run) or DASH), left).rstrip() if left > 1 else ""
        key = ("job run", run.job_id, run.run_token, part, run.outcome)
        return entry(*cells(columns, run, roomy=roomy), (f" {told}", "text"), key=key)

    return [entry((fit(f"{heading(columns, roomy=roomy)} {title}", width), "head")), *map(line, runs)]


def jobs_and_runs(
    found: JobsAndRuns, moment: Moment, width: int, room: int, order: str, without: Collection[str] = (),
    *, alike: bool = False,
) -> list[Row]:  # fmt: skip
    """The first jobs, in an `order` that is told, and the newest runs, in at most `room` lines.

    The runs have up to half the room. `without` are the columns that are equal in all runs. Where all have failed
    `alike`, each job and run has a row with its arguments, and without the error.
    """
    of_runs = min(len(found.runs) + AROUND, room // 2) if found.runs and room >= 4 * LEAST else 0
    jobs = _jobs(found, moment, width, room - of_runs, order, alike=alike)
    tell = _arguments if alike else _told
    return [*jobs, *_runs(found.runs, width, room - len(jobs), without, tell)]


def _jobs(found: JobsAndRuns, moment: Moment, width: int, room: int, order: str, *, alike: bool) -> list[Row]:
    rows, jobs = Rows(), found.jobs.jobs
    listed = [replace(job, last_error=None) for job in jobs] if alike else jobs
    rows.take(listed, moment, folds=not alike, more=found.jobs.next is not None)
    if not rows.rows or rows.moment is None:
        return []
    columns = layout(width, one_type=True)
    drawn = [_row(columns, row[0], rows.moment) for row in rows.rows[: room - AROUND]]
    return [*_named("Its jobs", order), _heading(columns, width), *drawn]


def _runs(
    found: Sequence[Run], width: int, room: int, without: Collection[str], tell: Callable[[Run], str]
) -> list[Row]:
    if not found or room < LEAST:
        return []
    title, shown = "Its runs", found[: room - AROUND]
    listed = table(title, shown, width, ("what", tell), roomy=width >= ROOMY_BELOW, without=without)
    return [*_named(title, "newest first"), *(merged(line.spans) for line in listed)]


def _named(name: str, order: str) -> list[Row]:
    return [(), ((f" {name}", "strong"), (f"  {order}", "muted"))]


def _heading(columns: Sequence[Column], width: int) -> Row:
    text = ""
    for column in columns:
        text += " " * (column.x - len(text)) + fit(column.title, column.width)
    return ((fit(text, width), "head"),)


def _row(columns: Sequence[Column], job: Job, moment: Moment) -> Row:
    spans, x = [], 0
    for column in columns:
        spans += [(" " * (column.x - x), "text"), *cut(cell(column.id, job, column.width, moment), column.width)]
        x = column.x + column.width
    return merged(spans)


def _arguments(run: Run) -> str:
    return payload_summary(run.payload)


def _told(run: Run) -> str:
    """The arguments, then what the run returned or its error."""
    return ": ".join(word for word in (_arguments(run), sent(run)) if word)
