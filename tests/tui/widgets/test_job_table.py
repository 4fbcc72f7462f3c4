"""The job table keeps cursor and marks on their jobs, whatever a refresh brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import ComposeResult

from jobdeck.core.model import Job, Status
from jobdeck.tui.widgets.ink import InkedApp
from jobdeck.tui.widgets.jobs import job_table
from jobdeck.tui.widgets.jobs.cells import Cell, Moment, cell
from jobdeck.tui.widgets.jobs.job_table import JobTable
from tests.support.examples import examples
from tests.tui.fake import NOW, FakeBackend, make_job
from tests.tui.support import dashboard

LINES = 21
MOMENT = Moment(NOW)


class TableApp(InkedApp):
    def __init__(self) -> None:
        super().__init__()
        self.repainted: list[tuple[int, int, int, int]] = []

    def compose(self) -> ComposeResult:
        yield JobTable(id="jobs")

    @property
    def table(self) -> JobTable:
        return self.query_one(JobTable)


def jobs(*numbers: int) -> list[Job]:
    return [make_job(number) for number in numbers]


def screen_line(table: JobTable) -> int:
    return table.cursor - table.top


async def test_the_cursor_stays_on_its_job_and_screen_line_when_rows_above_come_and_go() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(*range(100)), MOMENT)
        table.move_to(50)
        held, line = table.current, screen_line(table)
        table.show(jobs(*range(200, 230), *range(10, 100)), MOMENT)
        assert table.current == held
        assert screen_line(table) == line


@st.composite
def listings(draw: st.DrawFn) -> list[list[int]]:
    numbers = st.lists(st.integers(1, 80), unique=True, max_size=60)
    return draw(st.lists(numbers, min_size=2, max_size=6))


@given(listings(), st.integers(0, 59), st.sets(st.integers(1, 80), max_size=10))
@settings(max_examples=examples(15), deadline=None)
async def test_through_any_sequence_of_listings_cursor_and_marks_follow_their_jobs(
    pages: list[list[int]], start: int, marked: set[int]
) -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(*pages[0]), MOMENT)
        table.move_to(start)
        table.marks = {make_job(number).id for number in marked} & {job.id for job in table.jobs}
        for page in pages[1:]:
            held, line, marks = table.current, screen_line(table), set(table.marks)
            at_head = table.top == 0
            gone = table.show(jobs(*page), MOMENT)
            listed = {job.id for job in table.jobs}
            assert table.marks == marks & listed
            assert gone.marks == len(marks - listed)
            assert 0 <= table.top <= max(len(page) - LINES, 0)
            if held is None or held.id not in listed:
                assert (gone.cursor is None) == (held is None)
                continue
            assert table.current == held
            if at_head:
                assert table.top == max(0, table.cursor - LINES + 1)
                continue
            room = 0 <= table.cursor - line <= max(len(page) - LINES, 0)
            assert not room or screen_line(table) == line


async def test_a_job_that_comes_to_the_head_of_a_list_is_seen() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(*range(10, 100)), MOMENT)
        table.move_to(0)
        table.show(jobs(1, *range(10, 100)), MOMENT)
        assert (table.current, table.top) == (make_job(10), 0)


@pytest.mark.parametrize("by", ["nobody", "a key", "what has opened"])
async def test_a_cursor_that_nobody_has_moved_stays_at_the_head_and_does_not_follow_its_job(by: str) -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(*range(30, 100)), MOMENT)
        if by == "a key":
            table.move_to(0)
        elif by == "what has opened":
            table.keep_job()
        table.show(jobs(29, *range(30, 100)), MOMENT)
        assert (table.current, table.top) == (make_job(29 if by == "nobody" else 30), 0)
        table.show(jobs(*range(30 - LINES, 100)), MOMENT)
        assert (table.current, table.top) == ((make_job(30 - LINES), 0) if by == "nobody" else (make_job(30), 1))


async def test_a_job_that_is_gone_takes_its_mark_with_it_and_is_said_to_be_gone() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(1, 2, 3, 4), MOMENT)
        table.move_to(1)
        table.toggle_mark()
        gone = table.show(jobs(1, 3, 4), MOMENT)
        assert gone.marks == 1
        assert gone.cursor is None
        assert table.current == make_job(3)
        assert [job.id for job in table.selected] == [make_job(3).id]


async def test_when_the_job_under_the_cursor_goes_the_cursor_keeps_its_place_and_says_so() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(1, 2, 3), MOMENT)
        table.move_to(2)
        gone = table.show(jobs(1, 2), MOMENT)
        assert gone.cursor == make_job(3).id
        assert table.cursor == 1


async def test_a_range_marks_everything_between_its_start_and_the_cursor() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(1, 2, 3, 4, 5), MOMENT)
        table.move_to(3)
        table.toggle_range()
        table.move_to(1)
        assert len(table.selected) == 3
        assert not table.marks
        table.toggle_range()
        assert table.marks == {make_job(number).id for number in (2, 3, 4)}


async def test_marking_all_twice_leaves_nothing_marked() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(1, 2, 3), MOMENT)
        table.toggle_all()
        assert len(table.marks) == 3
        table.toggle_all()
        assert not table.marks


async def test_the_list_scrolls_no_further_than_the_cursor_needs() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(*range(100)), MOMENT)
        tops = []
        for to in (LINES - 1, LINES, 50, 40, 29, 0):
            table.move_to(to)
            tops.append(table.top)
        assert tops == [0, 1, 50 - LINES + 1, 30, 29, 0]


async def test_movement_stops_at_both_ends() -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)):
        table = app.table
        table.show(jobs(1, 2, 3), MOMENT)
        table.move(-1)
        assert table.cursor == 0
        table.move(10)
        assert table.cursor == 2


def repaints(table: JobTable, page: Sequence[Job], moment: Moment, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    asked: list[object] = []
    monkeypatch.setattr(table, "refresh", lambda *regions, **_: asked.extend(regions or ["everything"]))
    table.show(page, moment)
    return asked


async def test_a_refresh_that_brings_nothing_new_repaints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)) as pilot:
        app.table.show(jobs(*range(40)), MOMENT)
        await pilot.pause()
        later = Moment(NOW + timedelta(seconds=2))
        assert repaints(app.table, jobs(*range(40)), later, monkeypatch) == []


async def test_a_refresh_makes_each_cell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with dashboard(FakeBackend(jobs(1, 2, 3))) as deck:
        made: list[Job] = []

        def noted(column: str, job: Job, width: int, moment: Moment) -> Cell:
            made.append(job)
            return cell(column, job, width, moment)

        monkeypatch.setattr(job_table, "cell", noted)
        await deck.refresh()
        assert len(made) == 3 * len(deck.table._columns)


async def test_one_changed_job_repaints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)) as pilot:
        page = jobs(*range(40))
        app.table.show(page, MOMENT)
        await pilot.pause()
        page[5] = replace(page[5], status=Status.RUNNING, attempts=1)
        regions = repaints(app.table, page, MOMENT, monkeypatch)
        assert len(regions) == 1
        assert (regions[0].y, regions[0].height) == (6, 1)  # type: ignore[attr-defined]


async def test_an_age_that_changes_repaints_its_column_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    app = TableApp()
    async with app.run_test(size=(80, LINES + 1)) as pilot:
        page = jobs(1, 2)
        app.table.show(page, MOMENT)
        await pilot.pause()
        regions = repaints(app.table, page, Moment(NOW + timedelta(minutes=1)), monkeypatch)
        assert [(region.y, region.width) for region in regions] == [(1, 10), (2, 10)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [0, 1, 5000])
async def test_any_number_of_jobs_can_be_walked_through(number: int) -> None:
    backend = FakeBackend([make_job(at + 1) for at in range(number)])
    async with dashboard(backend, "G", "G", "k", "g", "j") as deck:
        assert len(deck.table.jobs) == number
        assert deck.table.cursor == min(1, max(number - 1, 0))
        expected = {0: "0 jobs", 1: "1/1", 5000: "2/5000"}[number]
        assert deck.line("peek").endswith(expected)
