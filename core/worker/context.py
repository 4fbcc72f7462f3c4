"""The context of one run, which a handler gets with its payload: log, progress, checkpoint, cancellation, database."""

from __future__ import annotations

import logging
import math
import operator
import threading
import time
from collections import deque
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import Enum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import Cancelled, LeaseLost, PermanentError, TimedOut
from jobdeck.core.logs import event, message_of, running, traceback_of
from jobdeck.core.plugins import load_plugins
from jobdeck.core.postgres.jsonb import storable
from jobdeck.core.queue import leases
from jobdeck.core.redact import safe_error, safe_text, scrub

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import psycopg

    from jobdeck.core.model import ClaimedJob, FinishedRun, Json
    from jobdeck.core.postgres.database import Database
    from jobdeck.core.settings import Settings

LINES = 200
CHARACTERS = 64 * 1024
LONGEST_LINE = 2_000
TAIL = 20


class LogBuffer:
    """The last lines of one run's log, bounded in lines and characters; safe to fill from several threads."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._characters = 0
        self._left_out = 0
        self.count = 0
        self._lock = threading.Lock()

    def add(self, at: datetime, level: str, message: str) -> None:
        """Stores one message, cleaned and redacted, with its time and level; drops the oldest beyond the limits."""
        text = safe_text(message, 4 * LONGEST_LINE).rstrip()
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

    def __init__(self, run: RunContext, parent: logging.Logger) -> None:
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
    fields = scrub(getattr(record, "fields", {}))
    text = " ".join([message_of(record), *(f"{key}={value}" for key, value in fields.items())])
    trace = traceback_of(record)
    return f"{text}\n{trace}" if trace else text


_handler = RunLogHandler(logging.INFO)


def install() -> None:
    """Adds the handler to the root logger, once."""
    root = logging.getLogger()
    if _handler not in root.handlers:
        root.addHandler(_handler)


CHECKPOINT_BYTES = 1024 * 1024


class Stop(Enum):
    """Why a run must stop."""

    CANCELLED = "an operator asked for the job to be cancelled"
    TIMED_OUT = "the run took longer than its task type allows"
    RELEASED = "the worker is stopping and hands the job back"
    LOST = "the run no longer holds its job"


def _number(value: Any) -> Any:
    """A number as JSON has it; whole numbers of other libraries become Python's own."""
    if isinstance(value, float) and math.isfinite(value):
        return value
    try:
        return int(operator.index(value))
    except TypeError:
        raise PermanentError(
            f"The progress of a run is a number of done items and a total, not a {type(value).__name__} like "
            f"{safe_error(repr(value), 60)}."
        ) from None


class RunResources:
    """Shared by the runs of one process: settings, the database's pool, and the resources of each plugin."""

    def __init__(self, settings: Settings, database: Database | None) -> None:
        self.settings = settings
        self.database = database
        self._opened: dict[str, object] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def of(self, plugin: str) -> object:
        """The resources of a plugin, opened at first use; None if it has none."""
        if plugin not in self._opened:
            with self._lock:
                if plugin not in self._opened:
                    self._opened[plugin] = self._open(plugin)
        return self._opened[plugin]

    def _open(self, plugin: str) -> object:
        opener = next((found.resources for found in load_plugins() if found.name == plugin), None)
        return self._stack.enter_context(opener(self.settings, self.database)) if opener else None

    def close(self) -> None:
        self._stack.close()

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        if self.database is None:
            raise RuntimeError("this run was started without a database")
        return self.database.connection()


def run_event(logger: logging.Logger, level: int, message: str, context: RunContext, **fields: Any) -> None:
    """Logs an event about a run, with its token, job and type."""
    job = context.job
    event(logger, level, message, run=job.run_token, job=job.id, type=job.task_type, **fields)


class RunContext:
    """One run of one claimed job: the handler's `jobdeck.core.registry.JobContext` and the worker's record of the run.

    Log, connection and resources are created at first use. All times are the database's: the time of the claim plus
    the time elapsed here since its answer.
    """

    dry_run = False
    plugin = ""
    """The plugin that the job's type belongs to."""
    started: float | None = None
    """When the handler began, on the monotonic clock; None while the job waits for a slot."""
    stop: Stop | None = None
    """Why the run must stop; None while it may continue."""
    result: FinishedRun | None = None
    elapsed = 0.0
    """Seconds that the handler took; set together with the result."""
    stack: tuple[tuple[str, int, str], ...] = ()
    """File, line and function of each frame of the traceback, outermost first, for alerts."""
    _borrowed: AbstractContextManager[psycopg.Connection[Any]] | None = None
    _connection: psycopg.Connection[Any] | None = None
    _lines: LogBuffer | None = None
    _progress: tuple[int, int | None, str] | None = None
    _progress_since: tuple[float, int] = (0.0, 0)
    _reported: object = None

    def __init__(self, job: ClaimedJob, resources: RunResources, epoch: float, lease_end: float) -> None:
        """`epoch` is the database's time, in seconds since 1970, at 0 of the monotonic clock that `lease_end` uses."""
        self.job = job
        self.lease_end = lease_end
        self.epoch = epoch
        self._resources = resources
        self._checkpoint = job.checkpoint

    @property
    def settings(self) -> Settings:
        return self._resources.settings

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of one cycle of one job."""
        return self.job.cycle_key

    @property
    def resources(self) -> Any:
        """The resources that the plugin of this job type shares among runs; None if the type has no plugin."""
        return self._resources.of(self.plugin)

    @cached_property
    def log(self) -> logging.Logger:
        """The run's logger: its records are stored with the run and also go to the worker's log."""
        return RunLogger(self, handler_logger(self.job.task_type))

    @property
    def db(self) -> psycopg.Connection[Any]:
        """An autocommit connection from the worker's pool, borrowed until the run ends."""
        if self._connection is None:
            self._borrowed = self._resources.connection()
            self._connection = self._borrowed.__enter__()
        return self._connection

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Reports the run's progress, which is kept in memory and sent with the next heartbeat.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: `done` or `total` is no number, or is not finite.
        """
        # Here, and not where it is sent: one heartbeat has the progress of all runs of a worker.
        if type(done) is not int or (total is not None and type(total) is not int):
            done, total = _number(done), None if total is None else _number(total)
        if type(message) is not str:
            message = str(message or "")
        if self._progress is None:
            self._progress_since = (time.monotonic(), done)
        self._progress = (done, total, message)
        if self.stop is Stop.LOST:
            raise LeaseLost(self._lost())

    @property
    def checkpoint(self) -> Json | None:
        """The checkpoint of the last `save_checkpoint` or `Continue` of this job."""
        return self._checkpoint

    def save_checkpoint(self, checkpoint: Json) -> None:
        """Saves a checkpoint at once, so that the next attempt continues from it even after a crash.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: the checkpoint is not a JSON object, or is larger than 1 MiB.
        """
        kept = storable(checkpoint, "checkpoint", CHECKPOINT_BYTES)
        if not self._store(kept):
            self.stop = Stop.LOST
            raise LeaseLost(self._lost())
        self._checkpoint = kept

    def _store(self, checkpoint: Json) -> bool:
        """Writes a checkpoint into the database; False if the run no longer holds its job."""
        with self._resources.connection() as conn:
            return leases.save_checkpoint(conn, self.job.id, self.job.run_token, checkpoint)

    def cancelled(self) -> bool:
        """Whether the run must stop: an operator cancelled it, it timed out, or the worker is stopping."""
        return self.stop is not None

    def raise_if_cancelled(self) -> None:
        """Ends the run if `cancelled` is true.

        Raises:
            Cancelled: an operator cancelled the job, or the worker is stopping.
            TimedOut: the run took too long.
            LeaseLost: the run no longer holds its job.
        """
        if self.stop is None:
            return
        if self.stop is Stop.TIMED_OUT:
            raise TimedOut(f"The run was stopped: {self.stop.value}.")
        if self.stop is Stop.LOST:
            raise LeaseLost(self._lost())
        raise Cancelled(f"The run was stopped: {self.stop.value}.")

    def _lost(self) -> str:
        return (
            f"Run {self.job.run_token} no longer holds its job: its lease expired and the job was taken back. "
            "Its result is discarded."
        )

    def at(self, moment: float) -> datetime:
        """Converts a time of the monotonic clock into the database's time."""
        return datetime.fromtimestamp(self.epoch + moment, UTC)

    def keep_line(self, level: str, message: str) -> None:
        if self._lines is None:
            self._lines = LogBuffer()
        self._lines.add(self.at(time.monotonic()), level, message)

    def log_tail(self) -> list[str]:
        return self._lines.tail() if self._lines is not None else []

    def log_text(self) -> str | None:
        """The run's log so far; None if nothing was logged."""
        return self._lines.text() if self._lines is not None else None

    @property
    def is_silent(self) -> bool:
        """Whether the run has neither reported progress nor logged anything."""
        return self._lines is None and self._progress is None

    def progress_so_far(self, *, tail: bool = False) -> Json | None:
        """The progress as stored: `done`, `total`, `message`, `rate` in items per second, and with `tail` the `log`."""
        stored: Json = {}
        if self._progress is not None:
            done, total, message = self._progress
            stored = {"done": done, "total": total, "message": safe_error(message, 200)}
            since, first = self._progress_since
            elapsed = time.monotonic() - since
            if done > first and elapsed > 0:
                stored["rate"] = round((done - first) / elapsed, 3)
        if tail and self._lines is not None:
            stored["log"] = self.log_tail()
        return stored or None

    def has_news(self) -> bool:
        """Whether progress or log have changed since the last `news`."""
        return self._state() not in ((None, 0), self._reported)

    def news(self) -> Json | None:
        """The progress and log tail; None if they have not changed since the last call."""
        if not self.has_news():
            return None
        self._reported = self._state()
        return self.progress_so_far(tail=True)

    def _state(self) -> tuple[object, int]:
        return self._progress, self._lines.count if self._lines is not None else 0

    def news_was_lost(self) -> None:
        """Makes the next `news` return the progress again, because the last did not reach the database."""
        self._reported = None

    def close(self) -> None:
        """Returns the borrowed connection to the pool; called by the thread that ran the handler."""
        borrowed, self._borrowed, self._connection = self._borrowed, None, None
        if borrowed is not None:
            borrowed.__exit__(None, None, None)
