"""Toasts: few at a time, none longer than there is room for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.redact import clean
from jobdeck.tui.format import within
from jobdeck.tui.terminal.ending import Ending

if TYPE_CHECKING:
    from jobdeck.tui.backend.threads import Severity

MOST_TOASTS: Final = 2
"""More than so many at a time would cover the list."""
TOAST: Final = 640
"""The cells of a toast: ten lines of it, which leave an ordinary terminal the rest."""


class Toasting(Ending):
    """An app that says in a corner what came of something."""

    def say(self, text: str, severity: Severity = "information") -> None:
        """Shows a toast, and no second one that says the same; the text is cleaned and never read as markup.

        What is longer than there is room for is cut in its middle, where it has a name or a payload.
        """
        text = "\n".join(within(clean(text, multiline=True).split("\n"), TOAST))
        self.unsay(text)
        for told in list(self._notifications)[: 1 - MOST_TOASTS]:
            self._unnotify(told)
        self.notify(text, severity=severity, markup=False, timeout=8 if severity == "information" else 14)

    def unsay(self, text: str) -> None:
        """Takes the toast away that says this."""
        for told in [told for told in self._notifications if told.message == text]:
            self._unnotify(told)
