"""The dashboard says of a dry run that it was one: in the job table, on a job's page and on the page of series."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobdeck.core.model import Job, RunOutcome, Status
from jobdeck.core.read.pages.series import SeriesLine
from jobdeck.core.read.report_types import JobDetail
from jobdeck.tui.text import job_detail
from jobdeck.tui.text.figures import series
from jobdeck.tui.widgets.jobs.cells import Moment, cell
from jobdeck.tui.widgets.jobs.columns import layout
from jobdeck.tui.widgets.pane import Entry
from tests.tui.fake import NOW, make_job, minutes
from tests.tui.sample import sample

DRY = make_job(
    1, is_recurring=True, recurrence_interval_minutes=15, last_run_at=NOW - minutes(6), last_run_dry=True,
    last_outcome=RunOutcome.SUCCEEDED, next_run_at=NOW + minutes(9),
)  # fmt: skip
LEFT = replace(DRY, is_recurring=False, status=Status.SUCCEEDED, removed=True)


def text(entry: Entry) -> str:
    return "".join(words for words, _ in entry.spans)


def cells(job: Job, width: int, status: Status | None = None) -> dict[str, str]:
    moment = Moment(NOW)
    return {
        column.id: "".join(part for part, _ in cell(column.id, job, column.width, moment)).strip()
        for column in layout(width, status)
    }


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("status", [None, *Status])
def test_every_list_marks_a_job_whose_last_run_was_dry(width: int, status: Status | None) -> None:
    assert any("DRY RUN" in shown for shown in cells(DRY, width, status).values())
    assert not any("DRY" in shown for shown in cells(replace(DRY, last_run_dry=False), width, status).values())


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_its_status_and_its_last_run_are_not_shown_as_a_success(width: int) -> None:
    shown = cells(LEFT, width)
    assert (shown["sign"], shown["status"]) == ("✓", "dry run")
    inks = {column.id: [ink for _, ink in cell(column.id, LEFT, column.width, Moment(NOW))] for column in layout(width)}
    assert "good" not in [*inks["status"], *inks.get("last", [])]


def test_an_unsuccessful_dry_run_keeps_its_outcome() -> None:
    assert cells(replace(DRY, last_outcome=RunOutcome.FAILED), 200)["last"] == "✗ 6m"


def test_the_page_of_a_job_says_it_in_its_title_its_facts_and_its_runs() -> None:
    (run, *_) = next(iter(sample().details.values())).runs
    runs = (replace(run, outcome=RunOutcome.SUCCEEDED, dry_run=True), replace(run, outcome=RunOutcome.FAILED))
    page = job_detail.Page(DRY, JobDetail(DRY, runs, (), ()), NOW)
    assert "DRY RUN" in "".join(part for part, _ in job_detail.title(DRY, NOW)[0])
    for detail in (page.detail, None):
        found = job_detail.left(replace(page, detail=detail)).plain
        assert "6m ago  succeeded, dry run\n" in found
    found = job_detail.right(page).plain
    assert "✓ succeeded, dry run  " in found
    assert "✗ failed              " in found


def test_the_page_of_a_job_has_its_trace_if_it_has_one() -> None:
    for trace_id in (None, "0a" * 16):
        found = job_detail.left(job_detail.Page(replace(DRY, trace_id=trace_id), None, NOW)).plain
        assert ("trace" in found, "0a" * 16 in found) == (trace_id is not None,) * 2


def test_the_page_of_series_says_it_in_the_line_and_below() -> None:
    one = SeriesLine(DRY, 3, streak_is_least=False, late=None)
    for width in (80, 120):
        line = text(series.line(one, NOW, width, paused=False))
        assert "DRY RUN" in line
        real = text(series.line(replace(one, job=replace(DRY, last_run_dry=False)), NOW, width, paused=False))
        assert ("DRY" in real, len(line)) == (False, len(real))
    assert any("succeeded, dry run" in text(line) for line in series.about(one, None, NOW, 80))
