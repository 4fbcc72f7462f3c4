"""What the start of the dashboard does: which modules it loads, how often it parses its styles, what it paints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from textual.css.stylesheet import Stylesheet

from tests.tui.support import SMALL, Slow, failed

if TYPE_CHECKING:
    import pytest

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
