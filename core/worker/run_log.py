"""What is stored of one run as text: the lines of its handler's logger, and the error that ended it."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections import deque
from functools import cache
from typing import TYPE_CHECKING

from jobdeck.core.errors import JobdeckError
from jobdeck.core.logs import message_of, running, traceback_of
from jobdeck.core.redact import clean, redact_part, safe_error, safe_text, scrub

if TYPE_CHECKING:
    from jobdeck.core.logs import LoggedRun

LINES = 200
CHARACTERS = 64 * 1024
LONGEST_LINE = 2_000
TAIL = 20
TRACEBACK_HEAD = 4_000
TRACEBACK_TAIL = 12_000


class LogBuffer:
    """The last lines of one run's log, bounded in lines and characters; safe to fill from several threads."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._characters = 0
        self._left_out = 0
        self.count = 0
        self._lock = threading.Lock()

    def add(self, at: float, level: str, message: str) -> None:
        """Stores one message, cleaned and redacted, with its time and level; drops the oldest beyond the limits.

        `at` is in seconds since 1970.
        """
        text = safe_text(message, 4 * LONGEST_LINE).rstrip()
        if len(text) > LONGEST_LINE:
            text = f"{text[: LONGEST_LINE - 1]}…"
        second = int(at) % 86_400
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{int(at % 1 * 1000):03}"
        line = f"{clock} {level:<7} {text}"
        with self._lock:
            self.count += 1
            self._lines.append(line)
            self._characters += len(line)
            while len(self._lines) > LINES or self._characters > CHARACTERS:
                self._characters -= len(self._lines.popleft())
                self._left_out += 1

    def text(self) -> str:
        """All stored lines, oldest first; a first line counts the dropped ones, if any."""
        with self._lock:
            lines = list(self._lines)
            left_out = self._left_out
        if left_out:
            lines.insert(0, f"({left_out} earlier lines left out)")
        return "\n".join(lines)

    def tail(self) -> list[str]:
        """The last lines, for users who watch a running job."""
        with self._lock:
            return list(self._lines)[-TAIL:]


class RunLogger(logging.Logger):
    """A handler's logger, which marks each record with the run.

    It is not registered with the logging module, so it is freed with its run.
    """

    def __init__(self, run: LoggedRun, parent: logging.Logger) -> None:
        # Below `info` only where the process writes such lines; the log of the run never has them.
        super().__init__(parent.name, min(logging.root.level, logging.INFO))
        self.parent = parent
        self._run = run

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 -- the name it has in the standard library
        """Overrides the standard method to avoid its cache, which takes a lock shared by all threads."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()

    def handle(self, record: logging.LogRecord) -> None:
        record.run = self._run
        super().handle(record)


@cache
def handler_logger(task_type: str) -> logging.Logger:
    """The parent logger for runs of a type; cached, since `getLogger` takes a lock shared by all threads."""
    return logging.getLogger(f"{__package__}.handlers.{task_type}")


class RunLogHandler(logging.Handler):
    """Stores each record in the log of its run, and ignores records without a run."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Stores one record, without the handler's lock, because each run's buffer has its own."""
        run = getattr(record, "run", None) or running.get()
        if run is not None:
            run.keep_line(record.levelname, _text(record))
        return True


def _text(record: logging.LogRecord) -> str:
    text = message_of(record)
    if fields := getattr(record, "fields", None):
        text = " ".join([text, *(f"{key}={value}" for key, value in scrub(fields).items())])
    trace = traceback_of(record)
    return f"{text}\n{trace}" if trace else text


_handler = RunLogHandler(logging.INFO)


def install() -> None:
    """Adds the handler to the root logger, once."""
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)


def error_message(error: BaseException) -> str:
    """The exception's message in one safe line, with the class name in front unless it is an error of Jobdeck."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 -- `__str__` of a handler's exception may raise anything
        text = "(the exception has no readable message)"
    if isinstance(error, SystemExit):
        text = f"the handler called sys.exit({text}); a handler must return or raise"
    if isinstance(error, asyncio.CancelledError):
        text = text or "the handler cancelled itself, or what it waited for was cancelled"
    if not text.strip():
        return name
    return safe_error(text if isinstance(error, JobdeckError) else f"{name}: {text}")


def trace_of(error: BaseException) -> tuple[str, tuple[tuple[str, int, str], ...]]:
    """The traceback from the handler inwards, redacted and shortened, and its frames."""
    try:
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        found = traceback.TracebackException(type(error), error, inner or error.__traceback__)
        frames = tuple((frame.filename, frame.lineno or 0, frame.name) for frame in found.stack)
        return presentable_trace("".join(found.format())), frames[-50:]
    except Exception as problem:  # noqa: BLE001 -- a hostile exception must not keep its run from being reported
        return f"(the traceback cannot be shown: {type(problem).__name__})", ()


def presentable_trace(text: str) -> str:
    """A traceback as it is stored: redacted, and without its middle if it is long."""
    if len(text) > TRACEBACK_HEAD + TRACEBACK_TAIL:
        end = redact_part(text, len(text) - TRACEBACK_TAIL, len(text))
        return clean(f"{redact_part(text, 0, TRACEBACK_HEAD)}\n…\n{end}", multiline=True)
    return safe_text(text)
