"""What is written to the terminal: small updates in fewer bytes, and what is copied.

For each update Textual writes a frame, sets the colours, resets them, and moves the hidden cursor to its corner: 50
bytes when one digit of a clock changes. Here the colours stay set until something else is written, so an update in
the same colours costs only its position and its text. All other output is unchanged.

A copy works over SSH: with OSC 52, and inside tmux also to its buffer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from jobdeck.tui.format import plural

if TYPE_CHECKING:
    from textual.app import App
    from textual.driver import Driver

BEGIN: Final = "\x1b[?2026h"
END: Final = "\x1b[?2026l"
RESET: Final = "\x1b[0m"
LONGEST: Final = 40
"""Maximum length of a text that a terminal receives in one piece, so that it needs no frame."""
SPAN: Final = re.compile(r"(\x1b\[\d+;\d+H)(\x1b\[[\d;]+m)([^\x1b\n]+)\x1b\[0m(?:\x1b\[1;1H)?")
"""Position, colours, text. The cursor is in the corner while no text is edited."""


class Thrift:
    """Shortens the output. Keeps track of the colours that the terminal has set."""

    def __init__(self) -> None:
        self._held = ""
        self._framed = False
        self._frame_left_out = False

    def shorten(self, data: str) -> str:
        """Returns the text to write instead, which may be empty."""
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


CONSOLE: Final = "linux"
"""The TERM of the Linux console, whose fonts have 256 or 512 characters."""
OF_CONSOLE: Final = str.maketrans("✗✓●○◌‖⊘↻⚠↩↷━⏎╭╮╰╯▁▂▃▅▆▇", "x√*o~=/@!<>=<┌┐└┘__▄▄██")
"""Signs that these fonts have, as wide as those in whose place they are."""
OF_ASCII: Final = {**OF_CONSOLE, **str.maketrans("✓▄▅▆▇█╭╮╰╯─│…·", "v==###++++-|..")}
"""The same for a terminal whose encoding has no signs at all."""


def _signs() -> dict[int, int] | None:
    """The signs to write in place of others; None where all can be written."""
    if not ((sys.__stderr__ and sys.__stderr__.encoding) or "utf-8").lower().startswith("utf"):
        return OF_ASCII
    return OF_CONSOLE if os.environ.get("TERM") == CONSOLE else None


def thrifty(base: type[Driver]) -> type[Driver]:
    """A subclass of the platform's driver that shortens its output, and writes signs that the terminal has."""
    signs = _signs()

    class ThriftyDriver(base):  # type: ignore[misc, valid-type]
        _thrift: Thrift | None = None

        def write(self, data: str) -> None:
            if self._thrift is None:
                self._thrift = Thrift()
            needed = self._thrift.shorten(data.translate(signs) if signs else data)
            if needed:
                super().write(needed)

    return ThriftyDriver


COPIED: Final = 55_000
"""Maximum size in bytes. As base64 it is about 74 kB, which terminals accept in one OSC 52 sequence."""


def is_copied(text: str) -> bool:
    """Whether the text is short enough to copy."""
    return len(text.encode()) <= COPIED


def copy(app: App[Any], text: str) -> str:
    """Copies a text. Returns a sentence for the user."""
    if not is_copied(text):
        return f"Not copied: {len(text)} characters exceed the limit of terminals ({COPIED} bytes)."
    app.copy_to_clipboard(text)
    where = "tmux buffer + OSC 52" if _to_tmux(text) else "OSC 52"
    return f"Copied {plural(len(text), 'character')} ({where})."


def _to_tmux(text: str) -> bool:
    tmux = shutil.which("tmux") if os.environ.get("TMUX") else None
    if tmux is None:
        return False
    try:
        done = subprocess.run(
            [tmux, "load-buffer", "-w", "-"], input=text.encode(), capture_output=True, timeout=2, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
