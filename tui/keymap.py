"""The section `[keys]` of the configuration file: new keys for actions and dialog keys, by id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.binding import Binding
from textual.keys import Keys

from jobdeck.core.errors import ConfigurationError
from jobdeck.tui import dialog_keys
from jobdeck.tui.actions import ACTIONS, KEY_NAMES, key_name, offered
from jobdeck.tui.dialog_keys import EDITING, FIXED, TYPED_IN

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {name: key for key, name in KEY_NAMES.items()}
MODIFIERS = ("ctrl+", "shift+", "alt+")
KNOWN = frozenset(key.value for key in Keys)
LEAVING = frozenset({"ctrl+c", "ctrl+q"})


def read(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Parses the section: the configured ids with their keys in Textual's names.

    Raises:
        ConfigurationError: an id or a key is unknown, two actions of one page or dialog would share a key, or a key is
            needed by a dialog's fields and buttons, or by Textual to quit.
    """
    moved = {action_id: tuple(_key(word, action_id) for word in keys.split()) for action_id, keys in table.items()}
    for action_id, keys in moved.items():
        if action_id not in _known():
            raise ConfigurationError(f"[keys]: unknown action {action_id}. {_nearest(action_id)}")
        if not keys:
            raise ConfigurationError(f"[keys] gives {action_id} no key. Give it one, or remove the line.")
    _refuse_needed(moved)
    _refuse_clashes(moved)
    return moved


def _known() -> list[str]:
    return [*(action.id for action in offered()), *dialog_keys.every()]


def _key(word: str, action_id: str) -> str:
    if word in NAMES:
        return NAMES[word]
    if len(word) == 1:
        return "comma" if word == "," else next(iter(Binding.make_bindings([Binding(word, "")]))).key
    prefix = next((modifier for modifier in MODIFIERS if word.startswith(modifier)), "")
    rest = word.removeprefix(prefix)
    if word in KNOWN or rest in KNOWN or (prefix and len(rest) == 1):
        return word
    raise ConfigurationError(
        f"[keys] gives {action_id} the unknown key {word}. Keys are characters and names such as "
        "ctrl+r, f5, space, enter, tab, up, pgdn."
    )


def _refuse_needed(moved: Mapping[str, tuple[str, ...]]) -> None:
    in_dialogs = dialog_keys.every()
    for wanted, keys in moved.items():
        dialog = in_dialogs[wanted].dialog if wanted in in_dialogs else None
        for key in keys:
            if key in LEAVING:
                raise ConfigurationError(f"[keys] gives {wanted} the key {key}, which always quits. Choose another.")
            if dialog and _is_needed(key, dialog) and key not in in_dialogs[wanted].keys:
                raise ConfigurationError(
                    f"[keys] gives {wanted} the key {key_name(key)}, which the dialog needs for fields and buttons. "
                    "Choose another key, such as ctrl+g or f5."
                )


def _is_needed(key: str, dialog: str) -> bool:
    """Whether the buttons or fields of a dialog need a key, so that nothing else can use it."""
    return key in FIXED or (dialog in TYPED_IN and (key in EDITING or len(key_name(key)) == 1))


def _refuse_clashes(moved: Mapping[str, tuple[str, ...]]) -> None:
    taken: dict[tuple[str, str], str] = {}
    places: list[tuple[str, str, tuple[str, ...]]]
    places = [(scope, action.id, action.keys) for action in offered() for scope in action.scopes]
    in_dialogs = dialog_keys.every()
    places += [(f"dialog {key.dialog}", key.id, key.keys) for key in in_dialogs.values()]
    for place, wanted, usual in places:
        for key in moved.get(wanted, usual):
            other = taken.setdefault((place, key), wanted)
            if other != wanted:
                where = "in a dialog" if wanted in in_dialogs else "on a page"
                raise ConfigurationError(
                    f"[keys] gives {key_name(key)} to {other} and to {wanted}. "
                    f"A key can do only one thing {where}; change the other one as well."
                )


def _nearest(action_id: str) -> str:
    word = action_id.rpartition(".")[2]
    near = [known for known in _known() if word and word in known]
    return f"Did you mean {near[0]}?" if near else f"An example is {ACTIONS[0].id}; the help has all actions."
