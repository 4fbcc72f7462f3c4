"""`enter` opens what a line is about, on every page, and `esc` walks back to where one was."""

from __future__ import annotations

from jobdeck.core.model import Filter, Status
from tests.tui.fake import make_job
from tests.tui.figures_sample import BROKEN, incident
from tests.tui.support import dashboard


async def test_esc_walks_back_through_pages_and_lists_with_cursor_scroll_and_filter() -> None:
    backend = incident()
    backend.jobs = [
        make_job(at, Status.FAILED, task_type=BROKEN, last_error="boom", payload={"n": at}) for at in range(1, 61)
    ]
    async with dashboard(backend, "5", "slash", *"boom", "enter", *["j"] * 40, *["k"] * 3) as deck:
        table = deck.table
        here = (table.cursor, table.top, deck.app.poller.request, deck.line("filter-line"))
        await deck.press("i", "j", "j")
        types = deck.app.screen
        await deck.press("enter")
        assert deck.app.poller.request.filter == Filter(task_type=BROKEN)
        assert "esc goes back" in deck.screen_text()
        await deck.press("j", "j", "enter", "escape")
        assert deck.table.cursor == 2
        await deck.press("t", "escape", "escape")
        assert deck.app.screen is types
        await deck.press("escape")
        assert (table.cursor, table.top, deck.app.poller.request, deck.line("filter-line")) == here
        assert not deck.app._installed_screens
