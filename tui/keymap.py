"""Keys that the configuration file moves: `[keys]`, an action's id on the left, keys on the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.binding import Binding
from textual.keys import Keys

from core.errors import ConfigurationError
from tui.actions import ACTIONS, BY_ID, KEY_NAMES, Action

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = {name: key for key, name in KEY_NAMES.items()}
MODIFIERS = ("ctrl+", "shift+", "alt+")
KNOWN = frozenset(key.value for key in Keys)


def read(table: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Reads the table: each moved action with its keys, as Textual names them.

    Raises:
        ConfigurationError: an action or a key is unknown, or two actions of one page would share a key.
    """
    moved = {action_id: tuple(_key(word, action_id) for word in keys.split()) for action_id, keys in table.items()}
    for action_id, keys in moved.items():
        if action_id not in BY_ID:
            raise ConfigurationError(f"[keys] has no action {action_id}. {_nearest(action_id)}")
        if not keys:
            raise ConfigurationError(f"[keys] gives {action_id} no key. Name at least one, or leave the line out.")
    _refuse_clashes(moved)
    return moved


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
        f"[keys] gives {action_id} the key {word}, which there is not. Keys are characters and names such as "
        "ctrl+r, f5, space, enter, tab, up, pgdn."
    )


def _refuse_clashes(moved: Mapping[str, tuple[str, ...]]) -> None:
    taken: dict[tuple[str, str], Action] = {}
    for action in ACTIONS:
        for scope in action.scopes:
            for key in moved.get(action.id, action.keys):
                other = taken.setdefault((scope, key), action)
                if other is not action:
                    raise ConfigurationError(
                        f"[keys] gives {KEY_NAMES.get(key, key)} to {other.id} and to {action.id}. "
                        "Each key does one thing on a page; move the other one as well."
                    )


def _nearest(action_id: str) -> str:
    word = action_id.rpartition(".")[2]
    near = [action.id for action in ACTIONS if word and word in action.id]
    return f"Is it {near[0]}?" if near else f"The palette has them all; the first is {ACTIONS[0].id}."
