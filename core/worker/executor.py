"""Runs one claimed job: validates the payload, calls the handler, and always returns a report of the outcome."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, ClassVar, cast

from jobdeck.core.errors import (
    Cancelled,
    InvalidPayload,
    JobFailure,
    LeaseLost,
    PermanentError,
    Refused,
    RetryLater,
    Snooze,
    TimedOut,
)
from jobdeck.core.logs import event, running
from jobdeck.core.model import ClaimedJob, FinishedRun, Json, RunOutcome
from jobdeck.core.postgres.jsonb import UNREADABLE, NotStorableError, fitted, storable
from jobdeck.core.postgres.lent.loan import LeftOpen
from jobdeck.core.redact import clean, safe_error
from jobdeck.core.registry import AsyncJobContext, Continue, Done, JobContext, JobType, Payload, Registry, around
from jobdeck.core.registry.around import own_delay
from jobdeck.core.worker.context import CHECKPOINT_BYTES, RunContext, RunResources, Stop
from jobdeck.core.worker.run_log import error_message, install, presentable_trace, trace_of
from jobdeck.core.worker.runs import tracing
from jobdeck.core.worker.runs.loop_context import LoopContext, OnLoop

if TYPE_CHECKING:
    from jobdeck.core.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

NOT_STORED = "not_stored"
NOT_RECORDED = "not_recorded"
LONGEST_DELAY = 10 * 366 * 86_400.0
START_SECONDS = 300.0
"""How long the process of a run may take to start, which is not a part of the run's time."""
_NOT_STARTED = (
    f"The process of the handler did not start within {START_SECONDS:g} seconds, so the handler did not run. "
    "Either the machine is too busy, or the handler's module waits for something while it is imported."
)
NEWER_PAYLOAD = "newer_payload"
NEWER_SECONDS = 120.0
"""How long a job is put off whose payload may be of a newer program."""
NEWER_GIVE_UP = 3600.0
_NEWER = (
    "The job was not run: a newer program may know such a field. It is tried again every 2 minutes for an hour, then "
    'it fails. If a field is misspelt, correct it with T or "jobdeck edit", and retry the job.'
)
_UNTRACED = nullcontext()
_KINDS = {"UnknownTaskType": "unknown_task_type", "InvalidPayload": "invalid_payload"}


class Executor:
    """Runs claimed jobs: each in the thread that calls `run`, or on the event loop that awaits `run_async`."""

    waits_for_newer: ClassVar[bool] = True
    """Whether a job with fields that its type does not have is put off, and may be run by a newer program."""

    def __init__(self, registry: Registry, resources: RunResources, recorder: Recorder | None = None) -> None:
        """With a `recorder`, each run has a span."""
        self.registry = registry
        self.resources = resources
        self.recorder = recorder
        # Bound once, since each run gets it.
        self._reporting = self._report_of
        install(registry.names)

    def run(self, job: ClaimedJob, context: RunContext | None = None) -> FinishedRun:
        """Runs one job and returns its report. Never raises, whatever the handler raises.

        Without a context the run has no lease that could expire.
        """
        if context is None:
            context = RunContext(job, self.resources, job.claimed_at.timestamp() - time.monotonic(), math.inf)
        # What a handler sets in its own copy, such as the precision of `decimal`, no later run of this thread finds.
        return copy_context().run(self._run, context)

    def _run(self, context: RunContext) -> FinishedRun:
        with self._span(context):
            job_type = self._begin(context)
            try:
                try:
                    job_type, params = self._prepared(context, job_type)
                except Refused as error:
                    return self._refused(context, job_type, error)
                outcome = around.call(job_type, params, cast("JobContext", context))
                if context.promised is None:
                    context.close()
                return self._returned(context, outcome)
            except BaseException as error:  # noqa: BLE001 -- also SystemExit: a handler must not end its worker's thread
                return self._raised_safely(context, job_type, error)
            finally:
                running.set(None)
                self.close(context)

    async def run_async(self, context: RunContext, shared: OnLoop) -> FinishedRun:
        """Runs one job of an async type and returns its report. Never raises.

        A handler that ends after its timeout has timed out, whatever it returns or raises.
        """
        with self._span(context):
            job_type = self._begin(context)
            try:
                try:
                    job_type, params = self._prepared(context, job_type)
                except Refused as error:
                    return self._refused(context, job_type, error)
                if job_type.resources is not None:
                    context.shared = (await shared.of(job_type.resources),)
                given = cast("AsyncJobContext", LoopContext(context, shared))
                outcome = await cast("Awaitable[object]", around.call(job_type, params, given))
                return self.timed_out(context) if context.stop is Stop.TIMED_OUT else self._returned(context, outcome)
            except BaseException as error:  # noqa: BLE001 -- also SystemExit, which would end the loop of all runs
                return self._ended_by(context, job_type, error)

    def run_elsewhere(self, context: RunContext, work: Callable[[JobType], Json]) -> FinishedRun:
        """Runs one job by `work`, which has another process run it and returns the facts of its report. Never raises.

        A run that ends after its timeout has timed out, whatever `work` returns or raises.
        """
        with self._span(context):
            job_type = self._begin(context)
            try:
                try:
                    job_type, _ = self._prepared(context, job_type)
                except Refused as error:
                    return self._refused(context, job_type, error)
                facts = work(job_type)
                if context.stop is Stop.TIMED_OUT:
                    return self.timed_out(context)
                context.dry_run = facts.pop("dry_run")
                outcome = RunOutcome(facts.pop("outcome"))
                return self._report(context, outcome)._replace(**facts)
            except BaseException as error:  # noqa: BLE001 -- the thread of the slot must go on
                return self._ended_by(context, job_type, error)
            finally:
                running.set(None)

    def _span(self, context: RunContext) -> AbstractContextManager[None]:
        """The span of a run, which is the current one inside the block."""
        return _UNTRACED if self.recorder is None else tracing.span(self.recorder, context, self.resources.worker_id)

    def _begin(self, context: RunContext) -> JobType | None:
        """Makes a run the current one of this thread or task; returns its type, None for one that has no handler."""
        running.set(context)
        context.started = time.monotonic()
        context.report_of = self._reporting
        return self.registry.get(context.job.task_type)

    def _ended_by(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        if context.stop is Stop.TIMED_OUT:
            return self.timed_out(context)
        return self._raised_safely(context, job_type, error)

    def _prepared(self, context: RunContext, job_type: JobType | None) -> tuple[JobType, Payload]:
        """The type and its payload; `job_type` is None for a type that has no handler.

        Raises:
            UnknownTaskType, InvalidPayload: the job cannot be run.
        """
        if job_type is None:
            job_type = self.registry.require(context.job.task_type)
        params = job_type.parse(context.job.payload)
        context.plugin = job_type.plugin
        context.opener = job_type.resources
        # `vars` instead of `getattr`, since a pydantic model is slow for an attribute that it does not have.
        if vars(params).get("dry_run"):
            context.dry_run = True
        return job_type, params

    def allowed(self, job: ClaimedJob) -> float:
        """How many seconds a run of this job may take: its own timeout, else that of its type."""
        job_type = self.registry.get(job.task_type)
        return job.timeout or (math.inf if job_type is None else job_type.timeout)

    def timed_out(self, context: RunContext) -> FinishedRun:
        """The failure report of a run that was still active after its timeout; `context.position` is where it was."""
        job_type = self.registry.get(context.job.task_type)
        allowed = self.allowed(context.job)
        whose = "this job" if context.job.timeout else context.job.task_type
        stack = context.position
        kind = "timeout"
        message = f"The run took longer than the {allowed:g} seconds that {whose} allows."
        if context.starting:
            kind, message = "process_not_started", _NOT_STARTED
        delay = _own_delay(context, job_type, TimedOut(message))
        return self._failed(context, job_type)._replace(
            retry_after=delay,
            error_kind=kind,
            error=message,
            traceback=presentable_trace(f"Position of the handler at the timeout:\n{stack}") if stack else None,
        )

    def handed_back(self, context: RunContext) -> FinishedRun:
        """The report of a job that returns to the queue, attempt not counted; cancelled if an operator asked for it."""
        cancelled = context.stop is Stop.CANCELLED
        report = self._report(context, RunOutcome.CANCELLED if cancelled else RunOutcome.RELEASED)
        # Who asked for a canary gets its answer from the history.
        began = context.job.is_canary or (context.started is not None and not context.starting)
        return report._replace(began=began)

    def unreported(self, context: RunContext, error: BaseException) -> FinishedRun:
        """The report of a run that its slot has lost: a failed attempt, if the handler had begun.

        Such a job must not return to the queue at once, since its next run may end in the same way.
        """
        if context.started is None or context.stop in {Stop.CANCELLED, Stop.RELEASED}:
            return self.handed_back(context)
        return self._ended_by(context, self.registry.get(context.job.task_type), error)

    def not_stored(self, finished: FinishedRun, reason: BaseException) -> FinishedRun:
        """The failure report that replaces a report which the database refused; it contains nothing else."""
        return FinishedRun(
            job_id=finished.job_id,
            run_token=finished.run_token,
            outcome=RunOutcome.FAILED,
            started=finished.started,
            finished=finished.finished,
            permanent=True,
            error_kind=NOT_STORED,
            error=safe_error(
                f"The run ended as {finished.outcome}, but the database refused its report: {error_message(reason)}"
            ),
        )

    def _refused(self, context: RunContext, job_type: JobType | None, error: Refused) -> FinishedRun:
        if self.waits_for_newer and isinstance(error, InvalidPayload) and _may_be_newer(error):
            return self._report(context, RunOutcome.SNOOZED)._replace(
                delay=NEWER_SECONDS,
                give_up_after=NEWER_GIVE_UP,
                error_kind=NEWER_PAYLOAD,
                error=f"{safe_error(str(error))} {_NEWER}",
            )
        kind = _KINDS.get(type(error).__name__, "refused")
        message = safe_error(f"{error} The job was not run.")
        return self._failed(context, job_type)._replace(permanent=True, error_kind=kind, error=message)

    def _returned(self, context: RunContext, outcome: object) -> FinishedRun:
        if context.promised is not None:
            return self._promised(context)
        return self._report_of(context, outcome)

    def _promised(self, context: RunContext) -> FinishedRun:
        """The report of a run that has ended in its handler's own transaction.

        The database has recorded that end if the transaction was committed, and answers with it. So this report takes
        effect only if the transaction was rolled back.
        """
        job_type = self.registry.get(context.job.task_type)
        message = "The handler ended its run by ctx.finish_in, and its transaction was not committed."
        delay = _own_delay(context, job_type, JobFailure(message))
        return self._failed(context, job_type)._replace(retry_after=delay, error_kind=NOT_RECORDED, error=message)

    def _report_of(self, context: RunContext, outcome: object) -> FinishedRun:
        """The report of what a handler returned.

        Raises:
            NotStorableError: it cannot be stored.
        """
        if outcome is None:
            return self._report(context, RunOutcome.SUCCEEDED)
        if isinstance(outcome, Done):
            context.dry_run = context.dry_run or outcome.dry_run
            kind = RunOutcome.PARTIAL if outcome.failed > 0 else RunOutcome.SUCCEEDED
            kept = outcome.checkpoint
            return self._report(context, kind)._replace(
                output=fitted(outcome.output) if outcome.output else None,
                checkpoint=None if kept is None else storable(kept, "checkpoint", CHECKPOINT_BYTES),
            )
        if isinstance(outcome, Continue):
            return self._report(context, RunOutcome.CONTINUED)._replace(
                output=fitted(outcome.output) if outcome.output else None,
                checkpoint=storable(outcome.checkpoint, "checkpoint", CHECKPOINT_BYTES),
                delay=_seconds(outcome.delay),
            )
        if isinstance(outcome, Coroutine):
            outcome.close()
            raise NotStorableError(
                "The handler returned a coroutine and nobody awaits it; declare the function with async def, also one "
                "that wraps it."
            )
        raise NotStorableError(
            f"The handler returned a value of the type {type(outcome).__name__}. Return nothing, jobdeck.Done(…) with "
            "what the run has to say, or jobdeck.Continue(…) to go on later."
        )

    def _raised_safely(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        """The report of what a handler raised, also of an exception whose own parts cannot be read."""
        try:
            return self._raised(context, job_type, error)
        except BaseException as problem:  # noqa: BLE001 -- what an exception of a handler has may raise anything
            name = clean(type(error).__name__)
            delay = _own_delay(context, job_type, error)
            return self._failed(context, job_type)._replace(
                retry_after=delay,
                error_kind=name,
                error=safe_error(f"{name} was raised, and cannot be read ({error_message(problem)})."),
            )

    def _raised(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        if context.stop in {Stop.CANCELLED, Stop.RELEASED} and _is_cancellation(error):
            return self.handed_back(context)
        if isinstance(error, asyncio.CancelledError) and context.stop is Stop.LOST:
            error = LeaseLost(context.lost())
        if isinstance(error, Snooze):
            return self._report(context, RunOutcome.SNOOZED)._replace(
                delay=_seconds(error.seconds),
                error_kind=_kind(error),
                error=error_message(error),
            )
        trace, context.stack = trace_of(error)
        # Before the report is made: a backoff function that fails is a line of the run's log.
        delay = _retry_after(context, job_type, error)
        return self._failed(context, job_type)._replace(
            permanent=isinstance(error, PermanentError),
            retry_after=delay,
            error_kind=_kind(error),
            error=error_message(error),
            traceback=trace,
        )

    def _failed(self, context: RunContext, job_type: JobType | None) -> FinishedRun:
        """The report of a failure, with the retry settings of its task type."""
        run = self._report(context, RunOutcome.FAILED)
        return run._replace(retry_base=job_type.retry_base, retry_cap=job_type.retry_cap) if job_type else run

    @staticmethod
    def _report(context: RunContext, outcome: RunOutcome) -> FinishedRun:
        now = time.monotonic()
        started = now if context.started is None else context.started
        context.elapsed = now - started
        job, epoch = context.job, context.epoch
        run = FinishedRun(
            job.id, job.run_token, outcome, epoch + started, epoch + now, dry_run=context.dry_run, trace=context.trace,
        )  # fmt: skip
        return run if context.is_silent else run._replace(log=context.log_text(), progress=context.progress_so_far())

    @staticmethod
    def close(context: RunContext) -> None:
        """Returns what a run has borrowed. Closing twice is allowed."""
        try:
            context.close()
        except LeftOpen:
            # Of a handler that failed, or whose end is in that transaction.
            return
        except Exception as error:  # noqa: BLE001 -- the run has ended; a broken connection must not undo its report
            message = "a run's connection could not be returned to the pool"
            event(log, logging.WARNING, message, error=safe_error(str(error)))


def _may_be_newer(error: InvalidPayload) -> bool:
    return error.only_unknown and UNREADABLE not in error.problems


def _is_cancellation(error: BaseException) -> bool:
    """Whether this is how a handler stops that was asked to, also where a task group has collected it."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_cancellation, error.exceptions))
    return isinstance(error, Cancelled | asyncio.CancelledError)


def _seconds(value: float) -> float:
    return min(max(value, 0.0), LONGEST_DELAY) if math.isfinite(value) else 0.0


def _retry_after(context: RunContext, job_type: JobType | None, error: BaseException) -> float | None:
    """The seconds until the retry that the handler, or its type's own function, has chosen; None for the default."""
    if isinstance(error, RetryLater):
        return _seconds(error.seconds)
    return None if isinstance(error, PermanentError) else _own_delay(context, job_type, error)


def _own_delay(context: RunContext, job_type: JobType | None, error: BaseException) -> float | None:
    job = context.job
    if job_type is None or job_type.backoff is None or job.attempt >= job.max_attempts:
        return None
    try:
        return own_delay(job_type.backoff, job.attempt, error)
    except BaseException as problem:  # noqa: BLE001 -- also SystemExit: it must not keep the run from being reported
        context.log.warning("the backoff function failed, so the default delay is used: %s", error_message(problem))
        return None


def _kind(error: BaseException) -> str:
    if isinstance(error, JobFailure):
        return clean(error.kind)
    return "lease_lost" if isinstance(error, LeaseLost) else clean(type(error).__name__)
