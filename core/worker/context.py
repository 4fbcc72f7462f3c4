"""The context of one run, which a handler gets with its payload: log, progress, checkpoint, cancellation, database."""

from __future__ import annotations

import math
import operator
import threading
import time
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jobdeck.core.errors import Cancelled, JobdeckError, LeaseLost, PermanentError, TimedOut
from jobdeck.core.logs import event
from jobdeck.core.model import ClaimedJob, FinishedRun, Json, RunOutcome
from jobdeck.core.plugins import load_plugins
from jobdeck.core.postgres.jsonb import storable
from jobdeck.core.postgres.lent.loan import CLOSED
from jobdeck.core.queue import leases
from jobdeck.core.queue.producers.finishing import Reporter, record
from jobdeck.core.redact import safe_error
from jobdeck.core.telemetry.spans import Origin
from jobdeck.core.worker.run_log import LogBuffer, RunLogger, handler_logger

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from uuid import UUID

    import psycopg

    from jobdeck.core.postgres.database import Database
    from jobdeck.core.queue.producers.connections import SyncConnection
    from jobdeck.core.registry import Continue, Done, Opener
    from jobdeck.core.settings import Settings
    from jobdeck.core.telemetry import recorder

CHECKPOINT_BYTES = 1024 * 1024
LARGEST_NUMBER = 2**63
"""Progress counts to less than this, as a `bigint` does."""


class Stop(Enum):
    """Why a run must stop."""

    CANCELLED = "an operator asked for the job to be cancelled"
    TIMED_OUT = "the run took longer than its job or task type allows"
    RELEASED = "the worker is stopping and hands the job back"
    LOST = "the run no longer holds its job"


def _number(value: Any) -> Any:
    """A number as JSON has it; whole numbers of other libraries become Python's own."""
    try:
        number = value if isinstance(value, float) else int(operator.index(value))
    except TypeError:
        number = math.nan
    if -LARGEST_NUMBER < number < LARGEST_NUMBER:
        return number
    shown = "of more than 19 digits" if isinstance(value, int) else f"like {safe_error(repr(value), 60)}"
    raise PermanentError(
        f"The progress of a run is a number of done items and a total, not a {type(value).__name__} {shown}."
    )


class RunResources:
    """Shared by the runs of one process: settings, the database's pool, and the resources of each plugin."""

    def __init__(self, settings: Settings, database: Database | None) -> None:
        self.settings, self.database = settings, database
        self.worker_id = ""
        """The worker that reports the runs; empty where there is none."""
        self.on_lost: Callable[[RunContext], object] | None = None
        """Called with a run that finds by its checkpoint that it does not hold its job."""
        self._opened: dict[object, object] = {}
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._locks: dict[object, threading.Lock] = {}
        """One for each key, so that what opens slowly delays only the runs that need it."""

    def of(self, plugin: str, own: Opener | None = None) -> object:
        """What a type's own function opens, or else its plugin's, at first use; None if there is neither."""
        key = own or plugin
        if key not in self._opened:
            self._once(key, lambda: self._open(plugin, own))
        return self._opened[key]

    def enter(self, own: Opener, made: AbstractContextManager[Any]) -> object:
        """Enters the context manager that `own` made, unless it was entered before; returns its value."""
        self._once(own, lambda: self._stack.enter_context(made))
        return self._opened[own]

    def _once(self, key: object, opened: Callable[[], object]) -> None:
        with self._lock:
            of_key = self._locks.setdefault(key, threading.Lock())
        with of_key:
            if key not in self._opened:
                self._opened[key] = opened()

    def _open(self, plugin: str, own: Opener | None) -> object:
        opener: Any = own or next((found.resources for found in load_plugins() if found.name == plugin), None)
        lends = self.database and self.database.for_application()
        return self._stack.enter_context(opener(self.settings, lends)) if opener else None

    def close(self) -> None:
        self._stack.close()

    def connection(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        return self.known_database().connection()

    def lend(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        return self.known_database().lend()

    def known_database(self) -> Database:
        """The database. It is a RuntimeError to ask for it where the runs have none."""
        if self.database is None:
            raise RuntimeError("this run was started without a database")
        return self.database


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
    opener: Opener | None = None
    """What opens the resources of the job's type, if it has its own."""
    shared: tuple[object] | None = None
    """What was opened on the event loop for the type of this run; None if nothing was."""
    started: float | None = None
    """When the handler began, on the monotonic clock; None while the job waits for a slot."""
    is_known = True
    """Whether the database takes the run for begun; a heartbeat reports the begin of one that waited for a slot."""
    starting = False
    """Whether the run waits for its process; `started` is then when that began."""
    stop: Stop | None = None
    """Why the run must stop; None while it may continue."""
    on_stop: Callable[[RunContext], None] | None = None
    """What interrupts the run when it must stop; None for a thread, whose handler asks by itself."""
    result: FinishedRun | None = None
    elapsed = 0.0
    """Seconds that the handler took; set together with the result."""
    stack: tuple[tuple[str, int, str], ...] = ()
    """File, line and function of each frame of the traceback, outermost first, for alerts."""
    notice = ""
    """What is shown of a run that goes on although it must stop, in place of its progress message."""
    position = ""
    """The stack of the handler at its timeout."""
    report_of: Callable[[RunContext, object], FinishedRun] | None = None
    """Makes the report of what the handler returns; set when the handler begins."""
    origin = Origin()
    """The spans that the run belongs to, where traces are recorded."""
    span: recorder.Run | None = None
    """The run's own span, begun with its handler; None where no traces are recorded."""
    trace: str | None = None
    """That span as a `traceparent`; of a run in a process, that of its worker's span."""
    promised: FinishedRun | None = None
    """The report that `finish_in` has put into the handler's own transaction."""
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
        self._checkpoint, self._lending = job.checkpoint, threading.Lock()

    @property
    def settings(self) -> Settings:
        return self._resources.settings

    @property
    def job_id(self) -> UUID:
        return self.job.id

    @property
    def attempt(self) -> int:
        return self.job.attempt

    @property
    def idempotency_key(self) -> str:
        return self.job.cycle_key

    @property
    def resources(self) -> Any:
        if self.shared is not None:
            return self.shared[0]
        return self._resources.of(self.plugin, self.opener)

    @cached_property
    def log(self) -> logging.Logger:
        """The run's logger: its records are stored with the run and also go to the worker's log."""
        return RunLogger(self, handler_logger(self.job.task_type))

    @property
    def db(self) -> psycopg.Connection[Any]:
        with self._lending:
            if self._connection is None:
                self._borrowed = self._resources.lend()
                self._connection = self._borrowed.__enter__()
            return self._connection

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Reports the run's progress, which is kept in memory and sent with the next heartbeat.

        Raises:
            LeaseLost: the run no longer holds its job.
            PermanentError: `done` or `total` is no number, is not finite, or has more than 19 digits.
        """
        # Here, and not where it is sent: one heartbeat has the progress of all runs of a worker.
        # Inline, since handlers report each of a million items.
        plain = type(done) is int and -LARGEST_NUMBER < done < LARGEST_NUMBER
        if not plain or not (total is None or (type(total) is int and -LARGEST_NUMBER < total < LARGEST_NUMBER)):
            done, total = _number(done), None if total is None else _number(total)
        if type(message) is not str:
            message = str(message or "")
        if self._progress is None:
            self._progress_since = (time.monotonic(), done)
        self._progress = (done, total, message)
        if self.stop is Stop.LOST:
            raise LeaseLost(self.lost())

    @property
    def checkpoint(self) -> Json | None:
        return self._checkpoint

    def save_checkpoint(self, checkpoint: Json) -> None:
        kept = storable(checkpoint, "checkpoint", CHECKPOINT_BYTES)
        if not self.store(kept):
            raise self.found_lost()
        self.note_checkpoint(kept)

    def finish_in(self, connection: SyncConnection, outcome: Done | Continue | None = None) -> None:
        """Records the end of this run in the transaction of a connection (`jobdeck.JobContext.finish_in`)."""
        run = self.to_promise(outcome)
        self.note_promise(run, self.record(connection, run))

    def to_promise(self, outcome: Done | Continue | None) -> FinishedRun:
        """The report of a run that ends now with this outcome.

        Raises:
            JobdeckError: the run is not running, or has ended by `finish_in` before.
            PermanentError: the outcome cannot be stored.
        """
        if self.report_of is None or self.promised is not None:
            raise JobdeckError("A run can be ended by ctx.finish_in once, while its handler runs.")
        return self.report_of(self, outcome)

    def note_promise(self, run: FinishedRun, recorded: RunOutcome) -> None:
        """Keeps the report that a transaction has, unless the database has recorded something else.

        Raises:
            LeaseLost: the run no longer holds its job; nothing of the transaction may stay.
            Cancelled: an operator has cancelled the job; the same.
        """
        if recorded is RunOutcome.CANCELLED:
            self.stop = Stop.CANCELLED
            raise Cancelled("The job was cancelled before its run ended: roll back.")
        if recorded is not run.outcome:
            raise self.found_lost()
        self.promised = run

    def reporter(self) -> Reporter:
        """Who reports this run, for `jobdeck.core.queue.producers.finishing`."""
        settings = self.settings
        schema = self._resources.database.schema if self._resources.database else settings.database_schema
        return Reporter(self._resources.worker_id, schema, settings.retry_base_seconds, settings.retry_cap_seconds)

    def record(self, connection: SyncConnection, run: FinishedRun) -> RunOutcome:
        """Writes the end of the run through a connection; returns what was recorded."""
        return record(connection, run, self.reporter())

    def note_checkpoint(self, checkpoint: Json) -> None:
        """Makes a checkpoint that the database has stored the one that the handler sees."""
        self._checkpoint = checkpoint

    def found_lost(self) -> LeaseLost:
        """Marks the run as one that does not hold its job any more, and returns the error for its handler."""
        if self._resources.on_lost is not None:
            self._resources.on_lost(self)
        self.stop = Stop.LOST
        return LeaseLost(self.lost())

    def must_stop(self, why: Stop) -> None:
        """Asks the handler to stop; safe to call from any thread."""
        self.stop = why
        if self.on_stop is not None:
            self.on_stop(self)

    def store(self, checkpoint: Json) -> bool:
        """Writes a checkpoint into the database; False if the run no longer holds its job."""
        with self._resources.connection() as conn:
            return leases.save_checkpoint(conn, self.job.id, self.job.run_token, checkpoint)

    def cancelled(self) -> bool:
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
            raise LeaseLost(self.lost())
        raise Cancelled(f"The run was stopped: {self.stop.value}.")

    def lost(self) -> str:
        """The sentence for a run that no longer holds its job."""
        why = "its lease expired and the job was taken back. Its result is discarded."
        return f"Run {self.job.run_token} no longer holds its job: {why}"

    def at(self, moment: float) -> datetime:
        """Converts a time of the monotonic clock into the database's time."""
        return datetime.fromtimestamp(self.epoch + moment, UTC)

    def keep_line(self, level: str, message: str) -> None:
        lines = self._lines
        if lines is None:
            # Two threads may log the first line at once; the first log that is set gets both.
            lines = vars(self).setdefault("_lines", LogBuffer())
        lines.add(self.epoch + time.monotonic(), level, message)

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
        if self.notice:
            stored["message"] = self.notice
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
        """Returns the borrowed connection to the pool, and lends none after it. The handler's thread calls it."""
        with self._lending:
            borrowed, self._borrowed, self._connection = self._borrowed, None, CLOSED
        if borrowed is not None:
            borrowed.__exit__(None, None, None)
