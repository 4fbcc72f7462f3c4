"""The keys of the dialogs and of the filter's line, beside the table of actions: bindings and hints come from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from textual.binding import Binding, BindingsMap

from jobdeck.core.plugins import presets


@dataclass(frozen=True, slots=True)
class DialogKey:
    """What a key does in one dialog, which is the word before the dot. `do` is the action as Textual calls it."""

    id: str
    keys: tuple[str, ...]
    do: str
    help: str

    @property
    def dialog(self) -> str:
        """The dialog it belongs to."""
        return self.id.partition(".")[0]


def _focus(dialog: str, previous: tuple[str, ...], following: tuple[str, ...]) -> tuple[DialogKey, DialogKey]:
    return (
        DialogKey(f"{dialog}.previous", previous, "app.focus_previous", "the button or field before"),
        DialogKey(f"{dialog}.next", following, "app.focus_next", "the next button or field"),
    )


def _choice(dialog: str) -> tuple[DialogKey, ...]:
    """The keys of a list that is narrowed down by typing."""
    return (
        DialogKey(f"{dialog}.close", ("escape",), "dismiss", "close, choosing nothing"),
        DialogKey(f"{dialog}.down", ("down", "ctrl+n"), "move(1)", "the next line"),
        DialogKey(f"{dialog}.up", ("up", "ctrl+p"), "move(-1)", "the line before"),
        DialogKey(f"{dialog}.half_down", ("pagedown",), "move(8)", "half a page down"),
        DialogKey(f"{dialog}.half_up", ("pageup",), "move(-8)", "half a page up"),
    )


DIALOG_KEYS: Final[tuple[DialogKey, ...]] = (
    DialogKey("confirm.close", ("escape",), "dismiss(False)", "no"),
    DialogKey("confirm.yes", ("y",), "yes", "yes, where no word has to be typed"),
    *_focus("confirm", ("left", "up", "h", "k"), ("right", "down", "l", "j")),
    DialogKey("pause.close", ("escape",), "dismiss", "keep processing on"),
    *_focus("pause", ("up",), ("down",)),
    DialogKey("leave.close", ("escape", "q"), "dismiss", "stay"),
    *_focus("leave", ("left", "up", "h", "k"), ("right", "down", "l", "j")),
    DialogKey("help.close", ("escape", "q", "question_mark"), "dismiss", "close"),
    DialogKey("help.down", ("j", "down"), "scroll(1)", "down"),
    DialogKey("help.up", ("k", "up"), "scroll(-1)", "up"),
    DialogKey("help.half_down", ("ctrl+d", "pagedown", "space"), "scroll(10)", "half a page down"),
    DialogKey("help.half_up", ("ctrl+u", "pageup"), "scroll(-10)", "half a page up"),
    DialogKey("help.top", ("g", "home"), "scroll_to_end(False)", "to the top"),
    DialogKey("help.bottom", ("G", "end"), "scroll_to_end(True)", "to the bottom"),
    *_choice("palette"),
    DialogKey("sync.close", ("escape", "q"), "dismiss", "close"),
    DialogKey("sync.down", ("down", "j"), "move(1)", "the next sync"),
    DialogKey("sync.up", ("up", "k"), "move(-1)", "the sync before"),
    DialogKey("sync.take", ("enter",), "take", "queue the sync under the cursor"),
    *_choice("picker"),
    DialogKey("create.close", ("escape",), "leave", "leave; what was typed, only when asked twice"),
    DialogKey("create.create", ("ctrl+s",), "create", "create the job, or save the changes"),
    DialogKey("create.try", ("ctrl+t",), "rehearse", "dry run"),
    DialogKey("create.copy", ("ctrl+y",), "copy", "copy the command that does the same"),
    *_focus("create", ("up",), ("down",)),
    DialogKey("create.half_down", ("pagedown",), "scroll(8)", "half a page down"),
    DialogKey("create.half_up", ("pageup",), "scroll(-8)", "half a page up"),
    DialogKey("payload.close", ("escape",), "dismiss", "leave the payload as it is"),
    DialogKey("payload.retry", ("ctrl+s",), "submit", "retry with what was typed"),
    DialogKey("filter.complete", ("tab",), "complete", "complete the last word, or with its next completion"),
    DialogKey("filter.earlier", ("up",), "recall(-1)", "the filter before"),
    DialogKey("filter.later", ("down",), "recall(1)", "the filter after"),
)
BY_ID: Final = {key.id: key for key in DIALOG_KEYS}
SYNC: Final = "sync"
"""The dialog Quick Sync, which has a key for each preset of a plugin."""
TYPED_IN: Final = frozenset({"pause", "palette", "picker", "create", "payload", "filter"})
"""The dialogs with a field, in which a character is typed."""
FIXED: Final = frozenset({"enter", "tab", "shift+tab"})
"""What presses the button in focus or ends a field, and what moves the focus, in every dialog."""
EDITING: Final = frozenset({"space", "left", "right", "home", "end", "backspace", "delete"})
"""What a field is edited with."""


def preset_keys() -> tuple[DialogKey, ...]:
    """The keys that enqueue the presets of the plugins."""
    return tuple(
        DialogKey(f"{SYNC}.{preset.name}", (preset.key,), f"queue({preset.name!r})", f"queue {preset.label}")
        for preset in presets().values()
    )


def every() -> dict[str, DialogKey]:
    """All keys of dialogs by their ids, those of the presets among them."""
    return BY_ID | {key.id: key for key in preset_keys()}


def find(key_id: str) -> DialogKey:
    """The key of this id."""
    return BY_ID[key_id] if key_id in BY_ID else every()[key_id]


def preset_bindings() -> BindingsMap:
    """The bindings of the presets, which the dialog Quick Sync adds to its own."""
    return BindingsMap([_binding(key) for key in preset_keys()])


def bindings(dialog: str) -> list[Binding]:
    """The bindings of one dialog, each with an id so that a keymap can move it."""
    return [_binding(key) for key in of(dialog)]


def _binding(key: DialogKey) -> Binding:
    return Binding(",".join(key.keys), key.do, key.help, show=False, id=key.id)


def of(dialog: str) -> tuple[DialogKey, ...]:
    """The keys of one dialog."""
    return tuple(key for key in DIALOG_KEYS if key.dialog == dialog)
