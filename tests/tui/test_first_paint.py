"""What the start of the dashboard does: which modules it loads, how often it parses its styles, what it paints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from textual.app import App
from textual.css.stylesheet import Stylesheet
from textual.screen import Screen

from tests.tui.support import LARGE, SMALL, Slow, dashboard, failed

if TYPE_CHECKING:
    from textual.geometry import Region

ROOT = Path(__file__).parents[2]
KEYS_OF_THE_LIST = """
import asyncio, sys
from tests.tui.support import dashboard, failed

async def main():
    async with dashboard(failed(3)) as deck:
        before = set(sys.modules)
        await deck.press("j", "R", "escape", "D", "escape", "P", "escape", ":", "escape", "?", "escape", "enter")
        print(*sorted(name for name in sys.modules.keys() - before if name.startswith("jobdeck")))

asyncio.run(main())
"""


@pytest.mark.parametrize("size", [SMALL, (120, 35), LARGE])
async def test_the_parts_of_the_list_have_their_places_before_anything_is_painted(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts: list[dict[str | None, Region]] = []
    lay_out = Screen._refresh_layout

    def noted(screen: Screen[Any], *given: Any, **more: Any) -> None:
        lay_out(screen, *given, **more)
        layouts.append({part.id: part.region for part in screen.query("#top, #middle *, #header, #clock, Line")})

    monkeypatch.setattr(Screen, "_refresh_layout", noted)
    slow = Slow(failed(3))
    async with slow.app.run_test(size=size) as pilot:
        await pilot.pause()
        assert layouts
        assert all(places == layouts[-1] for places in layouts)


@pytest.mark.parametrize(("key", "part"), [("r", "#keys"), ("h", "#keys"), ("w", "#buttons")])
async def test_a_screen_that_is_about_to_be_painted_as_a_whole_is_not_painted_before(
    key: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dashboard(failed(3), key) as deck:
        painted: list[str] = []
        display = App._display

        def noted(app: App[Any], screen: Screen[Any], update: Any) -> None:
            if update is not None:
                painted.append(type(update).__name__)
            display(app, screen, update)

        monkeypatch.setattr(App, "_display", noted)
        deck.app.screen.query_one(part).display = False
        deck.app.screen.refresh()
        deck.app.screen._refresh_layout()
        assert not painted
        await deck.pilot.pause()
        assert painted[0] == "LayoutUpdate"


async def test_the_styles_are_not_parsed_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Textual parses them when the theme is set, forgets the rules, and parses them again for the first screen."""
    parsed: list[Stylesheet] = []
    parse = Stylesheet.parse

    def noted(sheet: Stylesheet) -> None:
        parsed.append(sheet)
        parse(sheet)

    monkeypatch.setattr(Stylesheet, "parse", noted)
    slow = Slow(failed(3))
    async with slow.app.run_test(size=SMALL) as pilot:
        await pilot.pause()
        assert {id(sheet) for sheet in parsed} == {id(slow.app.stylesheet)}


def test_no_key_of_the_list_loads_a_module_once_the_jobs_are_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEYS_OF_THE_LIST],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
