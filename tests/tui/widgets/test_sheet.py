"""A long text to scroll: in two columns where there is room, and only what changed is painted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from textual.content import Content

from jobdeck.tui.widgets.pane import Sheet
from tests.tui.fake import FakeBackend
from tests.tui.support import LARGE, SMALL, make_app

HEIGHT = 6


@asynccontextmanager
async def shown(size: tuple[int, int] = SMALL) -> AsyncIterator[Sheet]:
    app = make_app(FakeBackend())
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        sheet = Sheet()
        sheet.styles.height = HEIGHT
        await app.screen.mount(sheet)
        await pilot.pause()
        yield sheet


def numbered(number: int, word: str = "line") -> Content:
    return Content("\n".join(f"{word} {at}" for at in range(number)))


def seen(sheet: Sheet) -> list[str]:
    return [sheet.render_line(y).text.rstrip() for y in range(HEIGHT)]


@pytest.mark.slow
async def test_the_columns_follow_each_other_where_there_is_no_room_for_two() -> None:
    async with shown() as sheet:
        sheet.show((numbered(2, "left"), numbered(2, "right")))
        assert seen(sheet) == ["left 0", "left 1", "", "right 0", "right 1", ""]


@pytest.mark.slow
async def test_they_stand_side_by_side_where_there_is() -> None:
    async with shown(LARGE) as sheet:
        sheet.show((numbered(2, "left"), numbered(1, "right")))
        assert [line.split() for line in seen(sheet)[:2]] == [["left", "0", "right", "0"], ["left", "1"]]
        assert all(sheet.render_line(y).cell_length == sheet.size.width for y in range(HEIGHT))


@pytest.mark.slow
async def test_scrolling_stops_at_the_ends_and_says_where_one_is() -> None:
    async with shown() as sheet:
        sheet.show((numbered(20),))
        assert sheet.place == "1-6/20"
        sheet.move(-3)
        assert seen(sheet)[0] == "line 0"
        sheet.move_to(10**6)
        assert seen(sheet)[-1] == "line 19"
        assert sheet.place == "15-20/20"


@pytest.mark.slow
async def test_a_text_that_fits_has_no_place() -> None:
    async with shown() as sheet:
        sheet.show((numbered(3),))
        assert sheet.place == ""


@pytest.mark.slow
async def test_a_change_leaves_one_where_one_was_and_paints_its_line_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown() as sheet:
        sheet.show((numbered(20),))
        sheet.move(4)
        painted: list[int] = []
        monkeypatch.setattr(sheet, "refresh", lambda region: painted.append(region.y))
        sheet.show((numbered(20),))
        assert painted == []
        sheet.show((Content(numbered(20).plain.replace("line 6", "changed")),))
        assert painted == [2]
        assert seen(sheet)[:3] == ["line 4", "line 5", "changed"]


async def test_long_lines_are_wrapped_and_wide_letters_keep_the_width() -> None:
    async with shown() as sheet:
        sheet.show((Content("队列 " * 60), Content("🎉" * 50)))
        assert all(sheet.render_line(y).cell_length == sheet.size.width for y in range(HEIGHT))
