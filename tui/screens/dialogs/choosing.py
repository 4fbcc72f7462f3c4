"""The dialogs that choose from a list which typing narrows down: the palette of actions, and the picker of anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input

from jobdeck.core.plugins import Found
from jobdeck.tui.actions import BY_ID, Action, Scope, Situation, offered, unavailable
from jobdeck.tui.format import fit, one_line
from jobdeck.tui.screens.dialogs.dialog import ListDialog
from jobdeck.tui.widgets.fields import OneLine
from jobdeck.tui.widgets.ink import Line
from jobdeck.tui.widgets.pane import Entry, Pane, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from jobdeck.core.registry import JobType
    from jobdeck.tui.form.lookup import Offer

NEW = "job.new "
"""The prefix of an answer that opens Create Job; the task type follows it."""
LABEL_WIDTH = 18
KEY_WIDTH = 7
AROUND = 3
"""The blanks around a label."""
FRAME = 4
"""The lines of a list's dialog around the list."""
DETAIL = 24
"""The cells that are kept for what is said beside a label, with the blanks."""
LEFT_OUT = ("move.", "palette", "back")
"""Ids or their beginnings of actions that a keyboard user does not need here; with a mouse, only the palette."""


class Palette(ListDialog[str | None]):
    """Returns the id of the chosen action, or None."""

    DIALOG: ClassVar[str] = "palette"

    def __init__(self, scope: Scope, situation: Situation, types: Sequence[JobType] = ()) -> None:
        super().__init__()
        self.situation = situation
        left_out = "palette" if situation.mouse else LEFT_OUT
        here = [action for action in offered(scope) if not action.id.startswith(left_out)]
        # Actions of the list that need no job: a job under its cursor would be out of sight here.
        more = [
            action
            for action in offered("list")
            if action.changes and action.states is None and scope not in action.scopes
        ]
        self.actions = [*here, *more, *map(_new, types)]

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content("Palette")
            box.border_subtitle = Content(f"{self.or_click('enter')} runs it · {self.key('close')} closes")
            yield OneLine("", example="Search for an action", id="words")
            yield Pane(id="found")
            yield Line(id="reason")

    def on_mount(self) -> None:
        self.query_one("#words", Input).focus()

    def redraw(self) -> None:
        pane = self.pane
        words = self.query_one("#words", Input).value.lower().split()
        pane.show([self._entry(action, pane.size.width) for action in matching(self.actions, words)])
        self._explain()

    def on_input_changed(self) -> None:
        """Lists the matches for other words and chooses the best."""
        self.pane.cursor = 0
        self.redraw()

    def on_input_submitted(self) -> None:
        """Closes with the chosen action, unless it is not available."""
        chosen = self._chosen()
        if chosen is not None and unavailable(chosen, self.situation) is None:
            self.dismiss(chosen.id)

    def on_pane_chosen(self) -> None:
        self.on_input_submitted()

    def on_pane_moved(self) -> None:
        self._explain()

    def _chosen(self) -> Action | None:
        key = self.pane.current
        return next((action for action in self.actions if action.id == key), None)

    def _explain(self) -> None:
        chosen = self._chosen()
        reason = unavailable(chosen, self.situation) if chosen else "No matching action."
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


def _new(known: JobType) -> Action:
    """The action that opens Create Job with a task type."""
    return replace(BY_ID["job.new"], id=f"{NEW}{known.task_type}", keys=(), help=f"{known.task_type}: {known.purpose}")


def matching(actions: list[Action], words: list[str]) -> list[Action]:
    """The actions that contain every word; first those whose label begins with it. `cleanup` matches `clean up`."""

    def rank(action: Action) -> int:
        label = action.label.lower()
        return 0 if label.startswith(words[0]) else 1 if words[0] in label else 2

    def has(action: Action, word: str) -> bool:
        return word in f"{action.label} {action.help} {action.label.replace(' ', '')}".lower()

    found = [action for action in actions if all(has(action, word) for word in words)]
    return sorted(found, key=rank) if words else found


class Picker(ListDialog[Found | None]):
    """Returns the chosen item, or None."""

    DIALOG: ClassVar[str] = "picker"

    def __init__(self, offer: Offer) -> None:
        super().__init__()
        self.offer = offer
        self.found: Sequence[Found] = ()
        self.said = "Looking…"
        self._asked = 0
        self._most = 1
        """The most lines that were listed: the dialog grows with its list, and does not shrink while somebody types."""

    def compose(self) -> ComposeResult:
        with Vertical(id="box") as box:
            box.border_title = Content(self.offer.title)
            box.border_subtitle = Content(f"{self.or_click('enter')} chooses · {self.key('close')} cancels")
            yield OneLine(self.offer.typed, example=self.offer.example, id="words")
            yield Pane(id="found")
            yield Line(id="reason")

    def on_mount(self) -> None:
        field = self.query_one("#words", OneLine)
        field.focus()
        field.cursor_position = len(field.value)
        field.selection = field.selection.cursor(len(field.value))
        self.look()
        self.call_after_refresh(self.redraw)

    def look(self) -> None:
        """Looks up the typed words; answers for words that have changed since are dropped."""
        self._asked += 1
        asked = self._asked

        def deliver(found: Sequence[Found] | str) -> None:
            if asked != self._asked or not self.is_attached:
                return
            self.said = found if isinstance(found, str) else ""
            self.found = () if isinstance(found, str) else found
            pane = self.pane
            pane.cursor = 0
            self.redraw()
            if not self.query_one("#words", OneLine).value:
                pane.find(self.offer.chosen)
                pane.move_to(pane.cursor)

        self.offer.fetch(self.query_one("#words", OneLine).value, deliver)

    def redraw(self) -> None:
        pane = self.pane
        words = self.query_one("#words", OneLine).value.strip()
        offered = [Found("", self.offer.empty)] if self.offer.empty and not words else []
        listed = [*offered, *self.found]
        beside = DETAIL if any(one.detail for one in listed) else AROUND
        longest = max((cell_len(one_line(one.label)) for one in listed), default=0)
        width = min(longest, max(pane.size.width - beside, 12))
        self._most = max(self._most, len(listed))
        pane.styles.height = min(self._most, max(self.size.height * 4 // 5 - FRAME, 1))
        pane.show([self._entry(one, width, pane.size.width) for one in listed])
        reason = self.said or ("" if listed else "No matches.")
        self.query_one("#reason", Line).show([(f" {reason}", "warn")])

    def on_input_changed(self) -> None:
        self.look()

    def on_input_submitted(self) -> None:
        pane = self.pane
        if pane.entries:
            key = pane.current
            listed = [Found("", self.offer.empty), *self.found]
            self.dismiss(next((one for one in listed if one.id == key), None))

    def on_pane_chosen(self) -> None:
        self.on_input_submitted()

    def _entry(self, one: Found, width: int, room: int) -> Entry:
        detail = fit(one_line(one.detail), max(room - width - 3, 0)) if one.detail else ""
        ink = "strong" if one.id else "muted"
        return entry((f" {fit(one_line(one.label), width)}  ", ink), (detail, "muted"), key=one.id)
