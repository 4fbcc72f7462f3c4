"""The dialog before an action of a plugin's page: the texts that it needs. Every text of the plugin is cleaned here."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from jobdeck.core.errors import UsageError
from jobdeck.core.redact import clean
from jobdeck.tui.format import one_line
from jobdeck.tui.screens.dialogs.dialog import FieldsDialog
from jobdeck.tui.widgets.fields import OneLine, Twin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult

    from jobdeck.core.plugins import PageAction


class AskForTexts(FieldsDialog[dict[str, str]]):
    """Returns the texts by their names, or None. None of them may be empty."""

    DIALOG: ClassVar[str] = "row"

    def __init__(self, title: str, action: PageAction, row: Sequence[str]) -> None:
        super().__init__()
        self.heading = one_line(title[:1].upper() + title[1:])
        self.action = action
        self.row = row

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"ask-{place}" for place in range(len(self.action.asks)))

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box", classes="-warn", can_focus=False) as box:
            box.border_title = Content(self.heading)
            yield Static(Content(one_line(self.action.about(self.row))))
            for name, asked in zip(self.names, self.action.asks, strict=True):
                yield Static(Content(one_line(asked.label)), classes="label")
                yield OneLine("", example=one_line(asked.example), id=name)
            yield from self.ending(self.heading)

    def draw(self) -> None:
        """Shows the equivalent command, with the texts as they were typed; none while a text is missing."""
        try:
            answers = self.read()
        except UsageError:
            self.query_one(Twin).show("")
        else:
            self.query_one(Twin).show(clean(self.action.command(self.row, answers)))

    def read(self) -> dict[str, str]:
        answers = {}
        for name, asked in zip(self.names, self.action.asks, strict=True):
            answers[asked.name] = self.text(name)
            if not answers[asked.name]:
                raise UsageError(f"{one_line(asked.label)} is missing.")
        return answers
