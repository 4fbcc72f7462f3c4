"""Structured logging: one line per event, as text or JSON, cleaned and redacted.

Callers pass facts as fields: `event(logger, INFO, "claimed", jobs=5)`. A line written while a handler runs also has
the run's token, job and type, whichever library wrote it.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import math
import os
import stat
import sys
import time
import traceback
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from jobdeck.core.errors import ConfigurationError
from jobdeck.core.plugins import load_plugins
from jobdeck.core.redact import clean, harmless_json, redact, redact_part, safe_text, scrub

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path
    from uuid import UUID

    from jobdeck.core.model import ClaimedJob

FILE_BYTES = 10 * 1024 * 1024
FILES_KEPT = 5
LONGEST_MESSAGE = 8_000
_CHATTY = (
    "httpx",
    "httpcore",
    "urllib3",
    "sentry_sdk",
    "psycopg",
    "psycopg.pool",
)
"""Loggers that write from `warning` on at any level: below that they write addresses, requests and statements."""
Level = Literal["debug", "info", "warning", "error"]
_LEVELS: Final[dict[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_ours: list[logging.Handler] = []


class LoggedRun(Protocol):
    """A run to which log records belong."""

    job: ClaimedJob

    def keep_line(self, level: str, message: str) -> None:
        """Adds a line to the run's log."""


running: ContextVar[LoggedRun | None] = ContextVar("running", default=None)
"""The run of the current thread."""


def event(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Logs an event with its fields; nearly free if the level is off.

    It needs no lock of the logging module, which the interrupted thread of a handler may leave locked in Python 3.11
    and 3.12: the threads that keep leases and report runs must go on.
    """
    if level >= logger.getEffectiveLevel() and level > logger.manager.disable:
        file, line, function, _ = logger.findCaller(stacklevel=2)
        facts = {"fields": fields}
        logger.handle(logger.makeRecord(logger.name, level, file, line, "%s", (message,), None, function, facts))


def configure(
    *, console: bool, file: Path | None = None, form: Literal["text", "json"] = "text", level: Level = "info"
) -> None:
    """Sets up logging for the whole process: to standard error with `console`, and to the file if given.

    Records below `level` are not written. The log of a run, which is stored with it, is from `info` on at any level.

    The dashboard passes `console=False`: then nothing writes to the terminal, not even the errors of the logging
    module. A second call replaces the set-up of the first. Only the owner can read the file, which rotates at 10 MiB
    and keeps 5 older files.

    Raises:
        ConfigurationError: the log file cannot be opened.
    """
    root = logging.getLogger()
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(_file_handler(file))
    if console:
        handlers.append(Console(sys.stderr))
    shutdown()
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    least = _LEVELS[level]
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter)
        handler.setLevel(least)
        root.addHandler(handler)
        _ours.append(handler)
    root.setLevel(min(least, logging.INFO) if handlers else logging.WARNING)
    quiet_loggers()
    logging.raiseExceptions = False
    logging.captureWarnings(capture=not console)


def quiet_loggers() -> None:
    """Sets the loggers to `warning` that write a line per request, with addresses and keys in it."""
    for name in (*_CHATTY, *(name for plugin in load_plugins() for name in plugin.quiet_loggers)):
        logging.getLogger(name).setLevel(logging.WARNING)


def shutdown() -> None:
    """Removes and closes the handlers of `configure`."""
    root = logging.getLogger()
    while _ours:
        handler = _ours.pop()
        root.removeHandler(handler)
        handler.close()


class _Sparing(logging.Filter):
    """Drops all but 20 records per five minutes."""

    MOST = 20
    SECONDS = 300.0

    def __init__(self) -> None:
        super().__init__()
        self._since = -math.inf
        self._count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        del record
        now = time.monotonic()
        if now - self._since > self.SECONDS:
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= self.MOST


def bound(name: str) -> None:
    """Limits the records of a logger, so that the clients of a server cannot fill the disk."""
    logger = logging.getLogger(name)
    if not any(isinstance(found, _Sparing) for found in logger.filters):
        logger.addFilter(_Sparing())


def _file_handler(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return OwnersFile(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"JOBDECK_LOG_FILE names {path}, which cannot be written ({error.strerror})."
        ) from error


class Interruptible(logging.Handler):
    """A handler whose lock is free after any exception, also after one that another thread raises in the one that logs.

    Such an exception may come between the standard library's `acquire` and its `try`. Then the lock would be held for
    ever, and each thread that logs would wait for it. It never comes between the two within a `with`.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        passed: object = self.filter(record)
        if passed:
            with self.lock or nullcontext():
                self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def close(self) -> None:
        with self.lock or nullcontext():
            super().close()

    def acquire(self) -> None:
        """Does nothing: the methods that call it do so while `handle` or `close` holds the lock."""

    def release(self) -> None:
        """Does nothing, see `acquire`."""


class Console(Interruptible, logging.StreamHandler[Any]):
    """Writes to a stream."""


class OwnersFile(Interruptible, logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read, also after it was rotated."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=open_private)


def open_private(path: str | Path, flags: int) -> int:
    """Opens a file, which it makes if it is missing, so that only its owner can read it, also if everybody could.

    A link is followed only in a folder in which nobody but this account and root can put one.
    """
    folder = os.stat(os.path.dirname(path) or ".")  # noqa: PTH116, PTH120 -- `open` gives a text
    ours = folder.st_uid in {0, os.geteuid()} and not folder.st_mode & 0o022
    handle = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | (0 if ours else os.O_NOFOLLOW), 0o600)
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o077:
        os.fchmod(handle, 0o600)
    return handle


def message_of(record: logging.LogRecord) -> str:
    """The record's message, or its unformatted text if formatting fails."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 -- a line that cannot be formatted must fail neither job nor worker
        return f"{record.msg} (arguments cannot be formatted: {type(error).__name__})"


def traceback_of(record: logging.LogRecord) -> str:
    """The traceback of the record's exception; empty if it has none."""
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    return "".join(traceback.format_exception(record.exc_info[1]))


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """The record's run, then its fields, scrubbed."""
    run = getattr(record, "run", None) or running.get()
    facts = {} if run is None else _facts_of(run.job.run_token, run.job.id, run.job.task_type)
    fields = getattr(record, "fields", None)
    return {**facts, **scrub(fields)} if fields else facts


@lru_cache(1024)
def _facts_of(run_token: int, job_id: UUID, task_type: str) -> dict[str, Any]:
    """What each line says of its run; to scrub it takes longer than to write the line."""
    scrubbed: dict[str, Any] = scrub({"run": run_token, "job": str(job_id), "type": task_type})
    return scrubbed


def _message(record: logging.LogRecord) -> str:
    return safe_text(message_of(record), LONGEST_MESSAGE)


def _trace(record: logging.LogRecord) -> str:
    trace = traceback_of(record)
    if not trace:
        return ""
    return clean(redact_part(trace, max(len(trace) - LONGEST_MESSAGE, 0), len(trace)), multiline=True)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class TextFormatter(logging.Formatter):
    """`time LEVEL logger message key=value …`, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record as one harmless line."""
        parts = [_time(record), record.levelname, record.name, _message(record)]
        parts += [f"{key}={self._value(value)}" for key, value in _facts(record).items() if value is not None]
        trace = _trace(record)
        if trace:
            parts.append(f"traceback={self._value(trace)}")
        return clean(" ".join(parts))

    @staticmethod
    def _value(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        text = clean(value if isinstance(value, str) else redact(str(value)))
        return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' ="') else text


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, the run, the fields, `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record as one JSON object."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line.update((key, value) for key, value in _facts(record).items() if value is not None)
        trace = _trace(record)
        if trace:
            line["traceback"] = trace
        return harmless_json(line, default=lambda value: safe_text(str(value)))
