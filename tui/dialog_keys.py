"""The keys of the dialogs and of the filter line, from which their bindings and hints are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from textual.binding import Binding, BindingsMap

from jobdeck.core.plugins import presets


@dataclass(frozen=True, slots=True)
class DialogKey:
    """One key of a dialog. The id is `dialog.name`; `do` is the Textual action."""

    id: str
    keys: tuple[str, ...]
    do: str
    help: str

    @property
    def dialog(self) -> str:
        """The id of the dialog."""
        return self.id.partition(".")[0]


def _focus(dialog: str, previous: tuple[str, ...], following: tuple[str, ...]) -> tuple[DialogKey, DialogKey]:
    return (
        DialogKey(f"{dialog}.previous", previous, "app.focus_previous", "previous button or field"),
        DialogKey(f"{dialog}.next", following, "app.focus_next", "next button or field"),
    )


def _fields(dialog: str) -> tuple[DialogKey, ...]:
    """The keys of a dialog of text fields."""
    return DialogKey(f"{dialog}.close", ("escape",), "dismiss", "cancel"), *_focus(dialog, ("up",), ("down",))


def _choice(dialog: str) -> tuple[DialogKey, ...]:
    """The keys of a list with a search field."""
    return (
        DialogKey(f"{dialog}.close", ("escape",), "dismiss", "cancel"),
        DialogKey(f"{dialog}.down", ("down", "ctrl+n"), "move(1)", "next line"),
        DialogKey(f"{dialog}.up", ("up", "ctrl+p"), "move(-1)", "previous line"),
        DialogKey(f"{dialog}.half_down", ("pagedown",), "move(8)", "half a page down"),
        DialogKey(f"{dialog}.half_up", ("pageup",), "move(-8)", "half a page up"),
    )


DIALOG_KEYS: Final[tuple[DialogKey, ...]] = (
    DialogKey("confirm.close", ("escape",), "dismiss(False)", "no"),
    DialogKey("confirm.yes", ("y",), "yes", "yes, unless a word must be typed"),
    *_focus("confirm", ("left", "up", "h", "k"), ("right", "down", "l", "j")),
    *_fields("pause"),
    DialogKey("type.close", ("escape",), "dismiss", "cancel"),
    DialogKey("type.save", ("ctrl+s",), "save", "save the settings"),
    *_focus("type", ("up",), ("down",)),
    *_fields("note"),
    *_fields("mute"),
    *_fields("row"),
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
    DialogKey("sync.down", ("down", "j"), "move(1)", "next sync"),
    DialogKey("sync.up", ("up", "k"), "move(-1)", "previous sync"),
    DialogKey("sync.take", ("enter",), "take", "queue the sync under the cursor"),
    *_choice("picker"),
    DialogKey("create.close", ("escape",), "leave", "cancel; press twice to discard what you typed"),
    DialogKey("create.create", ("ctrl+s",), "create", "create the job, or save the changes"),
    DialogKey("create.try", ("ctrl+t",), "rehearse", "dry run"),
    DialogKey("create.copy", ("ctrl+y",), "copy", "copy the equivalent command"),
    *_focus("create", ("up",), ("down",)),
    DialogKey("create.half_down", ("pagedown",), "scroll(8)", "half a page down"),
    DialogKey("create.half_up", ("pageup",), "scroll(-8)", "half a page up"),
    DialogKey("payload.close", ("escape",), "leave", "cancel; press twice to discard what you typed"),
    DialogKey("payload.retry", ("ctrl+s",), "submit", "retry with the edited payload"),
    DialogKey("bulk_edit.close", ("escape",), "leave", "cancel; press twice to discard what you typed"),
    DialogKey("bulk_edit.try", ("ctrl+t",), "rehearse", "dry run, with the differences of the first jobs"),
    DialogKey("bulk_edit.save", ("ctrl+s",), "submit", "edit the jobs, after a dry run"),
    DialogKey("filter.complete", ("tab",), "complete", "complete the last word; again for the next candidate"),
    DialogKey("filter.earlier", ("up",), "recall(-1)", "previous filter"),
    DialogKey("filter.later", ("down",), "recall(1)", "next filter"),
    DialogKey("filter.save", ("ctrl+s",), "save", "save this filter under a name; @name and tab choose a saved one"),
    DialogKey("name_filter.close", ("escape",), "dismiss", "cancel"),
    DialogKey("columns.close", ("escape", "q"), "dismiss", "cancel"),
    DialogKey("columns.down", ("down", "j"), "move(1)", "next column"),
    DialogKey("columns.up", ("up", "k"), "move(-1)", "previous column"),
    DialogKey("columns.mark", ("space",), "mark", "show or hide the column under the cursor"),
    DialogKey("columns.take", ("enter",), "take", "keep the marked columns for this tab"),
    DialogKey("columns.usual", ("u",), "usual", "go back to the usual columns of this tab"),
)
BY_ID: Final = {key.id: key for key in DIALOG_KEYS}
SYNC: Final = "sync"
"""The id of the dialog Quick Sync, which has a key for each preset."""
TYPED_IN: Final = frozenset(
    {
        "pause",
        "type",
        "note",
        "mute",
        "row",
        "palette",
        "picker",
        "create",
        "payload",
        "bulk_edit",
        "filter",
        "name_filter",
    }
)
"""The dialogs with a text field, which needs all printable characters."""
FIXED: Final = frozenset({"enter", "tab", "shift+tab"})
"""The keys that press a button, submit a field or move the focus in every dialog."""
EDITING: Final = frozenset({"space", "left", "right", "home", "end", "backspace", "delete"})
"""The keys that edit a text field."""


def preset_keys() -> tuple[DialogKey, ...]:
    """The keys that enqueue the plugins' presets."""
    return tuple(
        DialogKey(f"{SYNC}.{preset.name}", (preset.key,), f"queue({preset.name!r})", f"queue {preset.label}")
        for preset in presets().values()
    )


def every() -> dict[str, DialogKey]:
    """All dialog keys by id, including those of presets."""
    return BY_ID | {key.id: key for key in preset_keys()}


def find(key_id: str) -> DialogKey:
    """The dialog key with this id."""
    return BY_ID[key_id] if key_id in BY_ID else every()[key_id]


def preset_bindings() -> BindingsMap:
    """The bindings of the presets; Quick Sync adds them to its own."""
    return BindingsMap([_binding(key) for key in preset_keys()])


def bindings(dialog: str) -> list[Binding]:
    """The bindings of one dialog. Each has an id, so that a keymap can change its keys."""
    return [_binding(key) for key in of(dialog)]


def _binding(key: DialogKey) -> Binding:
    return Binding(",".join(key.keys), key.do, key.help, show=False, id=key.id)


def of(dialog: str) -> tuple[DialogKey, ...]:
    """The keys of one dialog."""
    return tuple(key for key in DIALOG_KEYS if key.dialog == dialog)
