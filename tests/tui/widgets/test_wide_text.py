"""Text in wide characters is shown whole."""

from __future__ import annotations

import logging

from tests.tui.support import dashboard, failed

WIDE = "\u6f22\u5b57 " * 60


async def test_a_line_of_the_log_in_wide_characters_is_nowhere_cut() -> None:
    async with dashboard(failed(1)) as deck:
        record = logging.LogRecord("jobdeck.worker", logging.WARNING, __file__, 1, f"begin {WIDE}end", None, None)
        deck.app.log_lines.handle(record)
        await deck.press("l")
        shown = "".join(deck.screen_text().split())
        assert f"begin{''.join(WIDE.split())}end" in shown
