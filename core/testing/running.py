"""Runs a claimed job in this thread by the code of the worker, and keeps what its handler does."""

from __future__ import annotations

import asyncio
import copy
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.pq import TransactionStatus

from jobdeck.core.errors import UsageError
from jobdeck.core.model import SUCCESSES, ClaimedJob, FinishedRun, Json, RunOutcome
from jobdeck.core.postgres.database import Connection, Database, connect_beside
from jobdeck.core.queue.calls import begin
from jobdeck.core.redact import safe_text
from jobdeck.core.registry import Done, JobType, Registry
from jobdeck.core.testing.borrowed import QueueCursor
from jobdeck.core.testing.result import JobResult, LoggedLine, ProgressReport, Sequel
from jobdeck.core.worker.context import RunContext, RunResources, Stop
from jobdeck.core.worker.executor import Executor
from jobdeck.core.worker.runs.loop_context import OnLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from jobdeck.core.queue.producers.connections import AsyncConnection
    from jobdeck.core.registry import Opener
    from jobdeck.core.settings import Settings

NO_DATABASE: Final = (
    "The handler used the database, but this run has none. Pass it a connection: run_job(…, db=connection)."
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
        self.given = given
        self.missed = False
        """Whether a handler asked for a connection and there was none."""

    def of(self, plugin: str, own: Opener | None = None) -> object:
        return super().of(plugin, own) if self.given is None else self.given

    def connection(self) -> AbstractContextManager[Connection]:
        if self._conn is None:
            self.missed = True
            raise UsageError(NO_DATABASE)
        return nullcontext(self._conn)

    def lend(self) -> AbstractContextManager[Connection]:
        return self.connection()


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

    def note_checkpoint(self, checkpoint: Json) -> None:
        super().note_checkpoint(checkpoint)
        # The handler may go on to change the object.
        self.saved.append(copy.deepcopy(checkpoint))


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

    def note_checkpoint(self, checkpoint: Json) -> None:
        super().note_checkpoint(checkpoint)
        if self._why is Stop.LOST:
            self._count()

    def record(self, connection: object, run: FinishedRun) -> RunOutcome:
        del connection
        return RunOutcome.ABANDONED if self.stop is Stop.LOST else run.outcome

    def store(self, checkpoint: Json) -> bool:
        del checkpoint
        return self.stop is not Stop.LOST

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0 and self._why is not None:
            self.must_stop(self._why)


class LentOnLoop(OnLoop):
    """What an async handler in a test has in place of what its worker's runs share; it is left when the run ends."""

    def __init__(self, lent: LentResources) -> None:
        super().__init__(lent)
        self._lent = lent

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """A connection of its own to the database of the test: it sees only what is committed."""
        with self._lent.connection() as conn:
            own = await connect_beside(conn)
        async with own:
            yield own

    async def store(self, run: RunContext, checkpoint: Json) -> bool:
        return run.store(checkpoint)

    async def record(self, run: RunContext, connection: AsyncConnection, ended: FinishedRun) -> RunOutcome:
        return (
            run.record(connection, ended)
            if isinstance(run, LoneContext)
            else await super().record(run, connection, ended)
        )

    async def of(self, opener: Opener) -> object:
        return await super().of(opener) if self._lent.given is None else self._lent.given


class RecordingExecutor(Executor):
    """The worker's executor, which also keeps what the handler returned or raised."""

    waits_for_newer = False
    """In a test, no newer program takes the job."""

    def __init__(self, registry: Registry, resources: LentResources) -> None:
        super().__init__(registry, resources)
        self._lent = resources
        self.failed = 0
        """The failed items of the last run."""
        self.raised: BaseException | None = None
        """What the handler of the last run raised, or the error for which the run was refused."""

    def run(self, job: ClaimedJob, context: RunContext | None = None) -> FinishedRun:
        """Runs one job and returns its report. Raises only what ends a test: Ctrl-C, `pytest.fail`, `pytest.skip`.

        The run has its own context variables, so that a handler may itself run a job.
        """
        self.failed, self.raised = 0, None
        job_type = self.registry.get(job.task_type)
        if job_type is not None and job_type.is_async and isinstance(context, RecordingContext):
            return self._run_on_a_loop(context)
        return super().run(job, context)

    def _run_on_a_loop(self, context: RecordingContext) -> FinishedRun:
        """Runs an async handler on a loop of its own; in another thread if this one has a loop that runs."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._awaited(context))
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, self._awaited(context)).result()

    async def _awaited(self, context: RecordingContext) -> FinishedRun:
        reports: list[FinishedRun] = []
        shared = LentOnLoop(self._lent)

        async def work() -> None:
            # Not the result of the task: one that is cancelled in its last step has none.
            reports.append(await self.run_async(context, shared))

        task = asyncio.create_task(work(), context=Context())

        def cancel(_: RunContext) -> None:
            task.cancel()

        context.on_stop = cancel
        if context.stop is not None:
            # After the first step: a task that is cancelled before it never begins.
            asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait([task])
        await shared.close()
        if not reports:
            task.result()  # raises what ends the test
        return reports[0]

    def _report_of(self, context: RunContext, outcome: object) -> FinishedRun:
        finished = super()._report_of(context, outcome)
        self.failed = outcome.failed if isinstance(outcome, Done) else 0
        return finished

    def _promised(self, context: RunContext) -> FinishedRun:
        """Without a queue, the handler's transaction is taken for committed."""
        lone = context.promised if isinstance(context, LoneContext) else None
        return lone or super()._promised(context)

    def _refused(self, context: RunContext, job_type: JobType | None, error: Any) -> FinishedRun:
        self.raised = error
        return super()._refused(context, job_type, error)

    def _raised_safely(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        if _ends_the_test(error):
            raise error
        return super()._raised_safely(context, job_type, error)

    def _raised(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
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
    rows, cursors = conn.row_factory, conn.cursor_factory
    if cursors is QueueCursor:
        conn.cursor_factory = psycopg.Cursor
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
        conn.row_factory, conn.cursor_factory = rows, cursors


@contextmanager
def _closing_transactions(conn: Connection) -> Iterator[None]:
    try:
        yield
    finally:
        if not conn.closed and conn.info.transaction_status is not TransactionStatus.IDLE:
            conn.rollback()
