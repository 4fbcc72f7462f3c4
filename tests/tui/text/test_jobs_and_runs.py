"""The jobs and the runs below a list: how they share the room, and what tells them apart."""

from __future__ import annotations

import pytest

from jobdeck.core.model import Job, Status
from jobdeck.core.read.pages.jobs_and_runs import JobsAndRuns
from jobdeck.core.read.report_types import Page
from jobdeck.tui.text.runs import jobs_and_runs
from jobdeck.tui.widgets.jobs.cells import Moment
from tests.tui.fake import NOW, make_job
from tests.tui.screens.test_below import run


def found(jobs: int, runs: int) -> JobsAndRuns:
    listed = tuple(failed(number) for number in range(jobs))
    return JobsAndRuns(NOW, Page(listed, None), tuple(run(number, payload={"team": number}) for number in range(runs)))


def failed(number: int) -> Job:
    return make_job(number, Status.FAILED, task_type="sync", payload={"team": number}, last_error=f"boom {number}")


def said(what: JobsAndRuns, room: int, *, width: int = 120, alike: bool = False) -> list[str]:
    rows = jobs_and_runs(what, Moment(NOW), width, room, "newest first", ("task",), alike=alike)
    return ["".join(text for text, _ in row).rstrip() for row in rows]


@pytest.mark.parametrize(
    ("jobs", "runs", "room", "shown"),
    [(40, 40, 30, (12, 12)), (40, 2, 30, (22, 2)), (2, 40, 30, (2, 22)), (40, 40, 12, (9, 0)), (3, 40, 12, (3, 3)),
     (0, 40, 12, (0, 9)), (0, 0, 12, (0, 0))],
)  # fmt: skip
def test_what_one_part_does_not_need_the_other_one_has(jobs: int, runs: int, room: int, shown: tuple[int, int]) -> None:
    listed = said(found(jobs, runs), room, alike=True)
    assert len(listed) <= room
    assert (
        sum(" ✗ " in f" {line}" for line in listed),
        sum("retr" in line or "web-1" in line for line in listed),
    ) == shown


def test_jobs_that_read_alike_are_one_row_unless_that_is_what_they_are_listed_for() -> None:
    folded = said(found(3, 0), 12)
    assert [line.split()[:2] for line in folded[3:]] == [["✗", "boom"]]
    assert "×3" in folded[3]
    apart = said(found(3, 0), 12, alike=True)
    assert [line.split()[:2] for line in apart[3:]] == [["✗", f"team={number}"] for number in range(3)]


def test_of_runs_that_failed_alike_the_arguments_are_said_alone() -> None:
    assert said(found(0, 1), 12)[3].endswith("team=0: boom")
    assert said(found(0, 1), 12, alike=True)[3].endswith("team=0")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_longer_than_the_list(width: int) -> None:
    assert max(map(len, said(found(9, 9), 40, width=width))) <= width
