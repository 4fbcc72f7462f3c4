"""What is typed faster than the screen follows: every key reaches what it was meant for, in its order."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from textual import events
from textual.widgets import Input

from jobdeck.core.model import Status
from jobdeck.tui.app import JobdeckApp
from jobdeck.tui.form.widgets import PickField
from jobdeck.tui.terminal import type_ahead
from jobdeck.tui.terminal.type_ahead import TypeAhead
from tests.support.waiting import becomes
from tests.tui.fake import FakeBackend, lost, make_job
from tests.tui.support import Deck, Held, dashboard, failed, make_app

NAMES = {"\r": "enter", "\x1b": "escape", " ": "space", ",": "comma", ":": "colon", "/": "slash", "\t": "tab"}


def type_at_once(app: JobdeckApp, text: str) -> None:
    """All keys lie in the app's queue before it comes to the first of them, as when one packet brings them."""
    for character in text:
        app.post_message(events.Key(NAMES.get(character, character), character))


async def test_what_is_typed_before_there_is_a_screen_locks_no_key() -> None:
    app = make_app(failed(2))
    await app._typed.take(events.Key("j", "j"))
    async with app.run_test() as pilot:
        await pilot.pause()
        await pilot.press("j")
        assert app.dashboard.table.cursor == 1


async def settle(deck: Deck) -> None:
    while deck.app._typed._busy:
        await deck.pilot.pause()
    await deck.pilot.pause()
    await deck.pilot.pause()


@pytest.mark.slow
async def test_the_word_typed_right_behind_the_key_that_asks_for_it_is_complete() -> None:
    backend = failed(40)
    async with dashboard(backend, "a") as deck:
        type_at_once(deck.app, "Ddelete\r")
        await settle(deck)
        assert [call[0] for call in backend.calls] == ["delete"]
        assert backend.jobs == []


@pytest.mark.slow
async def test_the_word_typed_letter_by_letter_is_complete_as_well() -> None:
    backend = failed(40)
    async with dashboard(backend, "a", "D", *"delete", "enter") as deck:
        await settle(deck)
        assert [call[0] for call in backend.calls] == ["delete"]


async def test_while_all_that_match_are_being_chosen_no_question_is_about_the_job_under_the_cursor() -> None:
    async with dashboard(failed(5)) as deck:
        deck.app.operations.bulk.choosing = True
        for key in "RCD":
            await deck.press(key)
            assert deck.here == "Dashboard"
            assert "are being selected" in deck.toasts[-1]


@pytest.mark.slow
async def test_a_reason_typed_right_behind_p_is_the_reason_and_none_of_its_letters_is_a_key_of_the_list() -> None:
    backend = failed(3)
    async with dashboard(backend) as deck:
        type_at_once(deck.app, "PWe Cannot Reach MetaCTF, Quit\r2h\r\r")
        await settle(deck)
        assert backend.calls == [("pause", "We Cannot Reach MetaCTF, Quit", timedelta(hours=2))]
        assert deck.here == "Dashboard"


@pytest.mark.slow
async def test_a_filter_typed_right_behind_the_slash_is_the_filter() -> None:
    backend = FakeBackend([make_job(1), make_job(2, Status.FAILED, task_type="sms_digest_processor")])
    async with dashboard(backend) as deck:
        type_at_once(deck.app, "/type:sms\r")
        await settle(deck)
        assert deck.app.dashboard.filter_text == "type:sms"
        assert [job.task_type for job in deck.table.jobs] == ["sms_digest_processor"]
        assert backend.calls == []


@pytest.mark.slow
async def test_keys_behind_a_filter_reach_the_list_again() -> None:
    async with dashboard(failed(5)) as deck:
        type_at_once(deck.app, "/boom\rjj /x\x1bj")
        await settle(deck)
        assert deck.app.dashboard.filter_text == "boom"
        assert deck.table.cursor == 4
        assert len(deck.table.marks) == 1


@pytest.mark.slow
async def test_a_word_typed_into_a_list_to_choose_from_is_the_word() -> None:
    async with dashboard(failed(1)) as deck:
        type_at_once(deck.app, "nannounce\r\x1b\x1b\x1b")
        await settle(deck)
        assert deck.here == "Dashboard"
        type_at_once(deck.app, "nannounce\r")
        await settle(deck)
        assert deck.app.screen.query_one("#field-type", PickField).label == "competitor_announcement_dispatch"


async def test_a_paste_right_behind_the_slash_goes_into_the_line_too() -> None:
    async with dashboard(failed(3)) as deck:
        type_at_once(deck.app, "/x")
        deck.app.post_message(events.Paste("type:sms"))
        type_at_once(deck.app, "y")
        await settle(deck)
        assert deck.app.query_one("#filter-input", Input).value == "xtype:smsy"


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "calls"), [("Dy", 1), ("D\x1b", 0), ("D\r", 0), ("D\x1bjDy", 1), ("DyDyDy", 3)])
async def test_an_answer_typed_right_behind_the_question_is_the_answer_to_it(keys: str, calls: int) -> None:
    backend = failed(5)
    async with dashboard(backend) as deck:
        first = deck.table.current
        type_at_once(deck.app, keys)
        await settle(deck)
        assert [call[0] for call in backend.calls] == ["delete"] * calls
        assert deck.here == "Dashboard"
        assert (first in backend.jobs) == (not calls or "j" in keys)


@pytest.mark.slow
async def test_keys_reach_the_page_that_the_key_before_them_opened() -> None:
    async with dashboard(failed(5)) as deck:
        type_at_once(deck.app, "jj\rq?\x1beq/k2\r")
        await settle(deck)
        assert deck.here == "Dashboard"
        assert deck.app.dashboard.filter_text == "k2"


async def test_a_key_whose_way_is_cut_off_holds_the_next_ones_back_only_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later, due = JobdeckApp.later, []

    def noting(app: JobdeckApp, seconds: float, call: Callable[[], Awaitable[None]]) -> TimerHandle:
        if seconds == type_ahead.PATIENCE:
            due.append(call)
        return later(app, seconds, call)

    monkeypatch.setattr(JobdeckApp, "later", noting)
    monkeypatch.setattr(type_ahead, "PATIENCE", 3600.0)
    monkeypatch.setattr(TypeAhead, "_follow", lambda *_, **__: None)
    async with dashboard(failed(5)) as deck:
        type_at_once(deck.app, "jj")
        await becomes(lambda: deck.table.cursor == 1, "the effect of the first key")
        await deck.pilot.pause()
        assert deck.table.cursor == 1
        await due[-1]()
        await becomes(lambda: deck.table.cursor == 2, "the effect of the second key")


@pytest.mark.slow
async def test_what_is_typed_for_a_dialog_that_opens_late_reaches_it_and_is_no_command() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, payload={"note": "kim@example.org"})])
    held = Held()
    async with dashboard(backend, background=held) as deck:
        held.holding = True
        type_at_once(deck.app, "NDyq")
        await becomes(lambda: bool(held.kept), "the wish to see the payload")
        await deck.pilot.pause()
        assert deck.here == "Dashboard"
        held.holding = False
        held.let_all_go()
        await settle(deck)
        assert deck.here in {"CreateJob", "Picker"}
        assert [call[0] for call in backend.calls] == ["reveal"]


async def test_what_is_typed_for_a_dialog_that_does_not_open_is_dropped() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, payload={"note": "kim@example.org"})])
    held = Held()
    async with dashboard(backend, background=held) as deck:
        held.holding = True
        type_at_once(deck.app, "NDy")
        await becomes(lambda: bool(held.kept), "the wish to see the payload")
        backend.failure = lost()
        held.holding = False
        held.let_all_go()
        await settle(deck)
        assert deck.here == "Dashboard"
        assert "delete" not in [call[0] for call in backend.calls]
        backend.failure = None
        type_at_once(deck.app, ":")
        await settle(deck)
        assert deck.here == "Palette"


async def test_ctrl_c_leaves_while_a_dialog_is_awaited() -> None:
    backend = FakeBackend([make_job(1, Status.FAILED, payload={"note": "kim@example.org"})])
    held = Held()
    async with dashboard(backend, background=held) as deck:
        held.holding = True
        type_at_once(deck.app, "N")
        await becomes(lambda: bool(held.kept), "the wish to see the payload")
        deck.app.post_message(events.Key("ctrl+c", None))
        await becomes(lambda: deck.app._exit, "the end of the dashboard")
