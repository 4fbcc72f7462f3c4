"""The palette, made of the table of actions; and keys that the configuration file moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobdeck.core import settings
from jobdeck.core.errors import ConfigurationError
from jobdeck.tui import keymap
from jobdeck.tui.actions import ACTIONS
from jobdeck.tui.actions import offered as all_offered
from jobdeck.tui.screens.dialogs.choosing import LEFT_OUT, NEW, matching
from jobdeck.tui.screens.dialogs.confirm import Confirm
from jobdeck.tui.widgets.pane import Pane
from tests.tui.fake import NOW, job_id, minutes
from tests.tui.sample import sample
from tests.tui.support import LARGE, Deck, dashboard, failed, shown

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
async def test_it_lists_the_actions_of_the_page_each_with_its_key(key: str) -> None:
    async with dashboard(sample(), key, size=LARGE) as deck:
        listed = {text.split("  ")[0].strip(): text for text in lines_of(deck)}
        for label, shown in (("retry", "R"), ("cron health", "h"), ("freeze", "z"), ("sort", "s"), ("filter", "/")):
            assert listed[label].removeprefix(f" {label}").split()[0] == shown


def lines_of(deck: Deck) -> list[str]:
    """Everything the palette offers, seen or not."""
    return ["".join(text for text, _ in one.spans) for one in deck.app.screen.query_one("#found", Pane).entries]


@pytest.mark.parametrize("page", [(), ("m",), ("h",), ("enter",)])
async def test_every_task_type_can_be_created_by_its_name_from_every_page(page: tuple[str, ...]) -> None:
    async with dashboard(sample(), *page, "colon", *"sms_digest", "enter") as deck:
        assert deck.here == "CreateJob"
        assert "sms_digest_processor" in deck.screen_text()


async def test_from_a_page_the_palette_offers_what_the_list_does_and_nothing_that_takes_a_job_out_of_sight() -> None:
    async with dashboard(sample(), "m", "colon", *"quick", "enter") as deck:
        assert deck.here == "QuickSyncDialog"
        await deck.press("escape")
        assert deck.here == "Workers"
        await deck.press("colon", *"trash")
        assert "No matching action." in deck.screen_text()


async def test_every_action_can_be_found_by_its_label() -> None:
    async with dashboard(sample(), "colon") as deck:
        offered = deck.app.screen.actions  # type: ignore[attr-defined]
        wanted = {action.id for action in all_offered("list") if not action.id.startswith(LEFT_OUT)}
        assert {action.id for action in offered if not action.id.startswith(NEW)} == wanted
        for action in offered:
            assert action in matching(offered, action.label.lower().split())


async def test_a_label_of_two_words_is_found_by_the_one_word_they_make() -> None:
    async with dashboard(sample(), "colon", *"cleanup") as deck:
        assert any(line.startswith(" clean up") for line in lines_of(deck))


async def test_typing_narrows_it_and_enter_does_it() -> None:
    async with dashboard(sample(), "colon", *"cron", "enter") as deck:
        assert deck.here == "CronHealth"


async def test_it_acts_on_what_was_under_the_cursor() -> None:
    async with dashboard(failed(3), "j", "colon", *"retry", "enter", "y") as deck:
        assert deck.backend.calls == [("retry", (job_id(2),))]


async def test_the_arrows_choose_and_esc_does_nothing() -> None:
    async with dashboard(failed(1), "colon", "down", "down", "up", "escape") as deck:
        assert deck.here == "Dashboard"
        assert deck.backend.calls == []


async def test_what_cannot_be_done_says_why_and_enter_does_not_do_it() -> None:
    backend = failed(1)
    backend.read_only = True
    async with dashboard(backend, "colon", *"delete") as deck:
        assert "This dashboard was started with --read-only." in deck.screen_text()
        await deck.press("enter")
        assert deck.here == "Palette"
        assert backend.calls == []


async def test_words_that_match_nothing_say_so() -> None:
    assert "No matching action." in await shown(failed(1), "colon", *"xyzzy", "enter")


def test_a_label_that_begins_with_the_word_comes_first() -> None:
    listed = [action for action in ACTIONS if "list" in action.scopes]
    assert matching(listed, ["pause"])[0].id == "processing"
    assert matching(listed, ["log"])[0].id == "page.log"


# Keys that are moved


async def test_a_moved_key_does_it_the_old_one_does_not_and_every_text_names_the_new_one() -> None:
    moved = keymap.read({"job.retry": "J f5", "page.health": "ctrl+g"})
    async with dashboard(failed(1), "R", size=LARGE, keymap=moved) as deck:
        assert deck.here == "Dashboard"
        assert "J retry" in deck.line("keys")
        assert "ctrl+g cron health" in deck.line("keys")
        await deck.press("question_mark")
        assert "J f5" in deck.screen_text()
        await deck.press("escape", "colon", *"retry")
        assert "retry             J f5" in deck.screen_text()
        for key in ("J", "f5"):
            await deck.press("escape", key)
            assert deck.here == "Confirm"


async def test_sentences_name_the_moved_key_too() -> None:
    backend = sample()
    backend.jobs[0] = replace(backend.jobs[0], lease_expires_at=NOW - minutes(9))
    moved = keymap.read({"stuck.cleanup": "ctrl+k", "errors.canary": "f6", "job.reveal": "f7"})
    async with dashboard(backend, "h", size=LARGE, keymap=moved) as deck:
        assert "ctrl+k cleans up." in deck.screen_text()
        await deck.press("escape", "e", "j", "F")
        dialog = deck.app.screen
        assert isinstance(dialog, Confirm)
        assert "Press f6 to retry one first." in dialog.question.body.plain
        await deck.press("escape", "escape", "enter", "f7")
        assert "PERSONAL DATA SHOWN, f7 hides it" in deck.screen_text()


async def test_a_moved_key_works_on_every_page_that_has_the_action() -> None:
    async with dashboard(sample(), keymap=keymap.read({"page.errors": "ctrl+e", "back": "backspace"})) as deck:
        for page in ("h", "m", "o"):
            await deck.press(page, "ctrl+e")
            assert deck.here == "Errors"
            await deck.press("backspace")
            if deck.here != "Dashboard":
                await deck.press("backspace")
        assert deck.here == "Dashboard"


async def test_two_keys_can_change_places() -> None:
    async with dashboard(failed(1), "C", keymap=keymap.read({"job.retry": "C", "job.cancel": "R"})) as deck:
        assert "Retry 1 job" in deck.screen_text()
        await deck.press("escape", "R")
        assert "Cancel 1 job" in deck.screen_text()


@pytest.mark.parametrize(("table", "words"), [
    ({"nope": "x"}, "unknown action nope"),
    ({"retry": "x"}, "Did you mean job.retry?"),
    ({"job.retry": "C"}, "C to job.retry and to job.cancel"),
    ({"job.retry": ""}, "no key"),
    ({"job.retry": "f99"}, "the unknown key f99"),
    ({"job.retry": "hyper+x"}, "the unknown key hyper+x"),
    ({"errors.rest": "R"}, "R to errors.canary and to errors.rest"),
])  # fmt: skip
def test_what_cannot_be_a_key_is_refused_with_the_reason(table: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match="keys") as refused:
        keymap.read(table)
    assert words in str(refused.value)


@pytest.mark.parametrize(("word", "key"), [
    ("/", "slash"), (";", "semicolon"), (",", "comma"), ("[", "left_square_bracket"), ("pgdn", "pagedown"),
    ("esc", "escape"), ("ctrl+k", "ctrl+k"), ("é", "é"),
])  # fmt: skip
def test_keys_are_named_as_a_person_writes_them(word: str, key: str) -> None:
    assert keymap._key(word, "x") == key


def test_the_table_of_actions_has_no_key_twice_on_any_page() -> None:
    assert keymap.read({}) == {}


def config(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("JOBDECK_CONFIG", str(path))


def test_the_configuration_file_has_a_table_of_keys_beside_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config(tmp_path, 'JOBDECK_ENV = "staging"\n[keys]\n"job.retry" = "x"\n', monkeypatch)
    assert settings.key_bindings() == {"job.retry": "x"}
    assert settings.load().environment == "staging"


def test_a_table_of_keys_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config(tmp_path, "[keys]\nquit = 3\n", monkeypatch)
    with pytest.raises(ConfigurationError, match=r"\[keys\] in .* must be a table of strings"):
        settings.key_bindings()


def test_without_a_configuration_file_no_key_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert settings.key_bindings() == {}


@pytest.mark.parametrize(("bottom", "top"), [("G", "g"), ("end", "home")])
async def test_the_help_goes_to_both_its_ends_by_the_keys_it_names(bottom: str, top: str) -> None:
    async with dashboard(sample(), "question_mark") as deck:
        first = deck.screen_text()
        await deck.press(bottom)
        box = deck.app.screen.query_one("#box")
        assert box.scroll_y == box.max_scroll_y > 0
        await deck.press(top)
        assert deck.screen_text() == first
