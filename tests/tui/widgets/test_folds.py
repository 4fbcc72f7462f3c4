"""Jobs of the first list that read alike and stand next to each other are one row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobdeck.core.model import Job, Status
from jobdeck.core.read.report_types import Standing
from jobdeck.tui.format import plural
from jobdeck.tui.widgets.jobs.cells import Moment, cell
from jobdeck.tui.widgets.jobs.folds import Rows
from tests.support.examples import examples
from tests.tui.fake import NOW, FakeBackend, make_job
from tests.tui.support import Deck, dashboard

PENDING = [make_job(number, payload={"coach": f"c{number % 2}"}) for number in (1, 2, 3, 4)]


def rows(jobs: list[Job], *, more: bool = False, **standings: Standing) -> Rows:
    found = Rows()
    known = {job.id: standings.get("all", Standing(job.status.value)) for job in jobs}
    found.take(jobs, Moment(NOW, standings=known), folds=True, more=more)
    return found


def failing(number: int, error: str) -> Job:
    return make_job(number, Status.FAILED, last_error=error)


def sizes(found: Rows) -> list[int]:
    return [len(row) for row in found.rows]


def said(found: Rows, name: str, width: int = 60, at: int = 0) -> str:
    assert found.moment is not None
    return "".join(text for text, _ in cell(name, found.rows[at][0], width, found.moment)).strip()


def test_neighbours_of_one_type_standing_and_reason_are_one_row_with_their_number_and_no_id() -> None:
    found = rows(PENDING)
    assert sizes(found) == [4]
    assert (said(found, "task"), said(found, "what"), said(found, "id")) == (
        "game_platform_sync ×4", "2 values of coach", "",
    )  # fmt: skip


def test_of_more_jobs_than_were_read_the_number_is_a_least_one() -> None:
    assert said(rows(PENDING, more=True), "task") == "game_platform_sync ×4+"


def test_errors_that_differ_only_in_numbers_and_ids_are_the_same_reason() -> None:
    found = rows([failing(at, f"answered 503 after {at} of 16, trace 4f{at}a") for at in (1, 2, 3)])
    assert sizes(found) == [3]
    assert sizes(rows([failing(1, "refused"), failing(2, "refused"), failing(3, "timed out")])) == [1, 1, 1]


def test_two_jobs_running_jobs_series_and_dry_runs_have_a_row_each() -> None:
    assert sizes(rows(PENDING[:2])) == [1, 1]
    assert sizes(rows([make_job(at, Status.RUNNING) for at in (1, 2, 3)])) == [1, 1, 1]
    assert sizes(rows([replace(job, is_recurring=True) for job in PENDING])) == [1, 1, 1, 1]
    assert sizes(rows([replace(job, payload={"dryRun": True}) for job in PENDING])) == [1, 1, 1, 1]


def test_the_cursor_stays_on_the_row_when_its_first_job_begins_to_run() -> None:
    found = rows(PENDING)
    held, common = found.rows[0], found.alike(found.rows[0][0])
    begun = [replace(PENDING[0], status=Status.RUNNING), *PENDING[1:]]
    standings = {job.id: Standing(job.status.value) for job in begun}
    found.take(begun, Moment(NOW, standings=standings), folds=True, more=False)
    assert sizes(found) == [1, 3]
    assert found.place_of(held, common) == 1


def test_a_sought_job_gets_a_row_of_its_own() -> None:
    found = rows(PENDING)
    assert found.seek(PENDING[0].id) == 0
    assert sizes(found) == [4]
    assert found.seek(PENDING[2].id) == 2
    assert sizes(found) == [1, 1, 1, 1]


@pytest.mark.slow
async def test_enter_unfolds_a_row_and_escape_folds_it_again() -> None:
    async with dashboard(FakeBackend([make_job(at) for at in (1, 2, 3, 4)]), folding=True) as deck:
        assert "×4" in deck.screen_text()
        await deck.press("enter")
        assert (deck.here, "×4" in deck.screen_text(), len(deck.table.rows)) == ("Dashboard", False, 4)
        await deck.press("j", "enter")
        assert deck.here == "JobDetailScreen"
        await deck.press("escape", "escape")
        assert "×4" in deck.screen_text()


@pytest.mark.parametrize("status", [Status.PENDING, Status.FAILED])
@pytest.mark.parametrize("width", [80, 120, 200])
async def test_the_key_line_says_unfold_on_a_row_of_several_with_all_gaps_equal(width: int, status: Status) -> None:
    backend = FakeBackend([*(make_job(at, status) for at in (1, 2, 3, 4)), make_job(9, task_type="other")])
    async with dashboard(backend, folding=True, size=(width, 24)) as deck:
        folded = deck.line("keys").strip()
        await deck.press("j")
        alone = deck.line("keys").strip()
    assert "⏎ unfold" in folded
    assert "detail" not in folded
    assert "   " not in folded
    assert "⏎ detail" in alone
    assert "unfold" not in alone


@pytest.mark.slow
async def test_actions_on_a_row_of_several_ask_about_all_of_them() -> None:
    backend = FakeBackend([make_job(at) for at in (1, 2, 3, 4)])
    async with dashboard(backend, "D", folding=True) as deck:
        assert "4 jobs" in deck.screen_text()
        await deck.press("y")
        assert backend.jobs == []


@pytest.mark.slow
async def test_what_takes_one_job_is_refused_on_a_row_of_several() -> None:
    async with dashboard(FakeBackend([make_job(at) for at in (1, 2, 3, 4)]), "E", folding=True) as deck:
        assert deck.toasts[-1] == "4 jobs in this row. enter unfolds it."


@pytest.mark.slow
async def test_a_filtered_list_has_a_row_for_each_job() -> None:
    async with dashboard(FakeBackend([make_job(at) for at in (1, 2, 3, 4)]), "2", folding=True) as deck:
        assert len(deck.table.rows) == 4


FOLDED_STEPS: st.SearchStrategy[tuple[str, int]] = st.one_of(
    st.tuples(st.sampled_from(("j", "k", "g", "G", "enter", "escape", "space", "a")), st.just(0)),
    st.tuples(st.sampled_from(("insert", "remove", "run")), st.integers(0, 99)),
    st.tuples(st.just("D"), st.integers(0, 1)),
)


@pytest.mark.slow
@given(st.integers(0, 40), st.lists(FOLDED_STEPS, min_size=8, max_size=20))
@settings(max_examples=examples(40), deadline=None)
async def test_an_action_takes_the_jobs_of_the_rows_that_were_chosen_on_any_walk(
    number: int, steps: list[tuple[str, int]]
) -> None:
    backend = FakeBackend([make_job(at, task_type=f"type_{at // 7}") for at in range(1, number + 1)])
    made = number
    async with dashboard(backend, folding=True, interval=3600.0) as deck:
        for step, at in steps:
            if step == "insert":
                made += 1
                backend.jobs.append(make_job(made, task_type=f"type_{at % 3}"))
            elif step in {"remove", "run"} and backend.jobs:
                place = at % len(backend.jobs)
                job = backend.jobs.pop(place)
                if step == "run":
                    backend.jobs.insert(place, replace(job, status=Status.RUNNING, version=job.version + 1))
            elif step == "D":
                await delete_chosen(deck, backend, confirmed=bool(at))
            elif step not in {"insert", "remove", "run"}:
                await deck.press(step)
                if deck.here != "Dashboard":
                    await deck.press("escape")
            await deck.refresh()
            listed = [job.id for row in deck.table.rows for job in row]
            assert sorted(listed) == sorted(job.id for job in backend.jobs)
            assert deck.table.marks <= set(listed)


async def delete_chosen(deck: Deck, backend: FakeBackend, *, confirmed: bool) -> None:
    chosen = {job.id for job in deck.table.selected if job.status is not Status.RUNNING}
    before = {job.id for job in backend.jobs}
    await deck.press("D")
    if not chosen:
        assert deck.here == "Dashboard"
        return
    assert plural(len(chosen), "job") in deck.screen_text()
    if not confirmed:
        await deck.press("escape")
        return
    await deck.press(*(("d", "e", "l", "e", "t", "e", "enter") if len(chosen) > 25 else ("y",)))
    assert before - {job.id for job in backend.jobs} == chosen
