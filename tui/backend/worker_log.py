"""Keeps the last log lines of this process, including its embedded worker, for the log page."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from jobdeck.core.logs import TextFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES: Final = 2_000
LONGEST_LINE: Final = 1_000


class WorkerLog(logging.Handler):
    """Keeps the last lines, cleaned and redacted. `count` is the number of lines ever logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(TextFormatter())
        self._lines: deque[str] = deque(maxlen=LINES)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one record. Can be called in any thread."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 -- as in the logging module: logging must not raise
            self.handleError(record)
            return
        self._lines.append(line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…")
        self.count += 1

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        self.acquire()
        try:
            return tuple(self._lines)
        finally:
            self.release()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Collects all records of level INFO and above inside the block."""
        root = logging.getLogger()
        level = root.level
        root.addHandler(self)
        root.setLevel(min(level, logging.INFO))
        try:
            yield
        finally:
            root.removeHandler(self)
            root.setLevel(level)
