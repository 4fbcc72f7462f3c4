"""Why something cannot be read: all of the sentence, in as many lines as it takes."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static


class Reason(Static, can_focus=False):
    """A sentence that is wrapped and never cut. It takes no room while there is none."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's name
        super().__init__(id=id)
        self.text = ""

    def say(self, text: str) -> None:
        """Replaces the sentence; does nothing when it says the same already."""
        if text != self.text:
            self.text = text
            self.set_class(bool(text), "-said")
            self.update(Content(text))
