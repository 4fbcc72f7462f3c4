"""The text of the page of runs, as lines. Pure; every foreign text is cleaned and masked here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobdeck.core.words.runs import HIDDEN, NOTHING_LOST, RUNS, same_words, sent, sentences
from jobdeck.tui.format import DASH, fit, one_line, wrapped
from jobdeck.tui.text.lines import cells, heading, width_of
from jobdeck.tui.widgets.pane import BLANK, Entry, entry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import Run
    from jobdeck.core.read.runs.ran_twice import RunReport

ROOMY = 130


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
    listed = [_line(title, run, width, roomy=roomy) for run in runs]
    head = entry((f"{heading(RUNS, roomy=roomy)} sent", "head"))
    return [BLANK, entry((f" {title}", "run")), head, *listed] if listed else []


def _line(part: str, run: Run, width: int, *, roomy: bool) -> Entry:
    left = max(width - width_of(RUNS, roomy=roomy) - 1, 0)
    shown = fit(one_line(sent(run) or DASH), left).rstrip() if left > 1 else ""
    key = ("job run", run.job_id, run.run_token, part, run.outcome)
    return entry(*cells(RUNS, run, roomy=roomy), (f" {shown}", "text"), key=key)
