"""The keys of a page, generated from the table of actions; an action that is not available says why."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar, Final

from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jobdeck.tui.actions import ACTIONS, BY_ID, GROUPS, Scope, Situation, general, offered, unavailable
from jobdeck.tui.screens.dialogs.dialog import Dialog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.events import Resize

BOX_WIDTH: Final = 160
KEY_WIDTH: Final = 14
KEY: Final = "bold $accent"
GREY: Final = "$ink-muted"
TAB_NAMES: Final = tuple(action.label for action in ACTIONS if action.id.startswith("tab."))
LEGEND: Final = (
    ("○ pending", "waits for its time or a worker"),
    ("● running", "a worker runs it; the rest of its lease is shown"),
    ("✓ succeeded", "one-time jobs leave the queue and stay in the history"),
    ("✗ failed", "no attempts left, or a retry cannot help"),
    ("⊘ cancelled", "will not run unless retried"),
    ("↻ 60m", "recurring, every 60 minutes"),
    ("due 12m ago", "its time has come and no worker has taken it"),
)

FLEET_LEGEND: Final = (
    ("away", "does not answer; it is asked again, less and less often"),
    ("slow", "has been asked and has not answered yet"),
    ("unusable", "answers, but without a schema, with another version, or without rights"),
    ("age", "how old the figures are; <5s is usual"),
    ("wait", "how long the oldest due job has waited"),
)


class Help(Dialog[None]):
    DIALOG: ClassVar[str] = "help"

    def __init__(self, scope: Scope, situation: Situation) -> None:
        super().__init__()
        self.scope = scope
        self.situation = situation

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", can_focus=False) as box:
            box.border_title = Content("Keys")
            box.border_subtitle = Content(f"{self.key('close')} closes")
            for reason in general(self.situation):
                yield Static(Content.styled(reason, "$warning"), classes="general")
            with Horizontal(id="columns"):
                yield Static(id="first", classes="column")
                yield Static(id="second", classes="column")

    def on_resize(self, event: Resize) -> None:
        """Lays the text out; one column on a narrow terminal."""
        narrow = event.size.width < 120
        self.set_class(narrow, "-narrow")
        box = min(event.size.width, BOX_WIDTH) - 9
        width = box - 2 if narrow else box // 2 - 3
        said = general(self.situation)
        sections = [section for group in GROUPS if (section := self._section(group, width, said))]
        legend = FLEET_LEGEND if self.scope == "fleet" else LEGEND
        sections.append(_lines("Words", [(word, meaning, "", "") for word, meaning in legend], width))
        half = _half(sections)
        self.query_one("#first", Static).update(Content("\n\n").join(sections[:half]))
        self.query_one("#second", Static).update(Content("\n\n").join(sections[half:]))

    def action_scroll(self, lines: int) -> None:
        self.query_one("#box").scroll_relative(y=lines, animate=False)

    def action_scroll_to_end(self, bottom: bool) -> None:
        box = self.query_one("#box")
        box.scroll_to(y=box.max_scroll_y if bottom else 0, animate=False)

    def _tabs(self) -> str:
        """The keys of the tabs; only the first and the last if none was changed."""
        keys = [self.situation.key(BY_ID[f"tab.{name}"]) for name in TAB_NAMES]
        usual = [str(number) for number in range(1, len(keys) + 1)]
        return f"{keys[0]} … {keys[-1]}" if keys == usual else " ".join(keys)

    def _section(self, group: str, width: int, said: Sequence[str]) -> Content | None:
        """The keys of a group. Reasons in `said` apply to all actions and are not repeated."""
        rows: list[tuple[str, str, str, str]] = []
        for action in offered(self.scope):
            if action.group != group:
                continue
            if action.id.startswith("tab."):
                if action.id == "tab.all":
                    rows.append((self._tabs(), f"tabs: {', '.join(TAB_NAMES)}", KEY, ""))
                continue
            reason = unavailable(action, self.situation)
            names = " ".join(self.situation.key_names(action)) or "palette"
            rows.append((names, action.help, GREY if reason else KEY, GREY if reason else ""))
            if reason and reason not in said:
                rows.append(("", reason, "", "$warning"))
        return _lines(group, rows, width) if rows else None


def _lines(heading: str, rows: list[tuple[str, str, str, str]], width: int) -> Content:
    """Words on the left, their meaning wrapped on the right."""
    lines = [Content.styled(heading, "bold $primary")]
    for word, meaning, word_style, meaning_style in rows:
        beside = len(word) < KEY_WIDTH
        if not beside:
            lines.append(Content.styled(word, word_style))
        for number, line in enumerate(wrap(meaning, max(width - KEY_WIDTH, 20))):
            shown = word if number == 0 and beside else ""
            lines.append(Content.assemble((f"{shown:<{KEY_WIDTH}}", word_style), (line, meaning_style)))
    return Content("\n").join(lines)


def _half(sections: list[Content]) -> int:
    """The section that begins the second column, so that both are about as long."""
    lengths = [section.plain.count("\n") + 2 for section in sections]
    return min(range(1, len(lengths)), key=lambda at: abs(2 * sum(lengths[:at]) - sum(lengths)))
