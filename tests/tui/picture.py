"""Draws the pictures of the documents, docs/images/*.svg: `python -m tests.tui.picture`.

They use the sample data and the fixed clock of the tests, so that they change only with the dashboard.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

from textual.pilot import Pilot

FOLDER: Final = Path(__file__).parents[2] / "docs" / "images"


@dataclass(frozen=True, slots=True)
class Picture:
    """The keys that open the screen, and its size in cells. With `paused`, processing is paused."""

    keys: tuple[str, ...]
    size: tuple[int, int]
    paused: bool = False


PICTURES: Final = {
    "dashboard": Picture(("j",) * 5, (150, 26)),
    "cron-health": Picture(("h",), (118, 36)),
    "pause": Picture(("P", *"MetaCTF is down", "tab", *"30m"), (110, 26)),
    "paused": Picture((), (118, 20), paused=True),
    "create-job": Picture((*"jjjjjjjjj", "n", "tab", "tab", "tab", "right", "ctrl+t"), (150, 36)),
    "job": Picture((*("j",) * 5, "enter"), (150, 34)),
    "errors": Picture(("e", "j"), (130, 30)),
    "bulk": Picture(("A", "D", "y", "b"), (110, 20)),
}


async def draw(name: str) -> str:
    """One of the pictures as SVG."""
    from jobdeck.core.model import Processing  # noqa: PLC0415 -- the same
    from jobdeck.tui.screens import follower  # noqa: PLC0415 -- the same
    from tests.tui.fake import NOW, minutes  # noqa: PLC0415 -- the same
    from tests.tui.sample import sample  # noqa: PLC0415 -- Textual, after the environment is prepared
    from tests.tui.support import make_app  # noqa: PLC0415 -- the same

    picture, backend = PICTURES[name], sample()
    if picture.paused:
        backend.processing = Processing(
            enabled=False, paused_reason="MetaCTF is down", paused_by="bob@10.0.0.9", paused_at=NOW - minutes(12)
        )
    app = make_app(backend)
    # The history beside the list is read at every move, not once the cursor has rested.
    with patch.object(follower, "REST", 0.0):
        async with app.run_test(size=picture.size) as pilot:
            await _press(pilot, picture.keys)
            return slim(app.export_screenshot(title="Jobdeck"), app.dashboard.styles.background.hex)


async def _press(pilot: Pilot[int], keys: tuple[str, ...]) -> None:
    await pilot.pause()
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


def slim(svg: str, ground: str) -> str:
    """The picture without parts that change at every drawing, parts loaded from other servers, and most of its size.

    These are the number in the class names, the fonts, and the rectangles in the colour of the background.
    """
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    svg = re.sub(r"\s*@font-face \{.*?\n    \}", "", svg, flags=re.DOTALL)
    svg = svg.replace("font-family: Fira Code, monospace", "font-family: monospace")
    svg = svg.replace('<rect fill="#292929"', f'<rect fill="{ground.lower()}"')
    return re.sub(rf'<rect fill="{ground}" [^>]*crispEdges"/>', "", svg, flags=re.IGNORECASE)


def main() -> None:
    """Writes the pictures."""
    for name in [name for name in os.environ if name.startswith("TEXTUAL_") or name == "NO_COLOR"]:
        del os.environ[name]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        (FOLDER / f"{name}.svg").write_text(asyncio.run(draw(name)), encoding="utf-8")


if __name__ == "__main__":
    main()
