"""Which jobs are listed, and in what order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobdeck.core.model import Status
from jobdeck.core.read.filters import SORTS
from jobdeck.tui.widgets.jobs.columns import layout
from tests.tui.fake import FakeBackend, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, Deck, dashboard, shown


@pytest.mark.slow
async def test_a_filter_of_words_reaches_the_queue_and_esc_clears_it() -> None:
    async with dashboard(sample(), "slash", *"type:totals dry", "enter") as deck:
        asked = deck.backend.requests[-1].filter
        assert (asked.task_type, asked.search) == ("totals", "dry")
        assert "type:totals dry" in deck.line("filter-line")
        await deck.press("escape")
        assert deck.backend.requests[-1].filter.task_type is None
        assert not deck.app.dashboard.query_one("#filter").display


async def test_the_tabs_say_that_a_filter_does_not_change_their_counts() -> None:
    async with dashboard(sample(), "slash", *"type:totals", "enter", size=LARGE) as deck:
        assert deck.line("tabs").endswith("counts of all jobs")
        await deck.press("5")
        assert deck.line("tabs").endswith("counts of all jobs")
        await deck.press("1", "escape")
        assert "counts of all jobs" not in deck.line("tabs")


@pytest.mark.slow
async def test_every_word_of_the_language_is_read() -> None:
    async with dashboard(sample()) as deck:
        await deck.press("slash", *'error:"rate limit" coach:c-1 age>2h attempts>=3 outcome:lost', "enter")
        asked = deck.backend.requests[-1].filter
        assert (asked.error, asked.payload, asked.older_than) == ("rate limit", ("coachId", "c-1"), timedelta(hours=2))
        assert (asked.attempts_at_least, asked.outcome) == (3, "lost")


@pytest.mark.slow
@pytest.mark.parametrize(("text", "word"), [("status:nope", "nope"), ("state:failed", 'filter key "state"')])
async def test_a_filter_that_cannot_be_read_is_said_and_changes_nothing(text: str, word: str) -> None:
    async with dashboard(sample()) as deck:
        before = len(deck.backend.requests)
        await deck.press("slash", *text)
        assert word in deck.line("peek")
        await deck.press("enter")
        assert word in deck.toasts[-1]
        assert len(deck.backend.requests) == before
        assert deck.app.dashboard.bar.editing


@pytest.mark.slow
async def test_the_status_word_chooses_the_tab_and_no_word_keeps_it() -> None:
    async with dashboard(sample(), "slash", *"status:failed", "enter") as deck:
        assert deck.backend.requests[-1].filter.status is Status.FAILED
        await deck.press("slash", *("backspace",) * 20, *"error:429", "enter")
        asked = deck.backend.requests[-1].filter
        assert (asked.status, asked.error) == (Status.FAILED, "429")


@pytest.mark.slow
async def test_tab_completes_the_last_word_and_goes_on_to_the_next_that_fits() -> None:
    async with dashboard(sample(), "slash", *"red st") as deck:
        assert "tab status:" in deck.line("peek")
        await deck.press("tab", *"c")
        field = deck.app.dashboard.bar.field
        assert field.value == "red status:c"
        assert "tab status:cancelled  status:cannot-run  status:succeeded" in deck.line("peek")
        await deck.press("tab")
        assert field.value == "red status:cancelled"
        await deck.press("tab")
        assert field.value == "red status:cannot-run"
        await deck.press("tab")
        assert field.value == "red status:succeeded"
        await deck.press("space", *"type:totals", "tab")
        assert field.value == "red status:succeeded type:game_platform_totals_sweep"


@pytest.mark.slow
async def test_filters_of_this_session_come_back_by_up_and_down() -> None:
    async with dashboard(sample()) as deck:
        for text in ("error:429", "status:failed"):
            await deck.press("slash", *("backspace",) * 20, *text, "enter")
        await deck.press("escape", "slash", "up")
        field = deck.app.dashboard.bar.field
        assert field.value == "status:failed"
        await deck.press("up", "up")
        assert field.value == "error:429"
        await deck.press("down", "down")
        assert field.value == ""
        await deck.press("up", "enter")
        assert deck.backend.requests[-1].filter.status is Status.FAILED


@pytest.mark.slow
async def test_esc_leaves_the_line_and_keeps_the_filter_that_is_on() -> None:
    async with dashboard(sample(), "slash", *"error:429", "enter", "slash", *" more", "escape") as deck:
        assert "error:429" in deck.line("filter-line")
        assert deck.backend.requests[-1].filter.error == "429"


def listed(deck: Deck) -> Status | None:
    return deck.app.poller.request.filter.status


@pytest.mark.slow
async def test_esc_goes_back_to_the_tab_that_was_there_before_a_filter_named_its_status() -> None:
    async with dashboard(sample(), "3", "slash", *"status:failed error:nosuch", "enter", size=LARGE) as deck:
        assert listed(deck) is Status.FAILED
        await deck.press("slash", *("backspace",) * 27, *"status:cancelled", "enter", "escape")
        assert listed(deck) is Status.RUNNING
        await deck.press("slash", *"type:nosuch", "enter")
        assert "No running job matches type:nosuch. esc clears the filter." in deck.screen_text()
        await deck.press("escape")
        assert listed(deck) is Status.RUNNING


@pytest.mark.slow
async def test_a_filter_stays_while_tabs_change() -> None:
    async with dashboard(sample(), "slash", *"error:429", "enter", "5") as deck:
        asked = deck.backend.requests[-1].filter
        assert (asked.status, asked.error) == (Status.FAILED, "429")


@pytest.mark.slow
async def test_a_filter_without_a_match_says_so() -> None:
    assert "No job matches zebra" in await shown(sample(), "slash", *"zebra", "enter")


@pytest.mark.slow
async def test_sorting_keeps_the_cursor_on_its_job() -> None:
    async with dashboard(sample(), "j", "j") as deck:
        held = deck.table.current
        await deck.press("s", "S")
        assert deck.backend.requests[-1].sort == "task"
        assert deck.backend.requests[-1].descending
        assert deck.table.current == held


@pytest.mark.slow
async def test_s_goes_through_every_column_and_the_heading_shows_the_order() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        seen = []
        for _ in SORTS:
            await deck.press("s")
            seen.append(deck.backend.requests[-1].sort)
        assert seen == [*SORTS[1:], SORTS[0]]
        await deck.press(*("s",) * SORTS.index("error"))
        assert "what ↓" in deck.screen_text()
        await deck.press("S")
        assert "what ↑" in deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 110, 132, 160, 200])
async def test_the_order_is_seen_at_every_width_for_as_long_as_it_is_there(width: int) -> None:
    async with dashboard(sample(), size=(width, 24)) as deck:
        for sort in SORTS[1:]:
            await deck.press("s")
            deck.clock.now += 60
            deck.app.dashboard.tick()
            heading = next(line for line in deck.screen_text().splitlines() if " task " in line)
            assert {"↓", "↑"} & set(heading + deck.line("peek")), sort


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_column_has_an_order(width: int) -> None:
    assert all(column.sort in SORTS for column in layout(width) if column.id != "sign")


async def test_a_longer_list_is_read_when_the_cursor_comes_near_its_end() -> None:
    backend = FakeBackend([make_job(at + 1) for at in range(450)])
    async with dashboard(backend) as deck:
        assert len(deck.table.jobs) == 200
        assert deck.line("peek").endswith("1/200+")
        deck.table.move_to(180)
        await deck.pilot.pause()
        assert len(deck.table.jobs) == 400
        assert deck.table.cursor == 180


@pytest.mark.slow
async def test_the_last_job_is_one_key_away_even_when_it_was_not_read_yet() -> None:
    backend = FakeBackend([make_job(at + 1) for at in range(450)])
    async with dashboard(backend, "G") as deck:
        assert deck.table.current == make_job(450)
