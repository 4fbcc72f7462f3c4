"""The last line of a terminal, which commands write again and again, and which gives way to whatever is printed."""

from __future__ import annotations

import shutil
import sys
import threading
from typing import Final

from jobdeck.core.redact import clean


class Line:
    """One line on stderr. It is shown on a terminal only."""

    def __init__(self) -> None:
        self.is_counted = False
        """Whether the command counts its work, so that the time it has taken need not be shown."""
        self._shown = False
        self._lock = threading.Lock()

    def show(self, text: str) -> None:
        if not sys.stderr.isatty():
            return
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            sys.stderr.write(f"\r{clean(text)[:width]}\x1b[K")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Takes the line off the terminal, before something else is written."""
        with self._lock:
            if self._shown:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                self._shown = False


LINE: Final = Line()
"""The line of this process."""
