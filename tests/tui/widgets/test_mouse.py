"""The mouse, where it was asked for, does whatever the keys do: tabs, rows, headings, keys, dialogs, forms."""

from __future__ import annotations

import pytest
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.widget import Widget

from jobdeck.core.model import Processing, Status
from jobdeck.core.queue.requests import Wanted
from jobdeck.tui.actions import ACTIONS, ALL, Action, Situation
from jobdeck.tui.backend.protocol import EmbeddedWorker
from jobdeck.tui.form.body import Row
from jobdeck.tui.screens import acting
from jobdeck.tui.screens.acting import Acting
from jobdeck.tui.screens.dialogs import choosing
from jobdeck.tui.screens.dialogs.dialog import CROSS
from jobdeck.tui.widgets.key_line import action_at
from jobdeck.tui.widgets.pane import WHEEL, Pane, Sheet
from tests.tui.fake import NOW, FakeBackend, job_id, make_job
from tests.tui.sample import sample
from tests.tui.support import LARGE, PLUGIN_PAGE, SMALL, Deck, dashboard, failed

pytestmark = pytest.mark.slow


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


def focus(deck: Deck) -> str | None:
    """What the keys go to."""
    return deck.app.focused.id if deck.app.focused else None


async def wheel(deck: Deck, widget: Widget, *, up: bool = False, times: int = 1) -> None:
    """Turns the wheel over the first cell of a widget."""
    kind, (x, y) = (MouseScrollUp if up else MouseScrollDown), widget.region.offset
    for _ in range(times):
        deck.app.screen._forward_event(kind(None, x, y, 0, 0, 0, False, False, False, x, y))
    await deck.pilot.pause()


async def choose(deck: Deck, action_id: str) -> None:
    """Takes an action by clicks alone: all actions, the wheel until it is in sight, two clicks on its line."""
    await click(deck, ": all actions")
    assert deck.here == "Palette"
    found = deck.app.screen.query_one("#found", Pane)
    at = next(at for at, one in enumerate(found.entries) if one.key == action_id)
    if at >= found.lines:
        await wheel(deck, found, times=-(-at // WHEEL))
    assert found.top <= at < found.top + found.lines
    await deck.pilot.click(offset=(found.region.x + 2, found.region.y + at - found.top), times=2)
    await deck.pilot.pause()


async def go_back(deck: Deck) -> None:
    """Goes back to the list by clicks alone, whatever is on top of it."""
    for _ in range(5):
        if deck.app.dashboard.bar.editing:
            await click(deck, "esc leaves")
        elif deck.here != "Dashboard":
            await click(deck, CROSS if CROSS in deck.screen_text() else "q back")
    assert deck.here == "Dashboard"
    assert not deck.app.dashboard.bar.editing


async def open_page(deck: Deck, scope: str) -> None:
    if scope == "detail":
        (job, *_) = deck.backend.details
        table = deck.table
        place = [one.id for one in table.jobs].index(job) - table.top
        await deck.pilot.click(table, offset=(3, place + 1), times=2)  # its id is beside the list, too
        await deck.pilot.pause()
    elif scope == "table":
        deck.app.open_table(PLUGIN_PAGE)
        await deck.pilot.pause()
    elif scope != "list":
        await choose(deck, f"page.{scope}")
    page = deck.app.screen
    assert isinstance(page, Acting)
    assert scope == page.SCOPE


def can_be_taken(_action: Action, _now: Situation) -> None:
    """Whether an action can be taken now is another matter."""


@pytest.mark.parametrize("scope", sorted(ALL))
async def test_every_action_of_a_page_has_a_line_that_can_be_clicked(
    scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "unavailable", can_be_taken)
    async with dashboard(sample(), mouse=True) as deck:
        await open_page(deck, scope)
        await click(deck, ": all actions")
        found = deck.app.screen.query_one("#found", Pane)
        wanted = {action.id for action in ACTIONS if scope in action.scopes} - {"palette"}
        assert wanted <= {one.key for one in found.entries}
        await go_back(deck)


WALKS = [("list", LARGE), *((scope, SMALL) for scope in sorted(ALL))]


@pytest.mark.slow
@pytest.mark.parametrize(("scope", "size"), WALKS)
async def test_every_action_of_every_page_is_taken_by_clicks_alone_and_so_is_the_way_back(
    scope: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    take = Acting.action_do

    def action_do(screen: Acting, action_id: str) -> None:
        taken.append(action_id)
        take(screen, action_id)

    monkeypatch.setattr(Acting, "action_do", action_do)
    monkeypatch.setattr(acting, "unavailable", can_be_taken)
    monkeypatch.setattr(choosing, "unavailable", can_be_taken)
    async with dashboard(sample(), size=size, mouse=True) as deck:
        left: list[int] = []
        monkeypatch.setattr(deck.app, "exit", left.append)
        await open_page(deck, scope)
        page = deck.app.screen
        for action in ACTIONS:
            if scope not in action.scopes or action.id == "palette":
                continue
            await choose(deck, action.id)
            assert taken[-1] == action.id
            if deck.app.screen is not page or deck.app.dashboard.bar.editing:
                await go_back(deck)
                await open_page(deck, scope)
                page = deck.app.screen
        await go_back(deck)


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
    async with dashboard(sample(), "d", size=LARGE) as deck:
        for title, sort in (("task", "task"), ("status", "status"), ("last", "last_run"), ("what", "error")):
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
    async with dashboard(failed(2), "enter", size=LARGE) as deck:
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
    async with dashboard(FakeBackend([make_job(1)]), size=LARGE) as deck:
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
        await wheel(deck, deck.table)
        assert deck.table.cursor == 13
        await wheel(deck, deck.table, up=True)
        assert deck.table.cursor == 10


async def test_everything_in_the_wheels_reach_moves_panes_and_dialogs() -> None:
    async with dashboard(sample(), size=(80, 13), mouse=True) as deck:
        for action_id, name in (("help", "#box"), ("page.playbook", "#pane"), ("page.health", "#pane"),
                                ("job.new", "#halves")):  # fmt: skip
            await choose(deck, action_id)
            moved = deck.app.screen.query_one(name)
            before = (moved.scroll_offset, getattr(moved, "cursor", 0), getattr(moved, "top", 0))
            await wheel(deck, moved)
            assert (moved.scroll_offset, getattr(moved, "cursor", 0), getattr(moved, "top", 0)) != before, action_id
            await go_back(deck)
        await choose(deck, "page.errors")
        groups, about = deck.app.screen.query_one("#pane", Pane), deck.app.screen.query_one("#about", Pane)
        await wheel(deck, about)
        assert about.top > 0
        await wheel(deck, groups)
        assert groups.cursor == 3
        await go_back(deck)
        await open_page(deck, "detail")
        page = deck.app.screen.query_one("#page", Sheet)
        await wheel(deck, page)
        assert page.top == 3


async def opened(deck: Deck, dialog: str) -> None:
    """Opens a dialog by clicks alone."""
    if dialog == "Picker":
        await choose(deck, "job.new")
        await press(deck, deck.app.screen.query_one("#field-type"), x=2)
    elif dialog == "Leave":
        deck.backend.embedded = EmbeddedWorker("running", running=1)
        await click(deck, "q quit")
    elif dialog == "PayloadEditor":
        await open_page(deck, "detail")
        await click(deck, "T edit+retry")
    elif dialog == "Palette":
        await click(deck, ": all actions")
    else:
        await choose(deck, DIALOGS[dialog])
    assert deck.here == dialog


DIALOGS = {
    "Confirm": "job.cancel", "Pause": "processing", "Help": "help", "QuickSyncDialog": "quick.sync",
    "CreateJob": "job.new", "CronHealth": "page.health", "Palette": "", "Picker": "", "Leave": "", "PayloadEditor": "",
}  # fmt: skip


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("dialog", DIALOGS)
async def test_a_dialog_is_closed_by_a_click_beside_it_or_on_the_cross_in_its_border_and_does_nothing(
    dialog: str, size: tuple[int, int]
) -> None:
    async with dashboard(sample(), size=size, mouse=True) as deck:
        await opened(deck, dialog)
        calls = list(deck.backend.calls)
        depth = len(deck.app.screen_stack)
        box = deck.app.screen.query_one("#box").region
        await deck.pilot.click(offset=(box.x + 1, box.bottom - 1))
        await deck.pilot.click(offset=(box.x + 1, box.y))
        assert deck.here == dialog
        await click(deck, CROSS)
        assert len(deck.app.screen_stack) == depth - 1
        await go_back(deck)
        await opened(deck, dialog)
        if box.x > 0:
            await deck.pilot.click(offset=(box.x - 1, box.y))
            await deck.pilot.pause()
            assert len(deck.app.screen_stack) == depth - 1
        assert [call for call in deck.backend.calls if call[0] not in {"reveal", "quick_sync"}] == [
            call for call in calls if call[0] not in {"reveal", "quick_sync"}
        ]


async def test_the_second_click_of_two_does_not_close_what_the_first_has_opened() -> None:
    async with dashboard(sample(), size=LARGE, mouse=True) as deck:
        await click(deck, "Q quick sync")
        for chain, left in ((2, "QuickSyncDialog"), (1, "Dashboard")):
            event = Click(None, 0, 0, 0, 0, 1, False, False, False, 0, 0, chain=chain)
            deck.app.screen._forward_event(event)
            await deck.pilot.pause()
            assert deck.here == left


async def test_a_form_that_was_filled_in_is_not_thrown_away_by_one_click_beside_it() -> None:
    async with dashboard(sample(), size=LARGE, mouse=True) as deck:
        await click(deck, "n new")
        await deck.press("tab", "space")
        for x, left in enumerate(("CreateJob", "Dashboard")):
            await deck.pilot.click(offset=(x, 0))
            await deck.pilot.pause()
            assert deck.here == left


@pytest.mark.parametrize(("words", "there"), [
    ("● ON", "Pause"), ("Processing", "Pause"), ("2 workers", "Workers"), ("failed 2 cycles", "CronHealth"),
])  # fmt: skip
async def test_what_the_header_says_leads_to_what_is_behind_it(words: str, there: str) -> None:
    async with dashboard(sample(), mouse=True) as deck:
        await click(deck, words)
        assert deck.here == there


async def test_a_pause_is_ended_from_its_banner_and_from_the_header() -> None:
    backend = sample()
    backend.processing = Processing(enabled=False, paused_reason="MetaCTF is down", paused_at=NOW)
    async with dashboard(backend, mouse=True) as deck:
        for words in ("○ PAUSED", "kept"):
            await click(deck, words)
            assert "Resume Automatic Processing" in deck.screen_text()
            await go_back(deck)


async def test_the_clock_refreshes_and_where_it_says_frozen_goes_on() -> None:
    async with dashboard(sample(), mouse=True) as deck:
        asked = len(deck.backend.requests)
        await click(deck, "12:04:31Z")
        assert len(deck.backend.requests) == asked + 1
        await deck.press("z")
        await click(deck, "FROZEN")
        assert deck.app.poller.frozen_since is None


async def test_the_filter_is_typed_applied_edited_and_cleared_with_the_mouse() -> None:
    async with dashboard(sample(), mouse=True) as deck:
        await choose(deck, "filter")
        await click(deck, "tab type:")
        assert deck.app.dashboard.bar.field.value == "type:"
        await deck.press(*"sync")
        await click(deck, "enter applies")
        assert deck.backend.requests[-1].filter.task_type == "sync"
        await click(deck, "type:sync")
        assert focus(deck) == "filter-input"
        await click(deck, "esc leaves")
        assert focus(deck) == "jobs"
        await click(deck, "esc clears")
        assert deck.backend.requests[-1].filter.task_type is None


async def test_an_earlier_filter_is_recalled_by_a_click_on_what_recalls_it() -> None:
    async with dashboard(sample(), "slash", *"boom", "enter", "escape", "slash", "x", mouse=True) as deck:
        await click(deck, "up recalls")
        assert deck.app.dashboard.bar.field.value == "boom"


async def test_what_is_said_of_marks_and_ranges_ends_them() -> None:
    async with dashboard(failed(5), mouse=True) as deck:
        await choose(deck, "mark.range")
        await deck.pilot.click("#jobs", offset=(20, 3))
        await click(deck, "selecting a range")
        assert len(deck.table.marks) == 3
        await click(deck, "3 marked")
        assert not deck.table.marks


async def test_an_error_that_reads_like_a_hint_of_marks_does_nothing_when_clicked() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, last_error="3 marked, 3 matching jobs selected")])
    async with dashboard(backend, "space", mouse=True) as deck:
        await click(deck, "3 marked")
        assert len(deck.table.marks) == 1


async def test_older_and_newer_bulk_actions_are_behind_the_words_that_say_so() -> None:
    assert (
        action_at("title", [("2 of 3", "muted"), ("  [ older  ] newer", "muted")], 10, "bulk", Situation())
        == "bulk.older"
    )
    assert (
        action_at("title", [("2 of 3", "muted"), ("  [ older  ] newer", "muted")], 19, "bulk", Situation())
        == "bulk.newer"
    )
    assert action_at("title", [("2 of 3", "muted"), ("  [ older  ] newer", "muted")], 1, "bulk", Situation()) is None


async def test_a_hint_of_a_dialog_does_what_its_key_does() -> None:
    async with dashboard(failed(2), size=LARGE, mouse=True) as deck:
        await click(deck, "R retry")
        await click(deck, "y yes")
        assert deck.backend.calls == [("retry", (job_id(1),))]
        await click(deck, "n new")
        await click(deck, "ctrl+y copies")
        assert "Copied" in deck.toasts[-1]


async def test_without_a_mouse_nothing_is_said_of_it() -> None:
    async with dashboard(sample(), size=LARGE) as deck:
        assert "all actions" not in deck.line("keys")
        await deck.press("colon")
        assert CROSS not in deck.screen_text()
        assert "double click" not in deck.screen_text()
        assert not [one for one in deck.app.screen.query_one("#found", Pane).entries if str(one.key).startswith("move")]
