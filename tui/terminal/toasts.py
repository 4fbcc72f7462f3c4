"""Toasts, limited in number and length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobdeck.core.redact import clean
from jobdeck.tui.format import within
from jobdeck.tui.terminal.ending import Ending

if TYPE_CHECKING:
    from jobdeck.tui.backend.threads import Severity

MOST_TOASTS: Final = 2
"""Maximum number at a time. More would cover the list."""
TOAST: Final = 640
"""Maximum length in cells: ten lines."""


class Toasting(Ending):
    """An app that shows the results of actions as toasts."""

    def say(self, text: str, severity: Severity = "information") -> None:
        """Shows a toast, which replaces one with the same text. The text is cleaned, and markup in it is not used.

        A text that is too long is shortened in its middle, where it has a name or a payload.
        """
        text = "\n".join(within(clean(text, multiline=True).split("\n"), TOAST))
        self.unsay(text)
        for shown in list(self._notifications)[: 1 - MOST_TOASTS]:
            self._unnotify(shown)
        self.notify(text, severity=severity, markup=False, timeout=8 if severity == "information" else 14)

    def unsay(self, text: str) -> None:
        """Removes the toast with this text."""
        for shown in [shown for shown in self._notifications if shown.message == text]:
            self._unnotify(shown)
