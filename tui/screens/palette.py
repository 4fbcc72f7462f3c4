"""The palette: every action of a page by its name, with its key; what cannot be done now says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input

from tui.actions import ACTIONS, Action, Scope, Situation, unavailable
from tui.format import fit
from tui.ink import Line
from tui.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import Resize

LABEL_WIDTH = 18
KEY_WIDTH = 7
LEFT_OUT = ("move.", "palette", "back")


class Palette(ModalScreen[str | None]):
    """Asks for an action by its name; answers with its id."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "close"),
        ("down,ctrl+n", "move(1)", "down"),
        ("up,ctrl+p", "move(-1)", "up"),
        ("pagedown", "move(8)", "down"),
        ("pageup", "move(-8)", "up"),
    ]

    def __init__(self, scope: Scope, situation: Situation) -> None:
        super().__init__()
        self.situation = situation
        self.actions = [action for action in ACTIONS if scope in action.scopes and not action.id.startswith(LEFT_OUT)]

    def compose(self) -> ComposeResult:
        """One box: the words, what matches, and why the chosen one cannot be done."""
        with Vertical(id="box") as box:
            box.border_title = Content("Palette")
            box.border_subtitle = Content("enter does it · esc closes")
            field = Input(id="words", compact=True, placeholder="a word of what you want to do")
            field.cursor_blink = False
            yield field
            yield Pane(id="found")
            yield Line(id="reason")

    def on_mount(self) -> None:
        """The words come first."""
        self.query_one("#words", Input).focus()

    def on_resize(self, _event: Resize) -> None:
        """Sets the list for the new width."""
        self.call_after_refresh(self.redraw)

    def redraw(self) -> None:
        """Lists what matches the words."""
        pane = self.query_one("#found", Pane)
        words = self.query_one("#words", Input).value.lower().split()
        pane.show([self._entry(action, pane.size.width) for action in matching(self.actions, words)])
        self._explain()

    def on_input_changed(self) -> None:
        """Other words: the best match is chosen."""
        self.query_one("#found", Pane).cursor = 0
        self.redraw()

    def on_input_submitted(self) -> None:
        """Enter does what is chosen, or says why it cannot be done."""
        chosen = self._chosen()
        if chosen is not None and unavailable(chosen, self.situation) is None:
            self.dismiss(chosen.id)

    def on_pane_chosen(self) -> None:
        """So does a double click."""
        self.on_input_submitted()

    def on_pane_moved(self) -> None:
        """Another one is chosen."""
        self._explain()

    def action_move(self, by: int) -> None:
        """Chooses another one."""
        self.query_one("#found", Pane).move(by)

    def _chosen(self) -> Action | None:
        key = self.query_one("#found", Pane).current
        return next((action for action in self.actions if action.id == key), None)

    def _explain(self) -> None:
        chosen = self._chosen()
        reason = unavailable(chosen, self.situation) if chosen else "Nothing is called that."
        self.query_one("#reason", Line).show([(reason or "", "warn")])

    def _entry(self, action: Action, width: int) -> Entry:
        grey = unavailable(action, self.situation) is not None
        keys = " ".join(self.situation.key_names(action)[:2])
        return entry(
            (f" {fit(action.label, LABEL_WIDTH)}", "muted" if grey else "strong"),
            (fit(keys, KEY_WIDTH), "muted" if grey else "key"),
            (fit(action.help, max(width - LABEL_WIDTH - KEY_WIDTH - 2, 8)), "muted" if grey else "text"),
            key=action.id,
        )


def matching(actions: list[Action], words: list[str]) -> list[Action]:
    """The actions that have every word, those first whose label begins with the first one; `cleanup` is `clean up`."""

    def rank(action: Action) -> int:
        label = action.label.lower()
        return 0 if label.startswith(words[0]) else 1 if words[0] in label else 2

    def has(action: Action, word: str) -> bool:
        return word in f"{action.label} {action.help} {action.label.replace(' ', '')}".lower()

    found = [action for action in actions if all(has(action, word) for word in words)]
    return sorted(found, key=rank) if words else found
