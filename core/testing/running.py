"""Runs a claimed job in this thread by the code of the worker, and keeps what its handler does."""

from __future__ import annotations

import copy
import math
import sys
import time
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from jobdeck.core.errors import UsageError
from jobdeck.core.model import SUCCESSES, RunOutcome
from jobdeck.core.postgres.database import begin
from jobdeck.core.redact import safe_text
from jobdeck.core.registry import Done
from jobdeck.core.testing.result import JobResult, LoggedLine, ProgressReport
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from jobdeck.core.model import ClaimedJob, FinishedRun, Json
    from jobdeck.core.postgres.database import Connection, Database
    from jobdeck.core.registry import JobType, Outcome, Registry
    from jobdeck.core.settings import Settings
    from jobdeck.core.testing.result import Sequel

NO_DATABASE: Final = (
    "The handler used ctx.db, but this run has no database. Pass it a connection: run_job(…, db=connection)."
)
CHECKPOINT_STAYS: Final = (RunOutcome.RETRIED, RunOutcome.SNOOZED, RunOutcome.RELEASED)
"""Outcomes after which the next run begins with the checkpoint that was saved last."""


class LentResources(RunResources):
    """The resources of runs in a test: one connection, which belongs to the test, and `ctx.resources`."""

    def __init__(
        self, settings: Settings, conn: Connection | None, *, given: object = None, database: Database | None = None
    ) -> None:
        """`given` is what handlers get as `ctx.resources`; with None the plugin of their type opens its own."""
        super().__init__(settings, database)
        self._conn = conn
        self._given = given
        self.missed = False
        """Whether a handler asked for a connection and there was none."""

    def of(self, plugin: str) -> object:
        return super().of(plugin) if self._given is None else self._given

    def connection(self) -> AbstractContextManager[Connection]:
        if self._conn is None:
            self.missed = True
            raise UsageError(NO_DATABASE)
        return nullcontext(self._conn)


class RecordingContext(RunContext):
    """A run's context that keeps all that its handler logs, reports and saves."""

    def __init__(self, job: ClaimedJob, resources: LentResources) -> None:
        super().__init__(job, resources, job.claimed_at.timestamp() - time.monotonic(), math.inf)
        self.lines: list[LoggedLine] = []
        self.reports: list[ProgressReport] = []
        self.saved: list[Json] = []

    def keep_line(self, level: str, message: str) -> None:
        super().keep_line(level, message)
        self.lines.append(LoggedLine(level, safe_text(message)))

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        self.reports.append(ProgressReport(done, total, message))
        super().progress(done, total, message)

    def save_checkpoint(self, checkpoint: Json) -> None:
        super().save_checkpoint(checkpoint)
        # The handler may go on to change the object.
        self.saved.append(copy.deepcopy(self.checkpoint or {}))


class LoneContext(RecordingContext):
    """The context of a run without a queue, which has to stop for the reason `why` after a number of its checks."""

    def __init__(self, job: ClaimedJob, resources: LentResources, why: Stop | None, after: int) -> None:
        super().__init__(job, resources)
        self._why = why
        self._left = after
        self.stop = why if after == 0 else None

    def cancelled(self) -> bool:
        stopped = super().cancelled()
        self._count()
        return stopped

    def raise_if_cancelled(self) -> None:
        super().raise_if_cancelled()
        self._count()

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        super().progress(done, total, message)
        if self._why is Stop.LOST:
            self._count()

    def save_checkpoint(self, checkpoint: Json) -> None:
        super().save_checkpoint(checkpoint)
        if self._why is Stop.LOST:
            self._count()

    def _store(self, checkpoint: Json) -> bool:
        del checkpoint
        return self.stop is not Stop.LOST

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.stop = self._why


class RecordingExecutor(Executor):
    """The worker's executor, which also keeps what the handler returned or raised."""

    def __init__(self, registry: Registry, resources: LentResources) -> None:
        super().__init__(registry, resources)
        self.failed = 0
        """The failed items of the last run."""
        self.raised: BaseException | None = None
        """What the handler of the last run raised, or the error for which the run was refused."""

    def run(self, job: ClaimedJob, context: RunContext | None = None) -> FinishedRun:
        """Runs one job and returns its report. Raises only what ends a test: Ctrl-C, `pytest.fail`, `pytest.skip`.

        The run has its own context variables, so that a handler may itself run a job.
        """
        self.failed, self.raised = 0, None
        return copy_context().run(super().run, job, context)

    def _returned(self, context: RunContext, outcome: Outcome) -> FinishedRun:
        finished = super()._returned(context, outcome)
        self.failed = outcome.failed if isinstance(outcome, Done) else 0
        return finished

    def _refused(self, context: RunContext, job_type: JobType | None, error: Any) -> FinishedRun:
        self.raised = error
        return super()._refused(context, job_type, error)

    def _raised(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        if _ends_the_test(error):
            raise error
        self.raised = error
        return super()._raised(context, job_type, error)


def _ends_the_test(error: BaseException) -> bool:
    if isinstance(error, KeyboardInterrupt):
        return True
    pytest: Any = sys.modules.get("pytest")
    return pytest is not None and isinstance(error, pytest.fail.Exception | pytest.skip.Exception)


def result(context: RecordingContext, run: FinishedRun, executor: RecordingExecutor, then: Sequel) -> JobResult:
    """What a test gets of a run."""
    checkpoint = context.checkpoint if then.outcome in CHECKPOINT_STAYS else None
    return JobResult(
        job=context.job,
        outcome=then.outcome,
        status=then.status,
        due_in=then.due_in,
        output=run.output,
        failed=executor.failed,
        checkpoint=run.checkpoint if then.outcome in SUCCESSES else checkpoint,
        checkpoints=tuple(context.saved),
        progress=tuple(context.reports),
        lines=tuple(context.lines),
        log=context.log_text(),
        dry_run=run.dry_run,
        error_kind=run.error_kind,
        error=run.error,
        traceback=run.traceback,
        raised=executor.raised,
    )


def raise_failure(made: JobResult) -> None:
    """Raises what the handler raised if the run failed; returns otherwise."""
    if made.outcome in {RunOutcome.FAILED, RunOutcome.RETRIED} and made.raised is not None:
        raise made.raised


@contextmanager
def lent(conn: Connection) -> Iterator[None]:
    """Lends a connection to a handler. A transaction that the handler leaves open is rolled back, as by the worker.

    Inside a transaction of the test, what the handler did is kept, unless an error of the database made that
    impossible: then it is rolled back, and the transaction of the test continues.
    """
    begin(conn)
    rows = conn.row_factory
    try:
        if conn.info.transaction_status is TransactionStatus.IDLE:
            with _closing_transactions(conn):
                yield
        else:
            with conn.transaction() as outer:
                yield
                if conn.info.transaction_status is TransactionStatus.INERROR:
                    raise psycopg.Rollback(outer)
    finally:
        conn.row_factory = rows


@contextmanager
def _closing_transactions(conn: Connection) -> Iterator[None]:
    try:
        yield
    finally:
        if not conn.closed and conn.info.transaction_status is not TransactionStatus.IDLE:
            conn.rollback()
