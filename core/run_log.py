"""What a run logs, kept with the run.

A run's logger is made when the handler first asks for it, and marks its records with the run, from whatever
thread; records of other loggers are told by the run their thread stands in. One process-wide handler on the
root logger keeps both: nothing is added or removed per run, and a run that logs nothing pays nothing.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

from jobdeck.core.redact import clean, redact

if TYPE_CHECKING:
    from datetime import datetime

    from jobdeck.core.run_context import RunContext

LINES = 200
CHARACTERS = 64 * 1024
LONGEST_LINE = 2_000
TAIL = 20

running: ContextVar[RunContext | None] = ContextVar("running", default=None)
"""The run that the current thread is carrying out."""


class LogBuffer:
    """The last lines of one run's log, bounded in lines and characters; safe to fill from several threads."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._characters = 0
        self._left_out = 0
        self.count = 0
        self._lock = threading.Lock()

    def add(self, at: datetime, level: str, message: str) -> None:
        """Keeps one message, harmless and redacted, with its time and level; the oldest give way to it."""
        text = redact(clean(message[: 4 * LONGEST_LINE], multiline=True)).rstrip()
        if len(text) > LONGEST_LINE:
            text = f"{text[: LONGEST_LINE - 1]}…"
        line = f"{at.isoformat(timespec='milliseconds')[11:23]} {level:<7} {text}"
        with self._lock:
            self.count += 1
            self._lines.append(line)
            self._characters += len(line)
            while len(self._lines) > LINES or self._characters > CHARACTERS:
                self._characters -= len(self._lines.popleft())
                self._left_out += 1

    def text(self) -> str:
        """All that was kept, oldest first, after a line that counts what was dropped."""
        with self._lock:
            lines = list(self._lines)
            left_out = self._left_out
        if left_out:
            lines.insert(0, f"({left_out} earlier lines left out)")
        return "\n".join(lines)

    def tail(self) -> list[str]:
        """The last lines, for whoever follows a running job."""
        with self._lock:
            return list(self._lines)[-TAIL:]


class RunLogger(logging.Logger):
    """The logger a handler is given: named after the handler's module, its records marked with the run.

    It is not registered with the logging module, so it goes when its run goes.
    """

    def __init__(self, run: RunContext, parent: logging.Logger) -> None:
        super().__init__(parent.name, logging.INFO)
        self.parent = parent
        self._run = run

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 -- the name it has in the standard library
        """As any logger answers, but without its cache, which is filled under a lock that all threads share."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()

    def handle(self, record: logging.LogRecord) -> None:
        """Marks the record with the run, then hands it on as any logger does."""
        record.run = self._run
        super().handle(record)


@cache
def handler_logger(task_type: str) -> logging.Logger:
    """What the runs of a type log through; kept, since finding it anew takes a lock that all threads share."""
    return logging.getLogger(f"{__package__}.handlers.{task_type}")


class RunLogHandler(logging.Handler):
    """Keeps each record in the log of the run it belongs to, and lets all others go by."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Keeps one record; needs no lock of its own, since each run's buffer has one."""
        run = getattr(record, "run", None) or running.get()
        if run is not None:
            run.keep_line(record.levelname, _text(record))
        return True


def message_of(record: logging.LogRecord) -> str:
    """The record's message, as far as it can be formatted."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 -- a line that cannot be formatted must fail neither job nor worker
        return f"{record.msg} (arguments cannot be formatted: {type(error).__name__})"


def traceback_of(record: logging.LogRecord) -> str:
    """The traceback of the exception the record was given, or nothing."""
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1]))


def _text(record: logging.LogRecord) -> str:
    fields = getattr(record, "fields", {})
    text = " ".join([message_of(record), *(f"{key}={value}" for key, value in fields.items())])
    trace = traceback_of(record)
    return f"{text}\n{trace}" if trace else text


_handler = RunLogHandler()


def install() -> None:
    """Puts the handler in place; calling it again changes nothing."""
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
