"""Saved filters in the filter line, and the columns of a tab that a person has chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobdeck.core.model import Status
from jobdeck.core.read.operators.preferences import Preferences
from jobdeck.tui.widgets.jobs.cells import CELLS
from jobdeck.tui.widgets.jobs.columns import CATALOGUE, layout
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, dashboard, failed


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_filter_is_saved_under_a_name_and_chosen_by_it(size: tuple[int, int]) -> None:
    mine = Preferences()
    async with dashboard(sample(), "slash", *"status:failed", size=size, preferences=mine) as deck:
        assert "ctrl+s saves" in deck.line("peek")
        await deck.press("ctrl+s")
        assert "Save this filter" in deck.screen_text()
        await deck.press(*"Bad ones", "enter")
        assert "1 to 40 letters" in deck.screen_text()
        assert mine.filters() == {}
        await deck.press(*("backspace",) * 5, *"-1")
        assert "jobdeck filter save Bad-1 status:failed" in deck.screen_text()
        await deck.press("enter")
        assert mine.filters() == {"bad-1": "status:failed"}
        assert "Saved as @bad-1." in deck.toasts[-1]
        assert deck.app.dashboard.bar.field.value == "status:failed"

        await deck.press(*("backspace",) * 20, *"@b")
        assert "tab @bad-1" in deck.line("peek")
        await deck.press("tab")
        assert deck.app.dashboard.bar.field.value == "@bad-1"
        assert "status:failed" in deck.line("peek")
        await deck.press("enter")
        assert deck.backend.requests[-1].filter.status is Status.FAILED
        assert deck.app.dashboard.filter_text == "status:failed"


@pytest.mark.slow
async def test_a_name_that_nothing_has_and_one_that_no_longer_parses_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "preferences.json"
    path.write_text('{"version": 1, "filters": {"old": "coach:1 older>x"}}')
    async with dashboard(sample(), preferences=Preferences(path)) as deck:
        before = len(deck.backend.requests)
        await deck.press("slash", *"@none", "enter")
        assert 'No filter is saved as "none"' in deck.toasts[-1]
        await deck.press(*("backspace",) * 5, *"@old")
        await deck.press("enter")
        assert "The saved filter old can no longer be read" in deck.toasts[-1]
        assert len(deck.backend.requests) == before
        assert deck.app.dashboard.bar.editing


@pytest.mark.slow
async def test_what_is_typed_is_saved_only_if_it_is_a_filter() -> None:
    mine = Preferences()
    async with dashboard(sample(), "slash", "ctrl+s", preferences=mine) as deck:
        assert "Type a filter first" in deck.toasts[-1]
        await deck.press(*"statu:x", "ctrl+s")
        assert "Unknown filter key" in deck.toasts[-1]
        assert deck.app.dashboard.bar.editing
    assert mine.filters() == {}


@pytest.mark.slow
async def test_columns_are_chosen_for_one_tab_and_kept() -> None:
    mine = Preferences()
    async with dashboard(failed(3), "5", size=LARGE, preferences=mine) as deck:
        assert "status" not in deck.app.dashboard.table.columns
        await deck.press("|")
        assert "Columns of the tab failed" in deck.screen_text()
        assert "✓ task" in deck.screen_text()
        assert "✓ status" not in deck.screen_text()
        await deck.press("space", "j", "space", "j", "space", "enter")
        columns = deck.app.dashboard.table.columns
        assert columns[0] == "task"
        assert "status" in columns
        assert "what" not in columns
        assert mine.columns("failed") == columns
        await deck.press("1")
        assert deck.app.dashboard.table.columns != columns
        await deck.press("5", "|", "u")
        assert mine.columns("failed") == ()
        assert "status" not in deck.app.dashboard.table.columns


@pytest.mark.slow
async def test_columns_that_cannot_be_read_are_said_once_and_the_usual_ones_shown(tmp_path: Path) -> None:
    path = tmp_path / "preferences.json"
    path.write_text("{")
    async with dashboard(failed(1), "5", "1", "5", preferences=Preferences(path)) as deck:
        assert sum("Nothing was changed" in toast for toast in deck.toasts) == 1
        assert "task" in deck.app.dashboard.table.columns
        await deck.press("|", "enter")
        assert path.read_text() == "{"


@pytest.mark.parametrize("width", range(40, 241, 7))
def test_chosen_columns_never_leave_the_width(width: int) -> None:
    for chosen in (tuple(CATALOGUE), ("id", "error", "progress"), ("progress",), ("nonsense", "id", "task")):
        placed = layout(width, Status.RUNNING, chosen=chosen)
        assert [one.id for one in placed[:2]] == ["sign", "task"]
        assert all(one.id in CELLS for one in placed)
        assert max(one.x + one.width for one in placed) <= width


@pytest.mark.parametrize(("size", "place"), [((80, 24), ""), ((60, 12), f"1-8/{len(CATALOGUE)}")])
async def test_each_column_that_can_be_chosen_is_seen_or_the_dialog_says_that_there_are_more(
    size: tuple[int, int], place: str
) -> None:
    async with dashboard(failed(3), "|", size=size) as deck:
        text = deck.screen_text()
        seen = [title for title in CATALOGUE.values() if f" {title} " in text]
        assert (len(seen) < len(CATALOGUE)) is bool(place)
        assert "What does not fit is left out" in text
        assert place in text
        await deck.press(*["down"] * len(CATALOGUE))
        assert f" {[*CATALOGUE.values()][-1]} " in deck.screen_text()
