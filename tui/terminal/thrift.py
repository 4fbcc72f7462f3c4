"""What goes to the terminal when a few cells of one line have changed, said in fewer bytes.

Textual frames every update, sets colours for it, takes them back and puts the unseen cursor in its corner: for the
second of a clock 50 bytes, of which one is news. Here the colours stay set until something else is written, so that
the same cells in the same colours cost their place and their text only. Whatever has another form goes as it came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from textual.driver import Driver

BEGIN: Final = "\x1b[?2026h"
END: Final = "\x1b[?2026l"
RESET: Final = "\x1b[0m"
LONGEST: Final = 40
"""So many characters at most arrive in one piece, and need no frame that says so."""
SPAN: Final = re.compile(r"(\x1b\[\d+;\d+H)(\x1b\[[\d;]+m)([^\x1b\n]+)\x1b\[0m(?:\x1b\[1;1H)?")
"""Where, in which colours, what; the cursor in the corner is where it is while no text is typed."""


class Thrift:
    """Turns what would be written into what has to be."""

    def __init__(self) -> None:
        self._held = ""
        self._framed = False
        self._frame_left_out = False

    def shorten(self, data: str) -> str:
        """What to write instead, in the same order; may be nothing."""
        if data == BEGIN:
            self._framed = True
            return ""
        if data == END and (self._framed or self._frame_left_out):
            self._framed = self._frame_left_out = False
            return ""
        span = SPAN.fullmatch(data)
        if span is None or len(span[3]) > LONGEST:
            return self._whole(data)
        place, colours, text = span.groups()
        self._frame_left_out, self._framed = self._framed, False
        if colours == self._held:
            return f"{place}{text}"
        before, self._held = RESET if self._held else "", colours
        return f"{before}{place}{colours}{text}"

    def _whole(self, data: str) -> str:
        before = (RESET if self._held else "") + (BEGIN if self._framed else "")
        self._held, self._framed = "", False
        return before + data


def thrifty(base: type[Driver]) -> type[Driver]:
    """A driver that writes no more than it has to, made of the one for this platform."""

    class ThriftyDriver(base):  # type: ignore[misc, valid-type]
        _thrift: Thrift | None = None

        def write(self, data: str) -> None:
            if self._thrift is None:
                self._thrift = Thrift()
            needed = self._thrift.shorten(data)
            if needed:
                super().write(needed)

    return ThriftyDriver
