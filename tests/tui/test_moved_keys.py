"""Every key can be moved by the id of what it does: then it works where it was moved to, and every text says so."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.binding import Binding
from textual.content import Content
from textual.screen import Screen

import jobdeck.tui
from jobdeck.core.errors import ConfigurationError
from jobdeck.core.model import Processing, Status
from jobdeck.tui import keymap
from jobdeck.tui.actions import ACTIONS, ALL, BY_ID, Scope, key_name
from jobdeck.tui.dialog_keys import TYPED_IN, every
from jobdeck.tui.form.lookup import Offer, among
from jobdeck.tui.screens.acting import Acting
from jobdeck.tui.screens.dialogs.choosing import Palette, Picker
from jobdeck.tui.screens.dialogs.confirm import Confirm, Question
from jobdeck.tui.screens.dialogs.create_job import CreateJob
from jobdeck.tui.screens.dialogs.help import Help
from jobdeck.tui.screens.dialogs.payloads import BulkEdit, PayloadEditor
from jobdeck.tui.screens.dialogs.processing import Pause
from jobdeck.tui.screens.dialogs.questions import Leave
from jobdeck.tui.screens.dialogs.quick_sync import QuickSyncDialog
from jobdeck.tui.screens.dialogs.saved import ChooseColumns, NameFilter
from jobdeck.tui.screens.dialogs.shift import LeaveNote, MuteErrors
from jobdeck.tui.screens.dialogs.type_settings import TypeSettings
from jobdeck.tui.screens.pages.table import AskForTexts
from tests.tui.fake import NOW, FakeBackend, lost, make_job, minutes
from tests.tui.figures_sample import type_line
from tests.tui.sample import sample, trend
from tests.tui.support import LARGE, PAGE_ACTION, PLUGIN_PAGE, SMALL, Deck, dashboard, failed

DIALOG_KEYS = tuple(every().values())
TABS = dict(zip([action.id for action in ACTIONS if action.id.startswith("tab.")], "!@#$%&", strict=True))
FREE = (
    *(f"f{number}" for number in range(1, 25)),
    *(f"ctrl+f{number}" for number in range(1, 25)),
    *(f"ctrl+{letter}" for letter in "abefgklorvwxz"),
)
"""Keys that nothing has."""
STAYING = frozenset({"tab", "shift+tab", "ctrl+c", "super+c", "ctrl+q"})
"""Keys that Textual binds itself: moving the focus, copying a selection, quitting."""
FIELDS = frozenset({"Segments", "PickField"})
"""What is filled in: its keys are those of the field in focus, as letters are in a line to type in."""
ALSO_WORDS = frozenset({*"aAdhs-+123456", "left", "right", "up", "down", "tab", "home", "end", "space", "enter"})
"""Keys that also occur as words or digits; only the text beside a key shows that the key is meant."""
SAID = (r"up recalls", r"tab type:", r"or enter queues", r"press A\b", r"[1-6] (All|Pend|Run|Succ|Fail|Canc)", r"1 … 6",
        r"\bA (does|again)")  # fmt: skip


def everything_moved() -> dict[str, str]:
    """Each id with a key of its own, none of which it or another one of its place has had."""
    taken: dict[str, set[str]] = {}
    moved = dict(TABS)
    places: list[tuple[str, frozenset[str]]] = [(action.id, frozenset(action.scopes)) for action in ACTIONS]
    places += [(key.id, frozenset({f"dialog {key.dialog}"})) for key in DIALOG_KEYS]
    for wanted, where in places:
        if wanted not in moved:
            used = {key for place in where for key in taken.get(place, ())}
            moved[wanted] = next(key for key in FREE if key not in used)
            for place in where:
                taken.setdefault(place, set()).add(moved[wanted])
    return moved


MOVED = keymap.read(everything_moved())
USUAL = [*(action.keys for action in ACTIONS), *(key.keys for key in DIALOG_KEYS)]
OLD = {key_name(key) for keys in USUAL for key in keys} | {"⏎"}


def old_names(text: str) -> set[str]:
    """What a text says of keys that are moved."""
    words = {word.strip(",;:.()") for word in re.sub(r"[│─╭╮╰╯✕]", " ", text).split()}
    words |= {word.lower() for word in words if len(word) > 1}
    found = words & (OLD - ALSO_WORDS)
    found |= {said for said in SAID if re.search(said, text)}
    for action in ACTIONS:
        for key in () if action.id in TABS else action.keys:
            for told in (action.label, action.help[:12]):
                phrase = rf"(?:^|[\s│]){re.escape(key_name(key))} +{re.escape(told)}"
                found |= {f"{key} {told}"} if re.search(phrase, text) else set()
    return found


def dialogs(deck: Deck) -> Iterator[tuple[str, Screen[Any]]]:
    """Each dialog that there is, and its name in the table."""
    creating, job = deck.backend.creating, deck.backend.jobs[0]
    question = Question("Resume Automatic Processing", Content("Paused."), "Resume")
    yield "confirm", Confirm(question)
    yield "confirm", Confirm(replace(question, word="resume"))
    yield "pause", Pause(3)
    yield "leave", Leave(1, cycle=False, patience=30)
    yield "palette", Palette("list", deck.app.dashboard.situation())
    yield "help", Help("list", deck.app.dashboard.situation())
    yield "sync", QuickSyncDialog(creating)
    yield "picker", Picker(Offer("Coach", among(())))
    yield "create", CreateJob(creating)
    yield "create", CreateJob(creating, job=job, editing=True)
    yield "payload", PayloadEditor(job)
    yield "type", TypeSettings(type_line("game_platform_sync"))
    yield "name_filter", NameFilter("status:failed")
    yield "columns", ChooseColumns("all", ("id", "task"))
    yield "note", LeaveNote()
    yield "mute", MuteErrors(trend(job, "a1b2", "vendor"))
    yield "row", AskForTexts("close the order", PAGE_ACTION, ("1", "open"))
    yield "bulk_edit", BulkEdit(deck.backend.bulk.choose_jobs(deck.backend.jobs))


def text_of(deck: Deck) -> str:
    """The text of the screen, or of a dialog's box."""
    lines = deck.screen_text().split("\n")
    for box in deck.app.screen.query("#box"):
        x, y, width, height = box.region
        lines = [line[x : x + width] for line in lines[y : y + height]]
    return "\n".join(lines)


async def whole_text(deck: Deck) -> str:
    """The same, and what there is further down."""
    texts: list[str] = []
    while not texts or texts[-1] != text_of(deck):
        texts.append(text_of(deck))
        if isinstance(deck.app.screen, Acting):
            deck.app.screen.action_do("move.half_down")
        elif isinstance(deck.app.screen, Help):
            deck.app.screen.action_scroll(10)
        elif isinstance(deck.app.screen, Palette):
            deck.app.screen.action_move(8)
        await deck.pilot.pause()
    return "\n".join(texts)


async def pages(deck: Deck) -> AsyncIterator[tuple[Scope, str]]:
    """Opens each page and returns its text; of the playbook, a document, only the lines around it."""
    for scope in sorted(ALL):
        if scope == "detail":
            deck.app.open_job(next(iter(deck.backend.details)))
        elif scope == "table":
            deck.app.open_table(PLUGIN_PAGE)
        elif scope != "list":
            deck.app.open_page(scope)
        await deck.pilot.pause()
        if scope == "playbook":
            lines = text_of(deck).split("\n")
            yield scope, f"{lines[0]}\n{lines[-1]}"
        else:
            yield scope, await whole_text(deck)
        if scope != "list":
            deck.app.pop_screen()
            await deck.pilot.pause()


def busy() -> FakeBackend:
    backend = sample()
    backend.jobs[0] = replace(backend.jobs[0], lease_expires_at=NOW - minutes(9))
    backend.bulk.start(backend.bulk.choose_jobs(backend.jobs).bulk.id, "delete")
    return backend


@pytest.mark.parametrize(
    ("size", "mouse"),
    [
        (SMALL, True),
        pytest.param(LARGE, False, marks=pytest.mark.slow),
        pytest.param(SMALL, False, marks=pytest.mark.slow),
        pytest.param(LARGE, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
async def test_when_every_key_is_moved_no_page_and_no_dialog_names_an_old_one(
    size: tuple[int, int], mouse: bool
) -> None:
    async with dashboard(busy(), size=size, mouse=mouse, keymap=MOVED) as deck:
        async for scope, text in pages(deck):
            assert not old_names(text), f"{scope}\n{text}"
        listed = [*dialogs(deck)]
        for scope in sorted(ALL):
            now = deck.app.dashboard.situation()
            listed += [("help", Help(scope, now)), ("palette", Palette(scope, now))]
        for name, dialog in listed:
            deck.app.push_screen(dialog)
            await deck.pilot.pause()
            text = await whole_text(deck)
            assert not old_names(text), f"{name}\n{text}"
            deck.app.pop_screen()


async def take(deck: Deck, *actions: str) -> None:
    for action_id in actions:
        deck.app.dashboard.action_do(action_id)
        await deck.pilot.pause()


STATES: dict[str, tuple[str, ...]] = {
    "a range": ("mark.range",),
    "marks": ("mark.all",),
    "all that match": ("mark.matching",),
    "another order": ("sort",),
    "an edited filter": ("filter",),
    "a new filter": (),
    "a filter that nothing matches": (),
    "a job that left the queue": (),
    "an empty queue": (),
    "a pause": (),
    "a loss": (),
    "a small terminal": (),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.slow
async def test_when_every_key_is_moved_no_state_of_the_list_names_an_old_one(state: str) -> None:
    backend = busy()
    if state == "a job that left the queue":
        backend = FakeBackend([make_job(1, Status.SUCCEEDED, removed=True)])
    elif state == "an empty queue":
        backend = FakeBackend()
    elif state == "a pause":
        backend.processing = Processing(enabled=False, paused_reason="MetaCTF is down", paused_at=NOW)
    async with dashboard(backend, size=(50, 10) if "small" in state else LARGE, keymap=MOVED) as deck:
        if "filter" in state:
            await take(deck, "filter")
            if state != "a new filter":
                await deck.press(*"xyzzy", *(["enter"] if "nothing" in state else []))
        elif state == "a job that left the queue":
            await take(deck, "tab.succeeded", "job.cancel")
        elif state == "a loss":
            backend.failure = lost()
            await deck.refresh()
        await take(deck, *STATES[state]) if "filter" not in state else None
        said = "\n".join([deck.screen_text(), *deck.toasts])
        assert not old_names(said), said
        await deck.pilot.resize_terminal(*SMALL)
        assert not old_names(deck.screen_text()), deck.screen_text()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_when_every_key_is_moved_a_form_that_is_wrong_or_half_filled_in_names_no_old_one(
    size: tuple[int, int],
) -> None:
    async with dashboard(busy(), size=size, keymap=MOVED) as deck:
        dialog = CreateJob(deck.backend.creating)
        deck.app.push_screen(dialog)
        await deck.pilot.pause()
        dialog.form.set_text("at", "soon", NOW)
        dialog.redraw()
        dialog.action_leave()
        text = text_of(deck)
        assert "goes to the first" in text
        assert "again to discard" in text
        assert not old_names(text), text


# The new keys


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Deck], list[str]]:
    """Keeps what a key would do from being done, and what it is."""

    def listen(deck: Deck) -> list[str]:
        found: list[str] = []

        async def run_action(action: str, *_namespaces: object) -> bool:
            found.append(action)
            return True

        monkeypatch.setattr(deck.app, "run_action", run_action)
        return found

    return listen


@pytest.mark.slow
async def test_every_moved_key_works_on_every_page_and_the_old_one_does_not(
    asked: Callable[[Deck], list[str]],
) -> None:
    async with dashboard(busy(), keymap=MOVED) as deck:
        found = asked(deck)
        async for scope, _ in pages(deck):
            actions = [action for action in ACTIONS if scope in action.scopes]
            for action in actions:
                await deck.press(*MOVED[action.id])
            assert found == [f"do({action.id!r})" for action in actions], scope
            found.clear()
            await deck.press(*(key for action in actions for key in action.keys))
            assert [one for one in found if one.startswith("do(")] == [], scope
            found.clear()


@pytest.mark.slow
async def test_every_moved_key_works_in_every_dialog_and_the_old_one_does_not(
    asked: Callable[[Deck], list[str]],
) -> None:
    async with dashboard(busy(), size=LARGE, keymap=MOVED) as deck:
        found = asked(deck)
        shown = set()
        for name, dialog in dialogs(deck):
            deck.app.push_screen(dialog)
            await deck.pilot.pause()
            await check(deck, name, found)
            shown.add(name)
            deck.app.pop_screen()
            await deck.pilot.pause()
        await take(deck, "filter")
        await check(deck, "filter", found)
        assert shown | {"filter"} == {key.dialog for key in DIALOG_KEYS}


async def check(deck: Deck, name: str, found: list[str]) -> None:
    keys = [key for key in DIALOG_KEYS if key.dialog == name]
    for key in keys:
        await deck.press(*MOVED[key.id])
    assert found == [key.do for key in keys], name
    found.clear()
    await deck.press(*(old for key in keys for old in key.keys if old not in {"enter", "tab"}))
    assert not set(found) & {key.do for key in keys}, name
    found.clear()


@pytest.mark.slow
async def test_a_tab_is_called_by_the_key_it_was_moved_to() -> None:
    async with dashboard(failed(5), size=LARGE, keymap=keymap.read({"tab.failed": "F"})) as deck:
        assert "F Failed 5" in deck.line("tabs")
        await deck.press("F")
        assert deck.backend.requests[-1].filter.status is Status.FAILED
        await deck.press("question_mark")
        assert "1 2 3 4 F 6" in deck.screen_text()
        await deck.press("escape")
        await deck.pilot.click("#tabs", offset=(deck.line("tabs").index("F Failed"), 0))
        assert deck.backend.requests[-1].filter.status is Status.FAILED


# What there is to move


def classes() -> Iterator[type]:
    """Every class of the dashboard."""
    for module in pkgutil.walk_packages(jobdeck.tui.__path__, "jobdeck.tui."):
        if module.name != "jobdeck.tui.__main__":
            for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if found.__module__ == module.name:
                    yield found


def test_no_binding_is_without_an_id_but_those_of_textual_and_of_what_is_filled_in() -> None:
    seen = 0
    for found in set(classes()):
        if issubclass(found, Screen | App):
            for key, bound in found._merge_bindings().key_to_bindings.items():
                assert key in STAYING or all(one.id for one in bound), (found, key)
                seen += 1
        elif "BINDINGS" in vars(found):
            named = all(isinstance(one, Binding) and one.id for one in vars(found)["BINDINGS"])
            assert named or found.__name__ in FIELDS, found
    assert seen > len(ACTIONS)


def test_the_id_of_a_dialogs_key_is_the_id_of_nothing_else() -> None:
    ids = [key.id for key in DIALOG_KEYS]
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(BY_ID)


def test_no_key_has_two_meanings_in_a_dialog() -> None:
    keys = [(one.dialog, key) for one in DIALOG_KEYS for key in one.keys]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("table", "words"), [
    ({"confirm.yse": "x"}, "unknown action confirm.yse"),
    ({"confirm.yes": "h"}, "h to confirm.yes and to confirm.previous. A key can do only one thing in a dialog"),
    ({"palette.close": "x"}, "palette.close the key x, which the dialog needs for fields and buttons"),
    ({"create.copy": "/"}, "create.copy the key /, which"),
    ({"picker.down": "left"}, "picker.down the key left, which"),
    ({"confirm.yes": "enter"}, "confirm.yes the key enter, which"),
    ({"leave.close": "tab"}, "leave.close the key tab, which"),
    ({"help.close": "ctrl+c"}, "ctrl+c, which always quits"),
    ({"quit": "ctrl+q"}, "ctrl+q, which always quits"),
])  # fmt: skip
def test_a_key_that_cannot_be_moved_there_is_refused_with_the_reason(table: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError, match="keys") as refused:
        keymap.read(table)
    assert words in str(refused.value)


def test_what_a_dialog_has_for_a_key_already_can_be_given_to_it_among_others() -> None:
    assert keymap.read({"filter.complete": "tab ctrl+g", "sync.take": "enter f5", "confirm.yes": "j y",
                        "confirm.next": "right"})  # fmt: skip


def test_dialogs_that_are_typed_in_have_no_letter_for_a_key() -> None:
    for key in DIALOG_KEYS:
        if key.dialog in TYPED_IN:
            assert not [one for one in key.keys if len(one) == 1]


def test_the_operators_page_has_the_id_and_the_keys_of_everything_in_a_dialog() -> None:
    root = Path(__file__).parents[2]
    pages = (root / "docs" / "operations.md", root / "core" / "programme" / "playbook.md")
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    for key in DIALOG_KEYS:
        assert f"`{key.id}` {' '.join(key_name(one) for one in key.keys)}" in text
