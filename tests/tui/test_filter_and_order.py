"""Which jobs are listed, and in what order."""

from __future__ import annotations

from core.model import (
    Status,
)
from tests.tui.fake import FakeBackend, make_job
from tests.tui.sample import sample
from tests.tui.support import dashboard


async def test_a_filter_of_words_reaches_the_queue_and_esc_clears_it() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("slash", *"type:totals dry", "enter")
        asked = deck.backend.requests[-1].filter
        assert (asked.task_type, asked.search) == ("game_platform_totals_sweep", "dry")
        assert "type:totals dry" in deck.line("filter-line")
        await deck.press("escape")
        assert deck.backend.requests[-1].filter.task_type is None
        assert not deck.app.dashboard.query_one("#filter").display


async def test_a_filter_word_that_cannot_be_read_is_said_and_changes_nothing() -> None:
    async with dashboard(sample()) as deck:
        before = len(deck.backend.requests)
        await deck.press("slash", *"status:nope", "enter")
        assert "status: wants one of pending, running" in deck.toasts[-1]
        assert len(deck.backend.requests) == before


async def test_the_status_word_chooses_the_tab_and_no_word_keeps_it() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("slash", *"status:failed", "enter")
        assert deck.backend.requests[-1].filter.status is Status.FAILED
        await deck.press("slash", *("backspace",) * 20, *"error:429", "enter")
        asked = deck.backend.requests[-1].filter
        assert (asked.status, asked.error) == (Status.FAILED, "429")


async def test_a_filter_without_a_match_says_so() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("slash", *"zebra", "enter")
        assert "No job matches zebra" in deck.screen_text()


async def test_sorting_keeps_the_cursor_on_its_job() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("j", "j")
        held = deck.table.current
        await deck.press("s", "S")
        assert deck.backend.requests[-1].sort == "created"
        assert not deck.backend.requests[-1].descending
        assert deck.table.current == held


async def test_a_longer_list_is_read_when_the_cursor_comes_near_its_end() -> None:
    backend = FakeBackend([make_job(at + 1) for at in range(450)])
    async with dashboard(backend) as deck:
        assert len(deck.table.jobs) == 200
        assert deck.line("peek").endswith("1/200+")
        deck.table.move_to(180)
        await deck.pilot.pause()
        assert len(deck.table.jobs) == 400
        assert deck.table.cursor == 180


async def test_the_last_job_is_one_key_away_even_when_it_was_not_read_yet() -> None:
    backend = FakeBackend([make_job(at + 1) for at in range(450)])
    async with dashboard(backend) as deck:
        await deck.press("G")
        assert deck.table.current == make_job(450)
