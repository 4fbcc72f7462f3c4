"""What follows a short list: the jobs and the runs of the line under the cursor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from jobdeck.core.model import Run, RunOutcome, Status
from jobdeck.tui.format import short_id
from jobdeck.tui.screens import follower
from jobdeck.tui.widgets.pane import Pane
from tests.tui.fake import NOW, FakeBackend, job_id, lost, make_job, minutes
from tests.tui.figures_sample import BROKEN, CALM, incident
from tests.tui.hostile import harmful
from tests.tui.screens.test_beside import Timed
from tests.tui.screens.test_errors import broken
from tests.tui.support import LARGE, SMALL, Deck, Held, dashboard

JOBS, RUNS = "Its jobs", "Its runs"
OSC = "\x1b]52;c;UFdORUQ=\x07"


def run(number: int, task_type: str = CALM, **facts: Any) -> Run:
    began = NOW - minutes(number)
    known: dict[str, Any] = {"error": "boom", "error_kind": "vendor", "worker": "web-1:4242", "payload": {}} | facts
    worker = known.pop("worker")
    return Run(
        100 - number, UUID(int=number), task_type, known.pop("payload"), 1, worker, began, began, began,
        RunOutcome.FAILED, **known,
    )  # fmt: skip


@pytest.fixture
def types() -> FakeBackend:
    """Four types; one of them has a failed job and a run, another one a run."""
    backend = incident()
    backend.jobs = [make_job(1, Status.FAILED, task_type=CALM, last_error="no seats", payload={"coachId": "c3"})]
    backend.evidence.newest = (run(1, payload={"team": "owls"}), run(2, BROKEN, error="no credit"))
    return backend


def of_jobs_and_runs(backend: FakeBackend) -> list[str]:
    """The subjects that were read."""
    what = "jobs and runs of "
    return [one.removeprefix(what) for one in backend.evidence.reads if one.startswith(what)]


def below(deck: Deck) -> str:
    """What the list says from the jobs, or the runs, on; empty where it says neither."""
    lines = deck.text_in("#pane").rstrip().splitlines()
    first = next((at for at, line in enumerate(lines) if JOBS in line or RUNS in line), len(lines))
    return "\n".join(lines[first:])


async def test_a_short_list_of_types_is_followed_by_the_jobs_and_runs_of_the_one_under_the_cursor(
    types: FakeBackend,
) -> None:
    async with dashboard(types, "i", "j", size=LARGE) as deck:
        said = below(deck).splitlines()
        assert said[0].strip() == f"{JOBS}  what needs somebody first, ⏎ lists all"
        assert said[1].split()[:2] == ["what", "status"]
        assert said[2].split() == ["✗", "coachId=c3:", "no", "seats", "failed", "-", "never", short_id(job_id(1))]
        assert said[4].split()[:2] == RUNS.split()
        assert said[6].endswith(" team=owls: boom")
        assert CALM not in "\n".join(said)


async def test_without_ten_free_lines_nothing_follows_the_list_and_nothing_is_read(types: FakeBackend) -> None:
    async with dashboard(types, "i", "j", size=SMALL) as deck:
        assert below(deck) == ""
        assert of_jobs_and_runs(types) == []
        await deck.pilot.resize_terminal(*LARGE)
        await deck.pilot.pause()
        assert "no seats" in below(deck)
        await deck.pilot.resize_terminal(*SMALL)
        await deck.pilot.pause()
        assert below(deck) == ""


async def test_the_cursor_on_another_type_shows_its_jobs_and_runs(types: FakeBackend) -> None:
    async with dashboard(types, "i", "j", size=LARGE) as deck:
        await deck.press("G")
        assert "no credit" in below(deck)
        assert "no seats" not in below(deck)
        assert JOBS not in below(deck)
        await deck.press("k")
        assert below(deck) == ""
        assert of_jobs_and_runs(types)[-2:] == [BROKEN, "game_platform_totals_sweep"]


async def test_they_are_read_with_the_data_of_the_page_and_not_in_between(types: FakeBackend) -> None:
    async with dashboard(types, "i", "j", size=LARGE) as deck:
        types.evidence.reads.clear()
        await deck.press("?", "escape", "tab", "tab")
        deck.app.redraw()
        assert of_jobs_and_runs(types) == []
        types.jobs[0] = replace(types.jobs[0], last_error="no seats at all")
        deck.clock.now += 6
        await deck.refresh()
        assert of_jobs_and_runs(types) == [CALM]
        assert "no seats at all" in below(deck)


async def test_while_the_cursor_moves_fast_only_the_first_and_the_last_line_are_read(
    types: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "REST", 0.2)
    async with dashboard(types, "i", size=LARGE) as deck:
        types.evidence.reads.clear()
        waiting: list[Timed] = []

        def later(_seconds: float, call: Callable[[], object]) -> Timed:
            waiting.append(Timed(call))
            return waiting[-1]

        monkeypatch.setattr(deck.app, "later", later)
        await deck.press(*"jjj")
        assert of_jobs_and_runs(types) == []
        deck.clock.now += 60
        (last,) = [timed for timed in waiting if not timed.cancelled]
        last.call()
        assert of_jobs_and_runs(types) == [BROKEN]


async def test_a_late_answer_about_another_line_is_not_shown(types: FakeBackend) -> None:
    held = Held()
    async with dashboard(types, "i", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("j", "k")
        held.let_one_go()
        await deck.pilot.pause()
        assert "no seats" not in below(deck)


async def test_one_line_is_read_at_a_time_and_after_it_the_one_under_the_cursor_by_then(types: FakeBackend) -> None:
    held = Held()
    async with dashboard(types, "i", size=LARGE, background=held) as deck:
        types.evidence.reads.clear()
        held.holding = True
        await deck.press("j", "j", "j")
        assert len(held.kept) == 1
        held.holding = False
        held.let_all_go()
        await deck.pilot.pause()
        assert of_jobs_and_runs(types) == [CALM, BROKEN]
        assert "no credit" in below(deck)


async def test_an_answer_under_a_dialog_is_shown_after_it(types: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    held = Held()
    async with dashboard(types, "i", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("j", "E")
        pane = deck.app.screen_stack[-2].query_one("#pane", Pane)
        monkeypatch.setattr(pane, "say_below", drawn.append)
        held.let_all_go()
        assert drawn == []
        monkeypatch.delattr(pane, "say_below")
        held.holding = False
        await deck.press("escape")
        assert "no seats" in below(deck)


async def drawn_by(types: FakeBackend, key: str, change: Callable[[Deck], Awaitable[object]]) -> Counter[str]:
    """How often a change of a page draws each of its parts."""
    async with dashboard(types, key, size=LARGE) as deck:
        page, drawn = deck.app.screen, Counter[str]()
        for name in ("draw_keys", "draw_below", "redraw"):
            setattr(page, name, partial(drawn.update, [name]))
        await change(deck)
        await deck.pilot.pause()
        return drawn


async def test_a_page_with_details_is_drawn_no_more_often_than_one_without(types: FakeBackend) -> None:
    for change in (lambda deck: deck.press("j"), lambda deck: deck.pilot.resize_terminal(180, 50)):
        without = await drawn_by(types, "m", change)
        assert without
        assert await drawn_by(types, "i", change) == without


async def test_what_cannot_be_read_leaves_the_room_free_and_comes_with_the_next_answer(types: FakeBackend) -> None:
    held = Held()
    async with dashboard(types, "i", size=LARGE, background=held) as deck:
        held.holding = True
        await deck.press("j")
        types.failure = lost()
        held.let_these_go()
        held.holding, types.failure = False, None
        await deck.pilot.pause()
        assert below(deck) == ""
        deck.clock.now += 6
        await deck.refresh()
        assert "no seats" in below(deck)


@pytest.mark.parametrize("key", ["i", "e", "m"])
async def test_hostile_texts_are_cleaned_and_personal_ones_masked(key: str) -> None:
    backend = broken(1)
    backend.workers, backend.figures.found = incident().workers, incident().figures.found
    private = f"{OSC}no mailbox jane@example.org"
    backend.jobs = [replace(backend.jobs[0], last_error=private, payload={"to": f"{OSC}jane@example.org"})]
    backend.evidence.newest = (run(1, error=private, payload={"to": f"{OSC}jane@example.org"}),)
    async with dashboard(backend, key, *(["j"] if key == "i" else []), size=LARGE) as deck:
        assert RUNS in below(deck)
        assert "52;c" in below(deck)
        assert harmful(deck.screen_text()) <= {"\n"}
        assert "jane@" not in deck.screen_text()


async def test_a_short_list_of_errors_is_followed_by_the_jobs_and_runs_of_the_group() -> None:
    backend = broken(2, trends=2)
    backend.jobs = [replace(job, payload={"team": f"t{at}"}) for at, job in enumerate(backend.jobs)]
    backend.evidence.newest = (run(1, payload={"team": "owls"}), run(2, "other_type"))
    async with dashboard(backend, "e", size=LARGE) as deck:
        said = below(deck)
        assert said.startswith(f" {JOBS}  newest first, as ⏎ lists them")
        assert "team=t0" in said
        assert "team=t1" in said
        # The error is in the line of the group, and the same in all its jobs and runs.
        assert "boom" not in said
        runs = said[said.index(RUNS) :].splitlines()
        assert [line for line in runs if "team=owls" in line]
        assert len(runs) == 3
        await deck.press("j")
        assert JOBS not in below(deck)
        assert RUNS in below(deck)


async def test_the_details_of_a_group_are_at_the_right_of_a_wide_terminal() -> None:
    async with dashboard(broken(2), "e", size=(150, 35)) as deck:
        assert deck.app.screen.query_one("#about").region.x == 90
        await deck.pilot.resize_terminal(149, 35)
        await deck.pilot.pause()
        assert deck.app.screen.query_one("#about").region.x == 0


async def test_many_groups_of_errors_leave_no_room_and_nothing_is_read() -> None:
    backend = broken(1, trends=40)
    async with dashboard(backend, "e", "j", size=LARGE) as deck:
        assert below(deck) == ""
        assert of_jobs_and_runs(backend) == []


async def test_a_worker_is_followed_by_its_runs_and_its_jobs_are_said_once() -> None:
    backend = incident()
    one, other = backend.workers
    backend.jobs = [make_job(1, Status.RUNNING, task_type=CALM, locked_by=one.id)]
    backend.evidence.newest = (run(1, error="no seats", worker=one.id), run(2, error="no credit", worker=other.id))
    async with dashboard(backend, "m", size=LARGE) as deck:
        assert "no seats" in below(deck)
        assert "no credit" not in below(deck)
        assert deck.screen_text().count(short_id(job_id(1))) == 1
        assert one.id not in below(deck)
        await deck.press("G")
        assert "no credit" in below(deck)
        assert of_jobs_and_runs(backend)[-1] == other.id


async def test_a_series_is_followed_by_its_runs_without_its_name_and_its_id() -> None:
    backend = FakeBackend(
        [make_job(at, task_type=CALM, is_recurring=True, recurrence_interval_minutes=5) for at in (1, 2)]
    )
    one, other = sorted(job.id for job in backend.jobs)
    mine, others = run(1, output={"teams": 7}), run(2, error="no credit")
    backend.evidence.newest = (replace(mine, job_id=one), replace(others, job_id=other))
    async with dashboard(backend, "c", size=LARGE) as deck:
        said = below(deck)
        assert said.startswith(f" {RUNS}  newest first")
        assert '{"teams": 7}' in said
        assert "no credit" not in said
        assert CALM not in said
        assert short_id(one) not in said
        await deck.press("j")
        assert "no credit" in below(deck)
        assert of_jobs_and_runs(backend)[-1] == short_id(other)


async def test_without_a_series_nothing_follows_and_nothing_is_read() -> None:
    backend = FakeBackend([])
    async with dashboard(backend, "c", size=LARGE) as deck:
        assert below(deck) == ""
        assert of_jobs_and_runs(backend) == []
