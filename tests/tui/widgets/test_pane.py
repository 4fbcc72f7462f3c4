"""Lines to look through: the cursor stays with its subject, and only what changed is painted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from jobdeck.tui.widgets.pane import Entry, Pane, entry
from tests.tui.fake import FakeBackend
from tests.tui.support import make_app

HEIGHT = 10


@asynccontextmanager
async def shown(*, cursor: bool = True, follow: bool = False) -> AsyncIterator[Pane]:
    app = make_app(FakeBackend())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        pane = Pane(cursor=cursor, follow=follow)
        pane.styles.height = HEIGHT
        await app.screen.mount(pane)
        await pilot.pause()
        yield pane


def lines(names: Sequence[str]) -> list[Entry]:
    return [entry((name, "text"), key=name) for name in names]


def seen(pane: Pane) -> list[str]:
    return [one.spans[0][0] for one in pane.entries[pane.top : pane.top + HEIGHT]]


async def test_the_cursor_stays_on_its_subject_and_screen_line() -> None:
    async with shown() as pane:
        names = [f"line {number}" for number in range(40)]
        pane.show(lines(names))
        pane.move_to(20)
        top, line = pane.top, pane.cursor - pane.top
        pane.show(lines(["new a", "new b", *names]))
        assert pane.current == "line 20"
        assert pane.cursor - pane.top == line
        assert pane.top == top + 2


async def test_a_subject_that_is_gone_leaves_the_cursor_where_it_was() -> None:
    async with shown() as pane:
        pane.show(lines(["a", "b", "c"]))
        pane.move(1)
        pane.show(lines(["a", "c"]))
        assert pane.current == "c"
        pane.show([])
        assert pane.current is None


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "current"), [((1, 1), "c"), ((99,), "d"), ((99, -1), "c"), ((-5,), "a")])
async def test_moving_stops_at_the_ends(steps: tuple[int, ...], current: str) -> None:
    async with shown() as pane:
        pane.show(lines("abcd"))
        for step in steps:
            pane.move(step)
        assert pane.current == current


async def test_moving_scrolls_no_further_than_needed() -> None:
    async with shown() as pane:
        pane.show(lines([str(number) for number in range(30)]))
        pane.move(HEIGHT - 1)
        assert pane.top == 0
        pane.move(1)
        assert pane.top == 1
        assert pane.place == "2-11/30"


async def test_text_without_a_cursor_scrolls() -> None:
    async with shown(cursor=False) as pane:
        pane.show(lines([str(number) for number in range(30)]))
        pane.move(3)
        assert seen(pane)[0] == "3"
        assert pane.current is None
        pane.move(99)
        assert seen(pane)[-1] == "29"


async def test_a_log_follows_while_one_is_at_its_end_and_stands_still_while_one_is_not() -> None:
    async with shown(cursor=False, follow=True) as pane:
        pane.show(lines([str(number) for number in range(30)]))
        pane.move_to(99)
        pane.show(lines([str(number) for number in range(35)]))
        assert seen(pane)[-1] == "34"
        pane.move(-5)
        held = seen(pane)[0]
        pane.show(lines([str(number) for number in range(50)]))
        assert seen(pane)[0] == held


async def test_only_lines_that_say_something_else_are_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shown() as pane:
        pane.show(lines("abcdef"))
        painted: list[int] = []
        monkeypatch.setattr(pane, "refresh", lambda region: painted.append(region.y))
        pane.show(lines("abcdef"))
        assert painted == []
        pane.show(lines("abXdef"))
        assert painted == [2]


async def test_of_a_line_only_the_cells_that_changed_are_painted_and_all_where_the_cursor_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with shown() as pane:
        pane.show([entry(("first", "text")), entry(("sync ", "text"), ("12s", "muted"), (" running", "run"))])
        painted: list[tuple[int, int, int]] = []
        monkeypatch.setattr(pane, "refresh", lambda region: painted.append((region.x, region.y, region.width)))
        pane.show([entry(("first", "text")), entry(("sync ", "text"), ("13s", "muted"), (" running", "run"))])
        assert painted == [(6, 1, 1)]
        pane.move(1)
        assert painted[1:] == [(0, 0, 80), (0, 1, 80)]
