"""What is stored of one run as text: the lines of its handler's logger, and the error that ended it."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections import deque
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import JobdeckError
from jobdeck.core.logs import LoggedRun, message_of, running, traceback_of
from jobdeck.core.redact import clean, redact_part, safe_error, safe_text, safe_texts, scrub

if TYPE_CHECKING:
    from collections.abc import Iterable

LINES = 200
CHARACTERS = 64 * 1024
LONGEST_LINE = 2_000
TOGETHER = 50
"""Messages that are masked in one pass at most, which bounds what a run holds of them."""
TAIL = 20
TRACEBACK_HEAD = 4_000
TRACEBACK_TAIL = 12_000


class LogBuffer:
    """The last lines of one run's log, bounded in lines and characters; safe to fill from several threads.

    Messages are kept as they come, and masked together when somebody asks for lines or many are waiting. `add` takes
    no lock: lists are safe to append to and to cut.
    """

    def __init__(self) -> None:
        self._new: list[tuple[float, str, str]] = []
        self._lines: deque[str] = deque()
        self._characters = 0
        self._left_out = 0
        self._settled = 0
        # Reentrant, because an object that is freed meanwhile may log a line of its own.
        self._lock = threading.RLock()

    def add(self, at: float, level: str, message: str) -> None:
        """Stores one message with its time, in seconds since 1970, and its level."""
        self._new.append((at, level, message))
        if len(self._new) >= TOGETHER or len(message) > LONGEST_LINE:
            with self._lock:
                self._settle()

    def _settle(self) -> None:
        """Cleans and masks the new messages, and drops the oldest lines beyond the limits."""
        new = self._new[:]
        del self._new[: len(new)]
        self._settled += len(new)
        texts = safe_texts([message for _, _, message in new], 4 * LONGEST_LINE)
        head, of_head = "", (-1, "")
        for (at, level, _), safe in zip(new, texts, strict=True):
            stamp = int(at * 1000)
            # Most lines follow within the same millisecond.
            if (stamp, level) != of_head:
                head, of_head = f"{_clock(stamp)} {level:<7} ", (stamp, level)
            text = safe.rstrip()
            if len(text) > LONGEST_LINE:
                text = f"{text[: LONGEST_LINE - 1]}…"
            self._lines.append(head + text)
            self._characters += len(head) + len(text)
        while len(self._lines) > LINES or self._characters > CHARACTERS:
            self._characters -= len(self._lines.popleft())
            self._left_out += 1

    @property
    def count(self) -> int:
        """The number of messages so far."""
        with self._lock:
            return self._settled + len(self._new)

    def text(self) -> str:
        """All stored lines, oldest first; a first line counts the dropped ones, if any."""
        with self._lock:
            self._settle()
            left_out = [f"({self._left_out} earlier lines left out)"] if self._left_out else []
            return "\n".join([*left_out, *self._lines])

    def tail(self) -> list[str]:
        """The last lines, for users who watch a running job."""
        with self._lock:
            self._settle()
            return list(self._lines)[-TAIL:]


def _clock(stamp: int) -> str:
    """The time of day of these milliseconds since 1970."""
    second, milliseconds = divmod(stamp % 86_400_000, 1000)
    return f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.{milliseconds:03}"


class RunLogger(logging.Logger):
    """A handler's logger, which marks each record with the run.

    It is not registered with the logging module, so it is freed with its run. A line that only the run's own log gets
    is kept without a record: to make one, and to find the line of code for it, takes most of the time of a log call.
    """

    def __init__(self, run: LoggedRun, parent: logging.Logger) -> None:
        # Below `info` only where the process writes such lines; the log of the run never has them.
        super().__init__(parent.name, min(logging.root.level, logging.INFO))
        self.parent = parent
        self._run = run
        self._makes_records = not _is_standard()

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 -- the name it has in the standard library
        """Overrides the standard method to avoid its cache, which takes a lock shared by all threads."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Any = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        if not (exc_info or extra or stack_info or self._makes_records) and self._is_for_the_run(level):
            text = _formatted(msg, args)
            if text is not None:
                self._run.keep_line(logging.getLevelName(level), text)
                return
        super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)

    def _is_for_the_run(self, level: int) -> bool:
        """Whether the run's log gets lines of this level, and no other handler does."""
        found = False
        logger: logging.Logger | None = self
        while logger is not None:
            for handler in logger.handlers:
                if handler is _handler:
                    found = level >= handler.level
                elif level >= handler.level and type(handler) is not logging.NullHandler:
                    return False
            logger = logger.parent if logger.propagate else None
        return found and not self.filters

    def handle(self, record: logging.LogRecord) -> None:
        record.run = self._run
        super().handle(record)


def _formatted(msg: object, args: tuple[object, ...]) -> str | None:
    """The message as a record formats it; None where only a record can."""
    try:
        return str(msg) % args if args else str(msg)
    except Exception:  # noqa: BLE001 -- of a mapping, the record formats the entries; else it says what is wrong
        return None


def _is_standard() -> bool:
    """Whether records are made and passed on by the standard library alone.

    Monitoring libraries replace these functions to see each record.
    """
    if logging.getLogRecordFactory() is not logging.LogRecord:
        return False
    own = logging.addLevelName.__code__.co_filename
    for function in (logging.Logger.makeRecord, logging.Logger.handle, logging.Logger.callHandlers):
        if type(function) is not FunctionType or function.__code__.co_filename != own:
            return False
    return True


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


def install(task_types: Iterable[str]) -> None:
    """Adds the handler to the root logger, once, and makes the loggers of these types, so that no run has to."""
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)
    for task_type in task_types:
        handler_logger(task_type)


def error_message(error: BaseException) -> str:
    """The exception's message in one safe line, with the class name in front unless it is an error of Jobdeck.

    Never raises, whatever the methods of the exception do.
    """
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 -- also SystemExit: `__str__` of a handler's exception may raise anything
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
    except BaseException as problem:  # noqa: BLE001 -- a hostile exception must not keep its run from being reported
        return f"(the traceback cannot be shown: {type(problem).__name__})", ()


def presentable_trace(text: str) -> str:
    """A traceback as it is stored: redacted, and without its middle if it is long."""
    if len(text) > TRACEBACK_HEAD + TRACEBACK_TAIL:
        end = redact_part(text, len(text) - TRACEBACK_TAIL, len(text))
        return clean(f"{redact_part(text, 0, TRACEBACK_HEAD)}\n…\n{end}", multiline=True)
    return safe_text(text)
