"""Every page over a database in which every text is hostile: nothing of it reaches the terminal but words."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from jobdeck.core.settings import Settings
from jobdeck.tui.app import PAGES
from tests.core.cli.support import environment
from tests.tui.hostile import harmful
from tests.tui.live import Desk, live
from tests.tui.support import LARGE, SMALL

pytestmark = pytest.mark.slow

PRIVATE: Final = ("jane", "doe@", "hunter2", "90012345")
WITHOUT_ROWS: Final = {"playbook", "log"}


@pytest.fixture
def settings(hostile_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    environment(monkeypatch, tmp_path, hostile_url)
    return Settings(database_url=SecretStr(hostile_url), state_dir=tmp_path, handlers="tests.core.cli.handlers")


def judge(desk: Desk, *, hostile: bool = True) -> None:
    shown = desk.screen_text()
    assert harmful(shown) <= {"\n"}
    assert not [word for word in PRIVATE if word in shown], shown
    if hostile:
        assert "x1b]52" in shown


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
async def test_nothing_but_words_of_a_hostile_row_reaches_the_screen(settings: Settings, size: tuple[int, int]) -> None:
    async with live(settings, size=size) as desk:
        judge(desk)
        for _ in range(6):
            await desk.press("down")
            judge(desk, hostile=False)
            await desk.press("enter")
            assert desk.here == "JobDetailScreen"
            for _ in range(4):
                judge(desk, hostile=False)
                await desk.press("pagedown")
            await desk.press("escape")
        for name in PAGES:
            desk.app.open_page(name)
            await desk.pilot.pause()
            judge(desk, hostile=name not in WITHOUT_ROWS)
            for _ in range(4):
                await desk.press("down")
                judge(desk, hostile=False)
            await desk.press("escape")
