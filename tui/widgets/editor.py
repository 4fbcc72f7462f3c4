"""A field of several lines of JSON. Textual's text area is slow to import, and dialogs alone need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.widgets import TextArea

if TYPE_CHECKING:
    from textual._types import WatchCallbackType
    from textual.dom import DOMNode


class Editor(TextArea):
    """A JSON editor that the app does not keep alive after its dialog is closed."""

    def watch(self, obj: DOMNode, attribute_name: str, callback: WatchCallbackType, init: bool = True) -> None:
        """Watches nothing of the app, which would keep every editor that was ever opened: a megabyte of lines each.

        Textual watches the theme, which cannot change while a dialog is open.
        """
        if obj is not self.app:
            super().watch(obj, attribute_name, callback, init)
