"""What text is typed in: a line, lines of JSON; and the command that a dialog shows beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Input, Static, TextArea

from jobdeck.tui.format import fit, wrapped

if TYPE_CHECKING:
    from textual._types import WatchCallbackType
    from textual.dom import DOMNode
    from textual.events import Paste


class OneLine(Input):
    """A line to type in. Text of several lines that is pasted becomes one, with blanks, and loses nothing."""

    def __init__(self, value: str, *, example: str = "", id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(value, placeholder=example, compact=True, id=id)
        self.cursor_blink = False

    def _on_paste(self, event: Paste) -> None:
        """Puts everything that was pasted into the one line."""
        event.stop()
        event.prevent_default()
        words = " ".join("".join(letter if letter.isprintable() else " " for letter in event.text).split())
        if self.selection.is_empty:
            self.insert_text_at_cursor(words)
        else:
            self.replace(words, *self.selection)


class Twin(Static):
    """The command that does what a dialog is about to do; cut, with a sign, where its lines do not hold it."""

    def __init__(self) -> None:
        super().__init__(id="twin")
        self._command = ""

    def show(self, command: str) -> None:
        """Shows a command, or nothing."""
        self._command = command
        width, height = self.size
        lines = wrapped(command, width) if width else []
        if len(lines) > height:
            command = "\n".join([*lines[: height - 1], fit(" ".join(lines[height - 1 :]), width)])
        self.update(Content.styled(command, "$accent"))

    def on_resize(self) -> None:
        """Shows as much of it as there is room for now."""
        self.show(self._command)


class Editor(TextArea):
    """Lines to type JSON in. What keeps on from one dialog to the next does not hold on to it."""

    def watch(self, obj: DOMNode, attribute_name: str, callback: WatchCallbackType, init: bool = True) -> None:
        """Watches nothing of the app, which would keep every editor there ever was, with a megabyte of lines each.

        It is the theme that Textual watches, and behind a dialog that cannot change.
        """
        if obj is not self.app:
            super().watch(obj, attribute_name, callback, init)
