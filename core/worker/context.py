"""What a handler is given beside its payload: one run's log, progress, checkpoint, cancellation, database."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import Enum
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import Cancelled, LeaseLost, TimedOut
from jobdeck.core.logs import message_of, running, traceback_of
from jobdeck.core.plugins import load_plugins
from jobdeck.core.postgres.jsonb import storable
from jobdeck.core.queue import leases
from jobdeck.core.redact import clean, redact, safe_error

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


CHECKPOINT_BYTES = 1024 * 1024


class Stop(Enum):
    """Why a run is told to stop."""

    CANCELLED = "an operator asked for the job to be cancelled"
    TIMED_OUT = "the run took longer than its task type allows"
    RELEASED = "the worker is stopping and hands the job back"
    LOST = "the run no longer holds its job"


class RunResources:
    """What the runs of one process share: settings, the database's pool, and what each plugin gives its job types."""

    def __init__(self, settings: Settings, database: Database | None) -> None:
        self.settings = settings
        self.database = database
        self._opened: dict[str, object] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def of(self, plugin: str) -> object:
        """The resources of a plugin, opened when they are first asked for; None where it has none."""
        if plugin not in self._opened:
            with self._lock:
                if plugin not in self._opened:
                    self._opened[plugin] = self._open(plugin)
        return self._opened[plugin]

    def _open(self, plugin: str) -> object:
        opener = next((found.resources for found in load_plugins() if found.name == plugin), None)
        return self._stack.enter_context(opener(self.settings, self.database)) if opener else None

    def close(self) -> None:
        """Closes what was opened."""
        self._stack.close()

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection from the pool."""
        if self.database is None:
            raise RuntimeError("this run was started without a database")
        return self.database.connection()


class RunContext:
    """One run of one claimed job: `jobdeck.core.registry.JobContext` for the handler, and the worker's record of it.

    Whatever a no-op handler does not ask for is made at first use. The clock is the database's: the moment of
    the claim plus what has elapsed since it was answered.
    """

    dry_run = False
    plugin = ""
    """The plugin that the job's type belongs to."""
    started: float | None = None
    """When the handler began, on the monotonic clock; None while the job waits for a slot."""
    stop: Stop | None = None
    """Why the run should end; None while it should go on."""
    result: FinishedRun | None = None
    elapsed = 0.0
    """How long the handler took, in seconds; known with the result."""
    stack: tuple[tuple[str, int, str], ...] = ()
    """File, line and function of each frame of the failure, outermost first, for alerts."""
    _borrowed: AbstractContextManager[psycopg.Connection[Any]] | None = None
    _connection: psycopg.Connection[Any] | None = None
    _lines: LogBuffer | None = None
    _progress: tuple[int, int | None, str] | None = None
    _progress_since: tuple[float, int] = (0.0, 0)
    _told: object = None

    def __init__(self, job: ClaimedJob, resources: RunResources, epoch: float, lease_end: float) -> None:
        """`epoch` is the database's time, in seconds since 1970, when the monotonic clock, as in `lease_end`, was 0."""
        self.job = job
        self.lease_end = lease_end
        self.epoch = epoch
        self._resources = resources
        self._checkpoint = job.checkpoint

    @property
    def settings(self) -> Settings:
        """The worker's settings."""
        return self._resources.settings

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of one cycle of one job."""
        return self.job.cycle_key

    @property
    def resources(self) -> Any:
        """What the plugin of this job type shares among its runs; None for a type of no plugin."""
        return self._resources.of(self.plugin)

    @cached_property
    def log(self) -> logging.Logger:
        """The run's logger: what is logged here is kept with the run, and goes to the worker's log as well."""
        return RunLogger(self, handler_logger(self.job.task_type))

    @property
    def db(self) -> psycopg.Connection[Any]:
        """An autocommit connection from the worker's pool, borrowed until the run ends."""
        if self._connection is None:
            self._borrowed = self._resources.connection()
            self._connection = self._borrowed.__enter__()
        return self._connection

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Says how far the run is; kept in memory and sent with the next heartbeat.

        Raises:
            LeaseLost: the run no longer holds its job.
        """
        if self._progress is None:
            self._progress_since = (time.monotonic(), done)
        self._progress = (done, total, message)
        if self.stop is Stop.LOST:
            raise LeaseLost(self._lost())

    @property
    def checkpoint(self) -> Json | None:
        """What the last `save_checkpoint` or `Continue` of this job left."""
        return self._checkpoint

    def save_checkpoint(self, checkpoint: Json) -> None:
        """Keeps a checkpoint at once, so that the next attempt goes on from here even after a crash.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: the checkpoint is no JSON object, or larger than 1 MiB.
        """
        kept = storable(checkpoint, "checkpoint", CHECKPOINT_BYTES)
        with self._resources.connection() as conn:
            held = leases.save_checkpoint(conn, self.job.id, self.job.run_token, kept)
        if not held:
            self.stop = Stop.LOST
            raise LeaseLost(self._lost())
        self._checkpoint = kept

    def cancelled(self) -> bool:
        """Whether to stop now: an operator asked, the run timed out, or the worker is giving the job up."""
        return self.stop is not None

    def raise_if_cancelled(self) -> None:
        """Ends the run where `cancelled` is true.

        Raises:
            Cancelled: an operator asked, or the worker is stopping.
            TimedOut: the run took too long.
            LeaseLost: the run no longer holds its job.
        """
        if self.stop is None:
            return
        if self.stop is Stop.TIMED_OUT:
            raise TimedOut(f"The run was told to stop: {self.stop.value}.")
        if self.stop is Stop.LOST:
            raise LeaseLost(self._lost())
        raise Cancelled(f"The run was told to stop: {self.stop.value}.")

    def _lost(self) -> str:
        return (
            f"Run {self.job.run_token} no longer holds its job: its lease ended and the job was taken back. "
            "Its result is dropped."
        )

    def at(self, moment: float) -> datetime:
        """The database's time at a moment of the monotonic clock."""
        return datetime.fromtimestamp(self.epoch + moment, UTC)

    def keep_line(self, level: str, message: str) -> None:
        """Adds a line to the run's log."""
        if self._lines is None:
            self._lines = LogBuffer()
        self._lines.add(self.at(time.monotonic()), level, message)

    def log_tail(self) -> list[str]:
        """The last lines of the run's log."""
        return self._lines.tail() if self._lines is not None else []

    def log_text(self) -> str | None:
        """The run's log so far; None where nothing was logged."""
        return self._lines.text() if self._lines is not None else None

    @property
    def is_silent(self) -> bool:
        """Whether the run has told of no progress and logged nothing."""
        return self._lines is None and self._progress is None

    def progress_so_far(self, *, tail: bool = False) -> Json | None:
        """The progress as it is stored: done, total, message, items a second, and the log's tail if asked for."""
        said: Json = {}
        if self._progress is not None:
            done, total, message = self._progress
            said = {"done": done, "total": total, "message": safe_error(message, 200)}
            since, first = self._progress_since
            elapsed = time.monotonic() - since
            if done > first and elapsed > 0:
                said["rate"] = round((done - first) / elapsed, 3)
        if tail and self._lines is not None:
            said["log"] = self.log_tail()
        return said or None

    def has_news(self) -> bool:
        """Whether progress or log have changed since the last `news`."""
        now = self._state()
        return now not in ((None, 0), self._told)

    def news(self) -> Json | None:
        """The progress and log tail, once per change: None where nothing is new since the last call."""
        if not self.has_news():
            return None
        self._told = self._state()
        return self.progress_so_far(tail=True)

    def _state(self) -> tuple[object, int]:
        return self._progress, self._lines.count if self._lines is not None else 0

    def news_was_lost(self) -> None:
        """Takes back that the last news were told."""
        self._told = None

    def close(self) -> None:
        """Gives the borrowed connection back; called by the thread that ran the handler."""
        borrowed, self._borrowed, self._connection = self._borrowed, None, None
        if borrowed is not None:
            borrowed.__exit__(None, None, None)
