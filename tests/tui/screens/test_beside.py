"""The details of the job under the cursor: right of the list or below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from jobdeck.core.model import Status
from jobdeck.core.read.operators.preferences import Preferences
from jobdeck.core.read.report_types import JobDetail
from jobdeck.tui.format import short_id
from jobdeck.tui.screens import beside, follower
from jobdeck.tui.screens.beside import Beside
from jobdeck.tui.shape import Shape
from tests.tui.fake import FakeBackend, job_id, lost, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Deck, Held, dashboard

WIDE = (150, 35)
TALL = (120, 35)
FRAME = str.maketrans("", "", "╭╮╰╯─│")


class Counting(FakeBackend):
    """Remembers of which jobs the history was read."""

    def __init__(self, number: int = 40) -> None:
        super().__init__([make_job(at + 1, Status.FAILED, last_error=f"error {at + 1}") for at in range(number)])
        self.read_jobs: list[UUID] = []

    def detail(self, wanted: UUID) -> JobDetail | None:
        self.read_jobs.append(wanted)
        return super().detail(wanted)


def beside_text(deck: Deck) -> str:
    """What the pane says, line by line, without its frame."""
    x, y, width, height = deck.app.screen.query_one("#beside").region
    lines = (line[x : x + width].translate(FRAME) for line in deck.screen_text().splitlines()[y : y + height])
    return "\n".join(line.rstrip() for line in lines if "whole page" not in line)


@pytest.mark.slow
@pytest.mark.parametrize("size", [WIDE, LARGE])
async def test_the_details_follow_the_cursor(size: tuple[int, int]) -> None:
    async with dashboard(Counting(), size=size) as deck:
        assert str(job_id(1)) in beside_text(deck)
        assert "error 1" in beside_text(deck)
        assert "It has not run yet." in beside_text(deck)
        await deck.press("j", "j")
        assert str(job_id(3)) in beside_text(deck)
        assert str(job_id(1)) not in beside_text(deck)


async def test_a_refresh_draws_the_details_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with dashboard(Counting(), size=WIDE) as deck:
        drawn: list[Beside] = []
        draw = Beside.draw

        def noted(pane: Beside) -> None:
            drawn.append(pane)
            draw(pane)

        monkeypatch.setattr(Beside, "draw", noted)
        await deck.refresh()
        assert len(drawn) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [TALL, (80, 30)])
async def test_below_150_columns_the_details_are_below_the_list(size: tuple[int, int]) -> None:
    async with dashboard(Counting(), "j", size=size) as deck:
        listed, pane = deck.app.screen.query_one("#jobs").region, deck.app.screen.query_one("#beside").region
        assert (pane.x, pane.y, pane.width) == (0, listed.bottom, size[0])
        assert "error 2" in beside_text(deck)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(60, 12), SMALL, (80, 35), TALL, WIDE, LARGE])
async def test_the_parts_are_where_the_shape_of_the_screen_has_them(size: tuple[int, int]) -> None:
    async with dashboard(Counting(), size=size) as deck:
        parts = Shape(*size).parts()
        for name, of_widget in (("tabs", "tabs"), ("list", "jobs"), ("pane", "beside"), ("keys", "keys")):
            if name in parts:
                assert tuple(deck.app.screen.query_one(f"#{of_widget}").region) == parts[name]


@pytest.mark.slow
async def test_below_30_lines_the_list_is_alone() -> None:
    backend = Counting()
    async with dashboard(backend, "j", "d", size=SMALL) as deck:
        assert not deck.app.screen.query_one("#beside").display
        assert deck.toasts[-1] == "The details of the job under the cursor need 30 lines."
        assert backend.read_jobs == []
        await deck.pilot.resize_terminal(*WIDE)
        await deck.pilot.pause()
        assert str(job_id(2)) in beside_text(deck)
        await deck.pilot.resize_terminal(150, 29)
        await deck.pilot.pause()
        assert not deck.app.screen.query_one("#beside").display


@pytest.mark.slow
async def test_a_key_hides_the_details_and_shows_them_again() -> None:
    backend = Counting()
    async with dashboard(backend, "d", "j", size=WIDE) as deck:
        assert not deck.app.screen.query_one("#beside").display
        assert backend.read_jobs == [job_id(1)]
        await deck.press("d")
        assert str(job_id(2)) in beside_text(deck)


@pytest.mark.slow
async def test_the_choice_to_hide_them_is_kept() -> None:
    mine = Preferences()
    async with dashboard(Counting(), size=WIDE, preferences=mine) as deck:
        await deck.press("d")
    async with dashboard(Counting(), size=WIDE, preferences=mine) as deck:
        assert not deck.app.screen.query_one("#beside").display
        await deck.press("d")
        assert str(job_id(1)) in beside_text(deck)
    assert mine.beside()


@pytest.mark.slow
async def test_a_choice_that_cannot_be_kept_is_said_and_holds_for_now(tmp_path: Path) -> None:
    (tmp_path / "preferences.json").write_text("[]")
    async with dashboard(Counting(), size=WIDE, preferences=Preferences(tmp_path / "preferences.json")) as deck:
        assert str(job_id(1)) in beside_text(deck)
        await deck.press("d")
        assert "it is no list of preferences" in deck.toasts[-1]
        assert not deck.app.screen.query_one("#beside").display


@pytest.mark.slow
async def test_while_the_cursor_moves_fast_only_the_first_and_the_last_history_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "REST", 0.2)
    backend = Counting()
    async with dashboard(backend, size=WIDE) as deck:
        backend.read_jobs.clear()
        waiting: list[Timed] = []

        def later(_seconds: float, call: Callable[[], object]) -> Timed:
            waiting.append(Timed(call))
            return waiting[-1]

        monkeypatch.setattr(deck.app, "later", later)
        deck.clock.now += 60
        await deck.press(*"jjjjjjjj")
        assert backend.read_jobs == [job_id(2)]
        assert "error 9" in beside_text(deck)
        (last,) = [timed for timed in waiting if not timed.cancelled]
        last.call()
        assert backend.read_jobs == [job_id(2), job_id(9)]


class Timed:
    """A call that a test makes when it wants to."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.slow
async def test_what_is_shown_of_a_job_does_not_move_when_its_history_comes() -> None:
    backend = sample()
    running = next(job for job in backend.jobs if job.id in backend.details)
    async with dashboard(backend, size=LARGE) as deck:
        failure, backend.failure = backend.failure, lost()
        deck.table.move_to([job.id for job in deck.table.jobs].index(running.id))
        await deck.pilot.pause()
        before = beside_text(deck).rstrip().splitlines()
        backend.failure = failure
        deck.clock.now += 60
        await deck.refresh()
        after = beside_text(deck).splitlines()
        assert "Runs, newest first" in "\n".join(after)
        known = [line for line in before if line.strip()]
        assert [line for line in after if line.strip()][: len(known)] == known


@pytest.mark.slow
async def test_a_job_is_read_again_when_it_changes_and_otherwise_every_ten_seconds() -> None:
    backend = Counting()
    async with dashboard(backend, size=WIDE) as deck:
        assert backend.read_jobs == [job_id(1)]
        deck.clock.now += 2
        await deck.refresh()
        assert backend.read_jobs == [job_id(1)]
        backend.jobs = [replace(job, version=2) if job.id == job_id(1) else job for job in backend.jobs]
        await deck.refresh()
        assert backend.read_jobs == [job_id(1)] * 2
        deck.clock.now += 10
        await deck.refresh()
        assert backend.read_jobs == [job_id(1)] * 3


@pytest.mark.slow
async def test_nothing_is_read_for_it_while_another_screen_is_on_top() -> None:
    backend = Counting()
    async with dashboard(backend, "R", size=WIDE) as deck:
        backend.read_jobs.clear()
        deck.clock.now += 60
        await deck.refresh()
        assert backend.read_jobs == []
        await deck.press("escape")
        assert backend.read_jobs == [job_id(1)]


@pytest.mark.slow
async def test_a_history_that_a_dialog_kept_from_being_read_is_read_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "REST", 60.0)
    backend = Counting()
    async with dashboard(backend, "j", "R", size=WIDE) as deck:
        deck.clock.now += 61
        await deck.press("escape")
        assert backend.read_jobs == [job_id(1), job_id(2)]
        assert "It has not run yet." in beside_text(deck)


@pytest.mark.slow
async def test_after_a_dialog_the_history_is_still_there_and_is_not_read_again_at_once() -> None:
    backend = Counting()
    async with dashboard(backend, "R", size=WIDE) as deck:
        backend.read_jobs.clear()
        backend.failure = lost()
        await deck.press("escape")
        assert backend.read_jobs == []
        assert "It has not run yet." in beside_text(deck)


@pytest.mark.slow
async def test_a_late_history_of_another_job_is_not_shown() -> None:
    backend = Counting()
    async with dashboard(backend, size=WIDE) as deck:
        pane = deck.app.screen.query_one(beside.Beside)
        first = deck.table.jobs[0]
        late = backend.detail(first.id)
        await deck.press("j")
        pane._answered(first, late)
        await deck.pilot.pause()
        assert str(job_id(1)) not in beside_text(deck)


@pytest.mark.slow
async def test_no_job_is_beside_a_list_that_is_still_being_read() -> None:
    backend, held = Counting(), Held()
    async with dashboard(backend, size=WIDE, background=held) as deck:
        assert "error 1" in beside_text(deck)
        held.holding = True
        await deck.press("5")
        assert beside_text(deck).strip() == ""
        held.holding = False
        held.let_all_go()
        await deck.pilot.pause()
        assert "error 1" in beside_text(deck)


async def test_an_empty_list_has_nothing_beside_it() -> None:
    async with dashboard(FakeBackend(), size=WIDE) as deck:
        assert beside_text(deck).strip() == ""


async def test_personal_data_is_masked_beside_the_list() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, last_error="no mailbox kim@example.org\x1b[31m")])
    async with dashboard(backend, size=LARGE) as deck:
        assert "no mailbox" in beside_text(deck)
        assert "kim@" not in deck.screen_text()
        assert short_id(job_id(1)) in deck.screen_text()
