"""The result of a run in a test: what its handler did, and what a worker does next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jobdeck.core.model import ClaimedJob, FinishedRun, Json, RunOutcome, Status
from jobdeck.core.registry.around import LONGEST_DELAY
from jobdeck.core.worker.context import Stop

if TYPE_CHECKING:
    from jobdeck.core.settings import Settings


class LoggedLine(NamedTuple):
    """One line that a run logged, as a worker stores it: harmless, and without personal data."""

    level: str
    message: str


class ProgressReport(NamedTuple):
    """The arguments of one call of `ctx.progress`."""

    done: int
    total: int | None
    message: str


class Sequel(NamedTuple):
    """What happens to a job after a run.

    `due_in` is the shortest and the longest time in seconds until the job is due again; None if it is not.
    """

    outcome: RunOutcome
    status: Status | None
    due_in: tuple[float, float] | None = None


def sequel(job: ClaimedJob, run: FinishedRun, stop: Stop | None, settings: Settings) -> Sequel:
    """What the database does with the report of a run of a one-time job: the rule of `job_queue_settle`.

    The job is one that was not taken back, unless `stop` says so; `stop` also says whether an operator cancelled it.
    """
    if stop is Stop.LOST:
        return Sequel(RunOutcome.ABANDONED, None)
    if stop is Stop.CANCELLED or run.outcome is RunOutcome.CANCELLED:
        return Sequel(RunOutcome.CANCELLED, Status.CANCELLED)
    if run.outcome in {RunOutcome.SUCCEEDED, RunOutcome.PARTIAL}:
        return Sequel(run.outcome, None)
    if run.outcome is not RunOutcome.FAILED:
        after = min(run.delay, LONGEST_DELAY)
        return Sequel(run.outcome, Status.PENDING, (after, after))
    if run.permanent or job.attempt >= job.max_attempts:
        return Sequel(RunOutcome.FAILED, Status.FAILED)
    return Sequel(RunOutcome.RETRIED, Status.PENDING, _retry_in(job, run, settings))


def _retry_in(job: ClaimedJob, run: FinishedRun, settings: Settings) -> tuple[float, float]:
    if run.retry_after is not None:
        after = min(run.retry_after, LONGEST_DELAY)
        return after, after
    base = settings.retry_base_seconds if run.retry_base is None else run.retry_base
    cap = settings.retry_cap_seconds if run.retry_cap is None else run.retry_cap
    longest = min(cap, base * 2.0 ** min(job.attempt - 1, 60))
    return min(longest / 2, LONGEST_DELAY), min(longest, LONGEST_DELAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """One run of a job in a test.

    Args:
        job: the job as the handler got it, with its id, type, payload and attempt.
        outcome: the outcome of the run, as `job_runs` records it: `succeeded`, `partial`, `continued`, `retried`,
            `failed`, `snoozed`, `cancelled`, `released`, or `abandoned` if the run lost its job.
        status: the status of the job afterwards: `pending`, `failed`, `cancelled`, or `succeeded` for a series that
            has ended; None if the job succeeded and left the queue, or the run lost it.
        due_in: the shortest and the longest time in seconds until the job is due again; None if it is not.
        output: the stored output.
        failed: the number of failed items of `Done`.
        checkpoint: the checkpoint with which the next run begins; None if there is none, or no next run.
        checkpoints: the checkpoints that `ctx.save_checkpoint` saved, in their order.
        progress: the reports of `ctx.progress`, in their order.
        lines: the lines that the run logged, in their order.
        log: the log as a worker stores it, with times and within its limits; None if nothing was logged.
        dry_run: whether the run changed nothing.
        error_kind: the word that groups similar failures, such as `permanent`.
        error: the stored message of the failure; None if the run did not fail.
        traceback: the stored traceback of the failure.
        raised: what the handler raised, or the error for which it was not run or its return value was refused.
    """

    job: ClaimedJob
    outcome: RunOutcome
    status: Status | None
    due_in: tuple[float, float] | None
    output: Json | None
    failed: int
    checkpoint: Json | None
    checkpoints: tuple[Json, ...]
    progress: tuple[ProgressReport, ...]
    lines: tuple[LoggedLine, ...]
    log: str | None
    dry_run: bool
    error_kind: str | None
    error: str | None
    traceback: str | None
    raised: BaseException | None

    @property
    def what_follows(self) -> str:
        """What a worker does with the job after this run, as a sentence."""
        when = _seconds(self.due_in)
        again = {Status.PENDING: f" The series goes on {when}.", Status.SUCCEEDED: " The series is over."}.get(
            self.status or Status.FAILED, ""
        )
        return {
            RunOutcome.SUCCEEDED: f"The job succeeded.{again}",
            RunOutcome.PARTIAL: f"The job is done, but {self.failed} of its items failed.{again}",
            RunOutcome.CONTINUED: f"The job continues from its checkpoint {when}.",
            RunOutcome.RETRIED: (
                f"The job is retried {when}, as attempt {self.job.attempt + 1} of {self.job.max_attempts}."
            ),
            RunOutcome.FAILED: (
                f"The job failed for good after attempt {self.job.attempt} of {self.job.max_attempts}.{again}"
            ),
            RunOutcome.SNOOZED: f"The job is due again {when}, and no attempt is counted.",
            RunOutcome.CANCELLED: "The job is cancelled.",
            RunOutcome.RELEASED: "The job returns to the queue, and no attempt is counted.",
        }.get(self.outcome, "The run had lost its job, so its result is discarded.")


def _seconds(due_in: tuple[float, float] | None) -> str:
    shortest, longest = due_in or (0.0, 0.0)
    return f"in {longest:g} seconds" if shortest == longest else f"in {shortest:g} to {longest:g} seconds"
