"""Draws the README's picture of the dashboard, docs/images/dashboard.svg: `python -m tests.tui.picture`.

The same sample data and the same standing clock as in the tests, so that it changes only with the dashboard.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Final

PICTURE: Final = Path(__file__).parents[2] / "docs" / "images" / "dashboard.svg"
SIZE: Final = (150, 26)


async def draw() -> str:
    """The dashboard as SVG."""
    from tests.tui.sample import sample  # noqa: PLC0415 -- Textual, after the environment is prepared
    from tests.tui.support import make_app  # noqa: PLC0415 -- Textual, after the environment is prepared

    app = make_app(sample())
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("j", "j", "j", "j", "j")
        await pilot.pause()
        return stable(app.export_screenshot(title="Jobdeck"))


def stable(svg: str) -> str:
    """The picture without what differs from one drawing to the next: the number in its class names."""
    return re.sub(r"terminal-\d+", "terminal", svg)


def main() -> None:
    """Writes the picture."""
    for name in [name for name in os.environ if name.startswith("TEXTUAL_") or name == "NO_COLOR"]:
        del os.environ[name]
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(asyncio.run(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()
