"""Runs one claimed job: validates the payload, calls the handler, and always returns a report of the outcome."""

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from jobdeck.core.errors import (
    Cancelled,
    JobdeckError,
    JobFailure,
    LeaseLost,
    PermanentError,
    Refused,
    RetryLater,
    Snooze,
)
from jobdeck.core.logs import running
from jobdeck.core.model import FinishedRun, RunOutcome
from jobdeck.core.postgres.jsonb import NotStorableError, fitted, storable
from jobdeck.core.redact import clean, redact_part, safe_error, safe_text
from jobdeck.core.registry import Continue, Done
from jobdeck.core.worker.context import CHECKPOINT_BYTES, RunContext, RunResources, Stop, install

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobdeck.core.model import ClaimedJob, Json
    from jobdeck.core.registry import JobContext, JobType, Outcome, Registry

log = logging.getLogger(__name__)

TRACEBACK_HEAD = 4_000
TRACEBACK_TAIL = 12_000
NOT_STORED = "not_stored"
LONGEST_DELAY = 10 * 366 * 86_400.0
_KINDS = {"UnknownTaskType": "unknown_task_type", "InvalidPayload": "invalid_payload"}


class _Facts(TypedDict, total=False):
    """The optional fields of `FinishedRun`."""

    output: Json | None
    checkpoint: Json | None
    delay: float
    retry_after: float | None
    permanent: bool
    error_kind: str
    error: str
    traceback: str | None


class Executor:
    """Runs claimed jobs, each in the thread that calls `run`."""

    def __init__(self, registry: Registry, resources: RunResources) -> None:
        self.registry = registry
        self.resources = resources
        install()

    def run(self, job: ClaimedJob, context: RunContext | None = None) -> FinishedRun:
        """Runs one job and returns its report. Never raises, whatever the handler raises.

        Without a context the run has no lease that could expire.
        """
        if context is None:
            context = RunContext(job, self.resources, job.claimed_at.timestamp() - time.monotonic(), math.inf)
        running.set(context)
        context.started = time.monotonic()
        job_type = self.registry.get(job.task_type)
        try:
            try:
                job_type, params = self.registry.validate(job.task_type, job.payload)
            except Refused as error:
                return self._refused(context, job_type, error)
            context.plugin = job_type.plugin
            # `vars` instead of `getattr`, since a pydantic model is slow for an attribute that it does not have.
            if vars(params).get("dry_run"):
                context.dry_run = True
            return self._returned(context, job_type.run(params, cast("JobContext", context)))
        except BaseException as error:  # noqa: BLE001 -- also SystemExit: a handler must not end its worker's thread
            return self._raised_safely(context, job_type, error)
        finally:
            running.set(None)
            self._close(context)

    def timed_out(self, context: RunContext, thread: threading.Thread) -> FinishedRun:
        """The failure report of a run that is still active in `thread` after its timeout."""
        job_type = self.registry.get(context.job.task_type)
        allowed = job_type.timeout if job_type else 0.0
        frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 -- documented, and the only way there
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        return self._failed(
            context,
            job_type,
            error_kind="timeout",
            error=f"The run took longer than the {allowed:g} seconds that {context.job.task_type} allows.",
            traceback=_presentable(f"Position of the handler at the timeout:\n{stack}") if stack else None,
        )

    def handed_back(self, context: RunContext) -> FinishedRun:
        """The report of a job that returns to the queue, attempt not counted; cancelled if an operator asked for it."""
        asked = context.stop is Stop.CANCELLED
        outcome = RunOutcome.CANCELLED if asked else RunOutcome.RELEASED
        return self._report(context, outcome)

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
        kind = _KINDS.get(type(error).__name__, "refused")
        message = safe_error(f"{error} The job was not run.")
        return self._failed(context, job_type, permanent=True, error_kind=kind, error=message)

    def _returned(self, context: RunContext, outcome: Outcome) -> FinishedRun:
        if outcome is None:
            return self._report(context, RunOutcome.SUCCEEDED)
        if isinstance(outcome, Done):
            context.dry_run = context.dry_run or outcome.dry_run
            kind = RunOutcome.PARTIAL if outcome.failed > 0 else RunOutcome.SUCCEEDED
            kept = outcome.checkpoint
            return self._report(
                context,
                kind,
                output=fitted(outcome.output) if outcome.output else None,
                checkpoint=None if kept is None else storable(kept, "checkpoint", CHECKPOINT_BYTES),
            )
        if isinstance(outcome, Continue):
            return self._report(
                context,
                RunOutcome.CONTINUED,
                output=fitted(outcome.output) if outcome.output else None,
                checkpoint=storable(outcome.checkpoint, "checkpoint", CHECKPOINT_BYTES),
                delay=_seconds(outcome.delay),
            )
        raise NotStorableError(
            f"The handler returned a {type(outcome).__name__}; it must return Done, Continue or None."
        )

    def _raised_safely(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        """The report of what a handler raised, also of an exception whose own parts cannot be read."""
        try:
            return self._raised(context, job_type, error)
        except Exception as problem:  # noqa: BLE001 -- an exception of a handler may be anything
            name = clean(type(error).__name__)
            return self._failed(
                context,
                job_type,
                error_kind=name,
                error=safe_error(f"{name} was raised, and cannot be read ({type(problem).__name__}: {problem})."),
            )

    def _raised(self, context: RunContext, job_type: JobType | None, error: BaseException) -> FinishedRun:
        if isinstance(error, Cancelled) and context.stop in {Stop.CANCELLED, Stop.RELEASED}:
            asked = context.stop is Stop.CANCELLED
            return self._report(context, RunOutcome.CANCELLED if asked else RunOutcome.RELEASED)
        if isinstance(error, Snooze):
            return self._report(
                context,
                RunOutcome.SNOOZED,
                delay=_seconds(error.seconds),
                error_kind=_kind(error),
                error=error_message(error),
            )
        trace, context.stack = _trace(error)
        return self._failed(
            context,
            job_type,
            permanent=isinstance(error, PermanentError),
            retry_after=_seconds(error.seconds) if isinstance(error, RetryLater) else None,
            error_kind=_kind(error),
            error=error_message(error),
            traceback=trace,
        )

    def _failed(self, context: RunContext, job_type: JobType | None, **facts: Unpack[_Facts]) -> FinishedRun:
        """The report of a failure, with the retry settings of its task type."""
        run = self._report(context, RunOutcome.FAILED, **facts)
        return run._replace(retry_base=job_type.retry_base, retry_cap=job_type.retry_cap) if job_type else run

    @staticmethod
    def _report(context: RunContext, outcome: RunOutcome, **facts: Unpack[_Facts]) -> FinishedRun:
        now = time.monotonic()
        started = now if context.started is None else context.started
        context.elapsed = now - started
        job, epoch = context.job, context.epoch
        run = FinishedRun(
            job.id, job.run_token, outcome, epoch + started, epoch + now, dry_run=context.dry_run, **facts
        )
        return run if context.is_silent else run._replace(log=context.log_text(), progress=context.progress_so_far())

    @staticmethod
    def _close(context: RunContext) -> None:
        try:
            context.close()
        except Exception as error:  # noqa: BLE001 -- the run has ended; a broken connection must not undo its report
            log.warning("a run's connection could not be returned to the pool: %s", safe_error(str(error)))


def _seconds(value: float) -> float:
    return min(max(value, 0.0), LONGEST_DELAY) if math.isfinite(value) else 0.0


def _kind(error: BaseException) -> str:
    if isinstance(error, JobFailure):
        return clean(error.kind)
    return "lease_lost" if isinstance(error, LeaseLost) else clean(type(error).__name__)


def error_message(error: BaseException) -> str:
    """The exception's message in one safe line, with the class name in front unless it is an error of Jobdeck."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 -- `__str__` of a handler's exception may raise anything
        text = "(the exception has no readable message)"
    if isinstance(error, SystemExit):
        text = f"the handler called sys.exit({text}); a handler must return or raise"
    if not text.strip():
        return name
    return safe_error(text if isinstance(error, JobdeckError) else f"{name}: {text}")


def _trace(error: BaseException) -> tuple[str, tuple[tuple[str, int, str], ...]]:
    """The traceback from the handler inwards, redacted and shortened, and its frames."""
    try:
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        found = traceback.TracebackException(type(error), error, inner or error.__traceback__)
        frames = tuple((frame.filename, frame.lineno or 0, frame.name) for frame in found.stack)
        return _presentable("".join(found.format())), frames[-50:]
    except Exception as problem:  # noqa: BLE001 -- a hostile exception must not keep its run from being reported
        return f"(the traceback cannot be shown: {type(problem).__name__})", ()


def _presentable(text: str) -> str:
    if len(text) > TRACEBACK_HEAD + TRACEBACK_TAIL:
        end = redact_part(text, len(text) - TRACEBACK_TAIL, len(text))
        return clean(f"{redact_part(text, 0, TRACEBACK_HEAD)}\n…\n{end}", multiline=True)
    return safe_text(text)


class Slots:
    """The threads that run jobs: `size` of them, and one that is kept free for a canary.

    They are daemons, so that a handler that does not stop cannot keep the process alive.
    """

    def __init__(self, executor: Executor, done: queue.SimpleQueue[RunContext | None], size: int, name: str) -> None:
        self.size = size
        self.running: dict[RunContext, threading.Thread] = {}
        self.canary: RunContext | None = None
        """The run in the slot for canaries, from when it is put there until it has ended."""
        self._executor = executor
        self._done = done
        self._name = name
        self._waiting: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()
        self._kept: queue.SimpleQueue[RunContext | None] = queue.SimpleQueue()

    def start(self) -> None:
        for _ in range(self.size):
            self._start_thread(self._waiting)
        self._start_thread(self._kept)

    def _start_thread(self, line: queue.SimpleQueue[RunContext | None]) -> None:
        threading.Thread(target=self._work, args=(line,), name=f"{self._name} slot", daemon=True).start()

    @property
    def occupied(self) -> int:
        """The number of runs without that of the slot for canaries."""
        return len(self.running) - (self.canary in self.running)

    @property
    def waiting(self) -> int:
        """The number of claimed jobs that wait for a thread."""
        return self._waiting.qsize()

    def put(self, contexts: Iterable[RunContext]) -> None:
        put = self._waiting.put
        for context in contexts:
            if context.job.is_canary and self.canary is None:
                self.canary = context
                self._kept.put(context)
            else:
                put(context)

    def hand_back_waiting(self) -> int:
        """Reports all waiting jobs as released and returns their number."""
        return self._hand_back(self._waiting) + self._hand_back(self._kept)

    def _hand_back(self, line: queue.SimpleQueue[RunContext | None]) -> int:
        handed_back = 0
        while True:
            try:
                context = line.get_nowait()
            except queue.Empty:
                return handed_back
            if context is None:
                line.put(None)
                return handed_back
            self._free(context)
            context.result = self._executor.handed_back(context)
            self._done.put(context)
            handed_back += 1

    def write_off(self, context: RunContext, report: FinishedRun, *, replace: bool = True) -> bool:
        """Reports a run that its thread does not end, and with `replace` starts another thread for this slot.

        The thread's own result is discarded. Returns False, and does nothing, if the run has just ended.
        """
        if self.running.pop(context, None) is None:
            return False
        if replace:
            self._start_thread(self._kept if context is self.canary else self._waiting)
        self._free(context)
        context.result = report
        self._done.put(context)
        return True

    def close(self) -> None:
        """Ends each thread after its current job."""
        for _ in range(self.size):
            self._waiting.put(None)
        self._kept.put(None)

    def _free(self, context: RunContext) -> None:
        if context is self.canary:
            self.canary = None

    def _work(self, line: queue.SimpleQueue[RunContext | None]) -> None:
        take, done, run, running, free = line.get, self._done.put, self._executor.run, self.running, self._free
        thread = threading.current_thread()
        while (context := take()) is not None:
            if context.stop is not None or time.monotonic() >= context.lease_end:
                context.result = self._executor.handed_back(context)
                free(context)
                done(context)
                continue
            running[context] = thread
            result = run(context.job, context)
            if running.pop(context, None) is None:
                return
            free(context)
            context.result = result
            done(context)
