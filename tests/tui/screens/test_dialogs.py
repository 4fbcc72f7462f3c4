"""What all dialogs have in common: nothing in them is cut, and their lists begin with what was meant."""

from __future__ import annotations

import pytest

from jobdeck.core.plugins import Found
from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.screens.dialogs.choosing import Picker
from jobdeck.tui.screens.dialogs.dialog import Hint
from tests.tui.sample import sample
from tests.tui.support import LARGE, SMALL, Deck, dashboard, failed


@pytest.mark.parametrize("width", [60, 80, 200])
async def test_the_keys_beside_the_buttons_are_whole_and_the_one_that_leaves_is_never_missing(width: int) -> None:
    async with dashboard(failed(30), "A", "E", size=(width, 24)) as deck:
        hint = deck.app.screen.query_one(Hint)
        assert hint.region.width >= len(str(hint.content))
        assert str(hint.content).endswith("esc cancels")


def hint_of(deck: Deck) -> str:
    return str(deck.app.screen.query_one(Hint).content)


async def test_a_dialog_says_what_enter_does_where_the_focus_is() -> None:
    async with dashboard(failed(1), "P", size=LARGE) as deck:
        assert hint_of(deck) == "enter next · esc cancels"
        await deck.press("enter", "enter")
        assert hint_of(deck) == "enter Pause · esc cancels"
        await deck.press("enter", "P")
        assert hint_of(deck) == "y yes · enter Cancel · esc no"
        await deck.press("right")
        assert hint_of(deck) == "y yes · enter Resume · esc no"
        await deck.press("left", "enter")
        assert "PAUSED" in deck.line("banner")


async def test_a_dialog_with_a_word_says_what_enter_does_in_each_field() -> None:
    async with dashboard(failed(1), "D", size=LARGE, production=True) as deck:
        assert hint_of(deck) == "enter Cancel · esc no"
        await deck.press("d")
        assert hint_of(deck) == "enter Delete 1 job · esc no"
        await deck.press("up")
        assert hint_of(deck) == "enter next · esc no"


@pytest.mark.parametrize("width", [60, 80, 120])
async def test_the_buttons_of_the_form_are_whole(width: int) -> None:
    async with dashboard(sample(), "n", size=(width, 24)) as deck:
        assert "Cancel esc" in deck.screen_text()


async def test_the_task_type_of_the_form_is_as_wide_as_the_longest_name_or_ends_with_an_ellipsis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jobdeck.tui.form.body.LABELS", (27, 27))
    for width, shown in ((60, "competitor_announceme…"), (80, "competitor_announcement_dispatch")):
        async with dashboard(sample(), "n", "enter", *"announcement", "enter", size=(width, 24)) as deck:
            row = next(line for line in deck.screen_text().splitlines() if "task type" in line)
            assert shown in row
            assert "▾" in row


async def test_a_list_begins_with_what_begins_with_the_typed_words() -> None:
    choices = [Found("lift", "lift the block"), Found("block", "block an address")]
    async with dashboard(failed(1)) as deck:
        await deck.app.push_screen(Picker(Offer("Act", among(choices))))
        await deck.press(*"block")
        picker = deck.app.screen
        assert isinstance(picker, Picker)
        assert [one.key for one in picker.pane.entries] == ["block", "lift"]


async def test_a_name_in_a_list_without_remarks_has_all_the_room_there_is() -> None:
    async with dashboard(failed(1), size=(60, 12)) as deck:
        await deck.app.push_screen(Picker(Offer("Pause", among([Found("a", "Everything (Automatic Processing)")]))))
        await deck.pilot.pause()
        assert "Everything (Automatic Processing)" in deck.screen_text()


async def test_a_list_is_no_taller_than_its_choices() -> None:
    async with dashboard(failed(1), size=SMALL) as deck:
        await deck.app.push_screen(Picker(Offer("Act", among([Found("a", "lift"), Found("b", "block")]))))
        await deck.pilot.pause()
        picker = deck.app.screen
        assert isinstance(picker, Picker)
        assert picker.pane.size.height == 2
        await deck.press(*"lift")
        assert picker.pane.size.height == 2
