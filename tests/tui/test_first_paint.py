"""What the start of the dashboard does: which modules it loads, how often it parses its styles, what it paints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_no_key_of_the_list_loads_a_module_once_the_jobs_are_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KEYS_OF_THE_LIST],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []
