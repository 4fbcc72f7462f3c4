"""The mouse, where it was asked for, does what the keys do: tabs, rows, headings, keys, dialogs, forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.creating import Wanted
from core.model import Status
from tests.tui.fake import FakeBackend, job_id, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, Deck, dashboard, failed
from tui.form_rows import Row

if TYPE_CHECKING:
    from textual.widget import Widget


async def click(deck: Deck, text: str, *, times: int = 1, skip: int = 0) -> None:
    """Clicks the first cell of a text on the screen."""
    for y, line in enumerate(deck.screen_text().split("\n")):
        found = [at for at in range(len(line)) if line.startswith(text, at)]
        if len(found) > skip:
            await deck.pilot.click(offset=(found[skip], y), times=times)
            await deck.pilot.pause()
            return
        skip -= len(found)
    raise AssertionError(f"{text!r} is not on the screen:\n{deck.screen_text()}")


async def press(deck: Deck, widget: Widget, x: int = 0) -> None:
    await deck.pilot.click(widget, offset=(x, 0))
    await deck.pilot.pause()


async def test_a_tab_is_chosen_by_a_click_on_its_name_or_its_count() -> None:
    for size in ((80, 24), LARGE):
        async with dashboard(sample(), size=size) as deck:
            for words, status in (("Fail", Status.FAILED), ("790", Status.PENDING), ("1 All", None)):
                await click(deck, words)
                assert deck.backend.requests[-1].filter.status is status


async def test_a_row_takes_the_cursor_a_double_click_opens_it_and_its_margin_marks_it() -> None:
    async with dashboard(failed(5)) as deck:
        await deck.pilot.click("#jobs", offset=(20, 3))
        assert deck.table.cursor == 2
        await deck.pilot.click("#jobs", offset=(0, 2))
        assert deck.table.marks == {job_id(2)}
        await deck.pilot.click("#jobs", offset=(20, 4), times=2)
        await deck.pilot.pause()
        assert deck.here == "JobDetailScreen"


async def test_a_heading_sorts_and_the_same_again_turns_the_order_round() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        for title, sort in (("task", "task"), ("attempts", "attempts"), ("last run", "last_run"), ("error", "error")):
            at = next(one for one in deck.table._columns if one.title == title)
            await deck.pilot.click("#jobs", offset=(at.x + 1, 0))
            await deck.pilot.pause()
            assert deck.backend.requests[-1].sort == sort
        before = deck.backend.requests[-1].descending
        await deck.pilot.click("#jobs", offset=(at.x + 1, 0))
        await deck.pilot.pause()
        assert deck.backend.requests[-1].descending is not before


async def test_every_key_of_the_footer_can_be_clicked_and_a_grey_one_says_why() -> None:
    async with dashboard(failed(2), size=LARGE) as deck:
        await click(deck, "D delete")
        assert deck.here == "Confirm"
        await press(deck, deck.app.screen.query_one("#no"), x=2)
        assert deck.here == "Dashboard"
        for label, there in (("n new", "CreateJob"), ("Q quick sync", "QuickSyncDialog"), ("? help", "Help"),
                             ("h cron health", "CronHealth"), ("detail", "JobDetailScreen")):  # fmt: skip
            await click(deck, label)
            assert deck.here == there, label
            await deck.press("escape")
    async with dashboard(failed(2), size=LARGE) as deck:
        deck.backend.jobs = [make_job(1, Status.RUNNING)]
        await deck.refresh()
        await click(deck, "D delete")
        assert "does not allow it" in deck.toasts[-1]


async def test_the_footer_of_a_page_can_be_clicked_too() -> None:
    async with dashboard(failed(2), size=LARGE) as deck:
        await deck.press("enter")
        await click(deck, "C cancel")
        assert deck.here == "Confirm"
        await click(deck, "Cancel 1 job", skip=1)
        assert deck.backend.calls == [("cancel", (job_id(1),))]


async def test_a_dialog_is_answered_by_clicks_alone() -> None:
    async with dashboard(failed(2)) as deck:
        await click(deck, "R retry")
        await click(deck, "Retry 1 job", skip=1)
        assert deck.backend.calls == [("retry", (job_id(1),))]


async def test_the_form_is_filled_in_and_sent_by_clicks_alone() -> None:
    async with dashboard(FakeBackend(), size=LARGE) as deck:
        await click(deck, "n new")
        rows = {row.field: row.widget for row in deck.app.screen.query(Row)}
        await press(deck, rows["forceFullSync"], x=7)
        await press(deck, rows["mode"], x=9)
        await press(deck, rows["coachId"], x=2)
        assert deck.here == "Picker"
        await click(deck, "Bo Lindqvist", times=2)
        assert deck.here == "CreateJob"
        await click(deck, "Create job", skip=1)
        (_, wanted), *_ = deck.backend.calls
        assert isinstance(wanted, Wanted)
        assert wanted.payload == {
            "forceFullSync": True, "mode": "wave", "coachId": "5d0c7f6a-8a55-4e4e-9a0e-000000000008",
        }  # fmt: skip


async def test_a_quick_sync_is_queued_by_a_double_click() -> None:
    async with dashboard(FakeBackend(), size=LARGE) as deck:
        await click(deck, "Q quick sync")
        await click(deck, "Incremental Sync", times=2)
        assert deck.backend.calls == [("quick_sync", "incremental")]


async def test_the_wheel_moves_the_cursor() -> None:
    async with dashboard(failed(30)) as deck:
        deck.table.move_to(10)
        from textual.events import MouseScrollDown  # noqa: PLC0415 -- here only

        deck.table.post_message(MouseScrollDown(deck.table, 5, 5, 0, 0, 0, False, False, False))
        await deck.pilot.pause()
        assert deck.table.cursor == 13
