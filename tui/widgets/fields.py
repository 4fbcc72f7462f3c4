"""An input field of one line, and the line with the command equivalent of a dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Input, Static

from jobdeck.tui.format import fit, wrapped

if TYPE_CHECKING:
    from textual.events import Paste


class OneLine(Input):
    """A one-line input. Pasted text of several lines is joined with blanks, so that nothing of it is lost."""

    def __init__(self, value: str, *, example: str = "", id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(value, placeholder=example, compact=True, id=id)
        self.cursor_blink = False

    def _on_paste(self, event: Paste) -> None:
        """Inserts the whole pasted text as one line."""
        event.stop()
        event.prevent_default()
        words = " ".join("".join(letter if letter.isprintable() else " " for letter in event.text).split())
        if self.selection.is_empty:
            self.insert_text_at_cursor(words)
        else:
            self.replace(words, *self.selection)


class Twin(Static):
    """The command that does the same as the dialog. A command that does not fit ends with an ellipsis."""

    def __init__(self) -> None:
        super().__init__(id="twin")
        self._command = ""

    def show(self, command: str) -> None:
        """Shows a command; an empty one clears the line."""
        self._command = command
        width, height = self.size
        lines = wrapped(command, width) if width else []
        if len(lines) > height:
            command = "\n".join([*lines[: height - 1], fit(" ".join(lines[height - 1 :]), width)])
        self.update(Content.styled(command, "$accent"))

    def on_resize(self) -> None:
        self.show(self._command)
